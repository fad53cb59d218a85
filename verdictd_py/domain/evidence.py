"""Evidence as a peer presents it, and the results of verifiers.

The terms are those of RATS (RFC 9334): a peer *presents* evidence, a verifier *verifies* it with
collateral and endorsements, the appraiser *appraises* the claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from verdictd_py.domain.tcb import TcbComparison
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import AttestationError, Reason

REPORT_DATA_BYTES: Final = 64
"""Size of the data that a guest includes in its signed evidence, in every known TEE."""

MAX_QUOTE_BYTES: Final = 64 * 1024
"""Maximum size of a quote. Real quotes have 4 to 8 KiB; larger certificates are refused anyway."""

NO_TEE: Final = "none"
"""Name of the TEE of guests that are accepted without evidence (`nullverifier`)."""

DEVICES: Final = "unverifiedDevices"
"""Claim with the kinds of further devices, if any, whose evidence the broker does not verify."""


@dataclass(frozen=True, slots=True)
class InitData:
    """Configuration that the host gave a guest at its start, as the guest sends it.

    Attributes:
        form: format of the document, `toml` or `json`.
        body: the document; the digest is computed over every character of it.
    """

    form: str
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence that one peer presents about itself, not verified yet.

    Attributes:
        tee: name of the TEE that the peer claims; its verifier is looked up by this name.
        quote: the signed evidence, at most `MAX_QUOTE_BYTES`, possibly with padding.
        binding: bytes that REPORTDATA must begin with, so that the evidence is bound to the
            peer's key; None if there is no channel (a quote appraised offline). Evidence
            without a binding never becomes a peer.
        other_bindings: further accepted bindings, for a protocol that does not define the order
            in which parts are hashed; REPORTDATA may begin with one of these instead.
        form: form in which a protocol carried it, for the operator (`rats-tls tag 60000`).
        endorsements: the vendor's certificates and lists that the peer sent, in a type of the
            TEE's own, or None. The peer chose them.
        event_log: log of what was measured at boot, None if the peer sent none. Only its replay
            proves it.
        init_data: configuration that the host gave the guest, None if the peer sent none. Only
            its digest proves it.
        devices: kinds of further devices whose evidence the peer sent. It is not verified.
    """

    tee: str
    quote: bytes = field(repr=False)
    binding: bytes | None = field(repr=False)
    form: str
    endorsements: object | None = field(default=None, repr=False)
    event_log: bytes | None = field(default=None, repr=False)
    init_data: InitData | None = field(default=None, repr=False)
    devices: tuple[str, ...] = ()
    other_bindings: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Claims of evidence whose signatures were verified up to the trusted root.

    Attributes:
        tee: name of the TEE.
        report_data: the 64 bytes of REPORTDATA in the signed evidence.
        claims: input of the policy; the TEE defines names and forms.
        tcb_status: the vendor's rating of the platform (`UpToDate`); None for a TEE without one,
            or if the verifier refused the evidence before it was known.
        advisory_ids: the vendor's security advisories that apply to the platform.
        digest: SHA-256 of the quote without padding, in lower-case hex.
        faults: reasons to refuse the guest whatever the policy says (debug TDs, reserved
            attributes, a revoked TCB); empty if there are none. A guest with a fault is refused
            before the policy is evaluated.
        valid_until: when collateral with which it was verified expires, so that it has to be
            verified again; None if nothing of it expires.
        platform: identifies the machine; equal for all its guests, and a digest, so that it can
            be logged. Connections are counted under it; no policy sees it. None if the evidence
            identifies no machine.
        collateral: SHA-256 digest of the collateral with which it was verified, in lower-case
            hex; None if none was needed, or if it is not known.
        tcb: every component of the platform next to the TCB levels, for operators; None if the
            vendor has none, or if it is not known.
    """

    tee: str
    report_data: bytes = field(repr=False)
    claims: Mapping[str, JsonValue] = field(repr=False)
    tcb_status: str | None
    advisory_ids: tuple[str, ...]
    digest: str
    faults: tuple[Reason, ...] = ()
    valid_until: datetime | None = None
    platform: str | None = None
    collateral: str | None = None
    tcb: TcbComparison | None = None


@dataclass(frozen=True, slots=True)
class RefusedEvidence:
    """Evidence that a verifier refuses although its own signatures verified.

    Examples are expired collateral and a revoked certificate. The claims are for the operator
    only: they never reach a policy at connect time.

    Attributes:
        refusal: why the evidence is refused.
        verified: the claims that the signatures of the evidence cover.
    """

    refusal: AttestationError
    verified: VerifiedEvidence


VerificationResult = VerifiedEvidence | RefusedEvidence
"""Result of a verifier. For evidence whose signatures do not verify, it raises instead."""
