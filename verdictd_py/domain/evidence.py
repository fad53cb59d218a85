"""Evidence as a peer presents it, and what a verifier makes of it.

Names are RATS's (RFC 9334): a peer *presents* evidence, a verifier *verifies* it with
collateral and endorsements, the appraiser *appraises* the claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvidenceFormat, Reason

REPORT_DATA_BYTES: Final = 64
"""REPORTDATA of SGX and TDX reports (tdx.md, offset 568)."""

MAX_QUOTE_BYTES: Final = 64 * 1024
"""Real quotes are 4 to 8 KiB; a certificate that could carry more is refused anyway."""


class Tee(StrEnum):
    """Kind of trusted execution environment; values are those of RCAR's `tee`."""

    TDX = "tdx"
    SGX = "sgx"
    SGX_LOCAL = "sgx-local"
    SEV_SNP = "snp"
    SEV = "sev"
    CSV = "csv"
    SAMPLE = "sample"
    NONE = "none"


TDX_MEASUREMENTS: Final = (
    "mrTd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mrSeam",
    "mrSignerSeam",
    "mrConfigId",
    "mrOwner",
    "mrOwnerConfig",
)
SGX_MEASUREMENTS: Final = ("mrEnclave", "mrSigner")


def measurements(tee: Tee) -> tuple[str, ...]:
    """Claims that say what the guest runs, and that reference data pins; none for other TEEs."""
    return {Tee.TDX: TDX_MEASUREMENTS, Tee.SGX: SGX_MEASUREMENTS}.get(tee, ())


DEVICES: Final = "unverifiedDevices"
"""Claim: kinds of further devices whose evidence nobody here verifies, where there are any."""


_TEE_TYPES: Final = {0x00: Tee.SGX, 0x81: Tee.TDX}  # quote header, offset 4


def tee_of_quote(quote: bytes) -> Tee:
    """TEE that an Intel quote says it comes from.

    Source: "TDX DCAP Quoting Library API", appendix A.3: u32 little-endian at offset 4.

    Raises:
        EvidenceFormat: too short for a header, or an unknown type.
    """
    if len(quote) < 48:  # size of the header
        raise EvidenceFormat("the quote is shorter than its header of 48 bytes")
    kind = int.from_bytes(quote[4:8], "little")
    try:
        return _TEE_TYPES[kind]
    except KeyError:
        raise EvidenceFormat(f"the quote names an unknown TEE type {kind:#x}") from None


@dataclass(frozen=True, slots=True)
class Collateral:
    """Intel's QuoteCollateralV3: what is needed to verify a quote, beside the quote.

    Chains are PEM text, CRLs DER bytes, signatures 64 raw bytes (r and s), the two JSON
    texts exactly what was signed.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes


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
        tee: kind of TEE the peer claims; a verifier for it is looked up by this.
        quote: the signed evidence, at most `MAX_QUOTE_BYTES`, possibly with padding.
        binding: what REPORTDATA must begin with for the evidence to vouch for the
            peer's key, or None where there is no channel to bind to (a raw quote
            judged offline). Evidence without binding never becomes a peer.
        other_bindings: the same in other spellings, where a protocol leaves open in which
            order its parts are hashed; REPORTDATA may begin with one of these instead.
        form: how it was carried, for the operator (`rats-tls tag 60000`).
        endorsements: collateral the peer brought along, if any: chosen by the peer.
        event_log: what was measured at boot, if the peer says so: proved by replay only.
        init_data: configuration that the host gave the guest, if the peer shows it: proved
            by its digest only.
        devices: further devices that the peer shows evidence of, which nobody here verifies.
    """

    tee: Tee
    quote: bytes = field(repr=False)
    binding: bytes | None = field(repr=False)
    form: str
    endorsements: Collateral | None = field(default=None, repr=False)
    event_log: bytes | None = field(default=None, repr=False)
    init_data: InitData | None = field(default=None, repr=False)
    devices: tuple[str, ...] = ()
    other_bindings: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """Claims whose signature chain was verified up to the trusted root.

    Attributes:
        tee: kind of TEE.
        report_data: the 64 bytes the guest had signed.
        claims: policy input, names and shapes as in tdx.md (`mrTd`, `tcbStatus`, ...).
        tcb_status: Intel's spelling (`UpToDate`), or None where the verifier refused
            before it could be told.
        advisory_ids: Intel's (`INTEL-SA-00615`).
        digest: SHA-256 over the signed length of the quote, lower-case hex.
        faults: what the verifier itself refuses whatever the policy says (debug TDs,
            reserved attributes, a revoked TCB); empty where it refuses nothing.
    """

    tee: Tee
    report_data: bytes = field(repr=False)
    claims: Mapping[str, JsonValue] = field(repr=False)
    tcb_status: str | None
    advisory_ids: tuple[str, ...]
    digest: str
    faults: tuple[Reason, ...] = ()
