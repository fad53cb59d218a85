"""Parser of Intel's quotes, versions 3 to 5. It verifies nothing.

Source of all offsets: Intel, "TDX DCAP Quoting Library API", appendix A.3 (versions 4 and
5) and "SGX ECDSA Quote Library Reference", appendix A (version 3). Integers are
little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import Final

from verdictd_py.domain.evidence import MAX_QUOTE_BYTES
from verdictd_py.errors import EvidenceFormat

TDX: Final = "tdx"
SGX: Final = "sgx"
TEES: Final = (TDX, SGX)

HEADER_BYTES: Final = 48
_TEE_TYPES: Final = {0x00: SGX, 0x81: TDX}  # header, offset 4
_INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # header, offset 12
_KEY_TYPE_P256: Final = 2  # header, offset 2: ECDSA-256-with-P-256
_REPORT_BYTES: Final = 384  # an SGX report body, also that of the quoting enclave
_CERT_PCK_CHAIN: Final = 5  # certification data: PEM chain of the PCK certificate
_CERT_WITHOUT_PCK: Final = (1, 2, 3)  # the platform's id in place of its certificate
_CERT_QE_REPORT: Final = 6  # certification data: QE report, with nested certification data


class BodyKind(IntEnum):
    """Kind of a report body; the values are those of the version 5 body descriptor."""

    SGX = 1
    TD10 = 2
    TD15 = 3
    TD15_EXTENDED = 4


_BODY_BYTES: Final = {
    BodyKind.SGX: _REPORT_BYTES,
    BodyKind.TD10: 584,
    BodyKind.TD15: 648,  # TD 1.0 followed by TEE_TCB_SVN_2 and MRSERVICETD
    BodyKind.TD15_EXTENDED: 885,  # TD 1.5 followed by fields of service TDs
}


@dataclass(frozen=True)
class Quote:
    """A parsed quote.

    Attributes:
        version: 3, 4 or 5.
        tee: `TDX` or `SGX`, as the header says.
        kind: kind of report body.
        raw: the quote without trailing padding.
        signed: the bytes that the attestation key signs: header, body descriptor, body.
        body: the report body.
        signature: r and s over `signed`, 64 bytes.
        attestation_key: x and y of a P-256 key, 64 bytes.
        qe_report: the quoting enclave's own report, 384 bytes.
        qe_report_signature: r and s over `qe_report` by the PCK, 64 bytes.
        qe_auth_data: hashed with the attestation key into the QE's report data.
        pck_chain: PEM, leaf first, possibly ending in NUL bytes.
    """

    version: int
    tee: str
    kind: BodyKind
    raw: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    body: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    attestation_key: bytes = field(repr=False)
    qe_report: bytes = field(repr=False)
    qe_report_signature: bytes = field(repr=False)
    qe_auth_data: bytes = field(repr=False)
    pck_chain: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the quote without padding, in lower-case hex."""
        return sha256(self.raw).hexdigest()


class _Reader:
    """Reader of consecutive fields; raises `EvidenceFormat` where the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        if size > len(self._data) - self.at:
            raise EvidenceFormat(f"the quote ends inside its {what}")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")


def tee_of_quote(quote: bytes) -> str:
    """Return `TDX` or `SGX`, as the header of a quote says.

    Raises:
        EvidenceFormat: the quote is too short for a header, or has an unknown TEE type.
    """
    if len(quote) < HEADER_BYTES:
        raise EvidenceFormat("the quote is shorter than its header of 48 bytes")
    kind = int.from_bytes(quote[4:8], "little")
    if kind not in _TEE_TYPES:
        raise EvidenceFormat(f"the quote names an unknown TEE type {kind:#x}")
    return _TEE_TYPES[kind]


def parse_quote(data: bytes) -> Quote:
    """Parse a quote.

    Padding after the stated length is ignored: five of eight examined real quotes have it.
    It is tolerated only here.

    Args:
        data: a quote, at most `MAX_QUOTE_BYTES`, possibly followed by padding.

    Raises:
        EvidenceFormat: the quote is too long, truncated, or of a kind that is not served.
    """
    if len(data) > MAX_QUOTE_BYTES:
        raise EvidenceFormat(f"the quote is longer than {MAX_QUOTE_BYTES} bytes")
    tee = tee_of_quote(data)
    reader = _Reader(data)
    version = _read_header(reader)
    kind = _read_kind(reader, version, tee)
    body = reader.take(_BODY_BYTES[kind], "report body")
    signed_to = reader.at
    signature_size = reader.number(4, "signature length")
    signature_data = reader.take(signature_size, "signature data")
    parts = _Reader(signature_data)
    signature = parts.take(64, "signature")
    attestation_key = parts.take(64, "attestation key")
    if version > 3:  # versions 4 and 5 nest the fields that follow, version 3 does not
        parts = _Reader(_certification(parts, _CERT_QE_REPORT))
    return Quote(
        version=version,
        tee=tee,
        kind=kind,
        raw=data[: reader.at],
        signed=data[:signed_to],
        body=body,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=parts.take(_REPORT_BYTES, "QE report"),
        qe_report_signature=parts.take(64, "QE report signature"),
        qe_auth_data=parts.take(parts.number(2, "QE authentication data"), "QE authentication"),
        pck_chain=_certification(parts, _CERT_PCK_CHAIN),
    )


def _read_header(reader: _Reader) -> int:
    """Read the header and return the version.

    Raises:
        EvidenceFormat: version, key type or vendor is not served.
    """
    version = reader.number(2, "header")
    key_type = reader.number(2, "header")
    reader.take(8, "header")  # TEE type, read by the caller; reserved or SVNs
    vendor = reader.take(16, "header")
    reader.take(20, "header")  # user data: the QE's id
    if version not in (3, 4, 5):
        raise EvidenceFormat(f"quotes of version {version} are not served, 3 to 5 are")
    if key_type != _KEY_TYPE_P256:
        raise EvidenceFormat(
            f"attestation keys of type {key_type} are not served, only ECDSA P-256"
        )
    if vendor != _INTEL_QE_VENDOR:
        raise EvidenceFormat("the quote is not from Intel's quoting enclave")
    return version


def _read_kind(reader: _Reader, version: int, tee: str) -> BodyKind:
    """Return the kind of body; version 5's descriptor must agree with the header's TEE type."""
    if version == 5:
        number = reader.number(2, "body descriptor")
        size = reader.number(4, "body descriptor")
        try:
            kind = BodyKind(number)
        except ValueError:
            raise EvidenceFormat(f"report bodies of type {number} are not served") from None
        if size != _BODY_BYTES[kind]:
            raise EvidenceFormat(f"a report body of type {number} cannot have {size} bytes")
    else:
        kind = BodyKind.SGX if tee == SGX else BodyKind.TD10
    if (kind is BodyKind.SGX) != (tee == SGX) or (version == 3 and tee != SGX):
        raise EvidenceFormat(f"a version {version} quote for {tee} cannot carry this report body")
    return kind


def _certification(reader: _Reader, wanted: int) -> bytes:
    """Return certification data, which must be of the wanted type."""
    sent = reader.number(2, "certification data")
    if sent in _CERT_WITHOUT_PCK:
        raise EvidenceFormat(
            f"the guest's host had no PCK certificate (certification data of type {sent}): its "
            "PCCS is not set up, or the machine is not registered"
        )
    if sent != wanted:
        raise EvidenceFormat(
            f"certification data of type {sent} is not served, the quote must carry type {wanted}"
            + (" (the PCK certificate chain)" if wanted == _CERT_PCK_CHAIN else "")
        )
    return reader.take(reader.number(4, "certification data"), "certification data")
