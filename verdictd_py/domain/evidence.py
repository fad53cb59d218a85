"""Evidence as a peer presents it, and the results of verifiers.

Names are RATS's (RFC 9334): a peer *presents* evidence, a verifier *verifies* it with
collateral and endorsements, the appraiser *appraises* the claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import AttestationError, Reason

REPORT_DATA_BYTES: Final = 64
"""Data that a guest has signed with its evidence, in every TEE that is known."""

MAX_QUOTE_BYTES: Final = 64 * 1024
"""Real quotes are 4 to 8 KiB; a certificate that could carry more is refused anyway."""


NO_TEE: Final = "none"
"""Name in place of a TEE's for guests that are accepted without evidence (`nullverifier`)."""

DEVICES: Final = "unverifiedDevices"
"""Claim: kinds of further devices whose evidence nobody here verifies, where there are any."""


@dataclass(frozen=True, slots=True)
class InitData:
    """Configuration that the host gave a guest at its start, as the guest shows it.

    Attributes:
        form: how to read it, `toml` or `json`.
        body: the document, every character of which is in the digest.
    """

    form: str
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one peer presents about itself, before anything of it is believed.

    Attributes:
        tee: name of the TEE that the peer claims; its verifier is looked up by this name.
        quote: the signed evidence, at most `MAX_QUOTE_BYTES`, possibly with padding.
        binding: what REPORTDATA must begin with for the evidence to vouch for the
            peer's key, or None where there is no channel to bind to (a raw quote
            appraised offline). Evidence without binding never becomes a peer.
        other_bindings: the same in other spellings, where a protocol leaves open in which
            order its parts are hashed; REPORTDATA may begin with one of these instead.
        form: how it was carried, for the operator (`rats-tls tag 60000`).
        endorsements: the vendor's certificates and lists that the peer sent, in a type of the
            TEE's own, or None. The peer chose them.
        event_log: what was measured at boot, if the peer says so: proved by replay only.
        init_data: configuration that the host gave the guest, if the peer shows it: proved
            by its digest only.
        devices: further devices that the peer shows evidence of, which nobody here verifies.
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
    """Claims whose signature chain was verified up to the trusted root.

    Attributes:
        tee: name of the TEE.
        report_data: the 64 bytes the guest had signed.
        claims: policy input; the TEE defines names and forms.
        tcb_status: the vendor's verdict about the platform (`UpToDate`), or None for a TEE
            without one, and where the verifier refused before it was known.
        advisory_ids: the vendor's security advisories that apply to the platform.
        digest: SHA-256 over the signed length of the quote, lower-case hex.
        faults: what the verifier refuses whatever the policy says (debug TDs, reserved
            attributes, a revoked TCB), each with its `ReasonKind`; empty if it refuses nothing.
            A guest with a fault is refused before the policy is evaluated.
    """

    tee: str
    report_data: bytes = field(repr=False)
    claims: Mapping[str, JsonValue] = field(repr=False)
    tcb_status: str | None
    advisory_ids: tuple[str, ...]
    digest: str
    faults: tuple[Reason, ...] = ()


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
"""Result of a verifier; evidence whose signatures do not verify has none, it raises."""
