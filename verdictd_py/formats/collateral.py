"""Reader and writer of Intel's collateral as guests carry it in their certificates.

Intel signs collateral, but a guest chooses what it sends. Nothing is verified here.

Source: wire-rats-tls.md, "Endorsements"; the structure of quote verification collateral in
Intel's "DCAP Quoting Library API", for the versions.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from verdictd_py.errors import EvidenceFormat
from verdictd_py.formats import cbor, der

_CRLS_PEM: Final = 0x0000_0001  # in Intel's structure: major | minor << 16
_CRLS_HEX: Final = 0x0000_0003
_CRLS_DER: Final = 0x0001_0003

_ENTRIES: Final = (8, 9)  # rats-tls dice.c; the ninth, a creation time, was never written

_PEM_CRL: Final = re.compile(
    r"\s*-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]*)-----END X509 CRL-----\s*"
)
# Intel signed exactly the bytes between the member's name and the signature.
_ANSWER: Final = r'\s*\{\s*"%s"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*"([0-9A-Fa-f]{128})"\s*\}\s*'
_TCB_INFO: Final = re.compile(_ANSWER % "tcbInfo", re.DOTALL)
_QE_IDENTITY: Final = re.compile(_ANSWER % "enclaveIdentity", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Collateral:
    """Intel's QuoteCollateralV3: what a verifier needs in addition to the quote.

    Chains are PEM text, CRLs are DER, signatures are 64 raw bytes (r and s), and the two
    JSON texts are exactly what Intel signed.
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


def read(value: bytes, *, tag: int) -> Collateral:
    """Read the endorsements extension; bytes after the CBOR item are padding.

    1. The tag must be that of the evidence: one build of rats-tls writes both.
    2. There are eight or nine entries; the first one says how the CRLs are encoded.
    3. Texts may end in a NUL, which is removed; CRLs are converted to DER.
    4. Intel's answers are split into the signed text and its signature.

    Args:
        value: content of the extension.
        tag: tag of the evidence in the same certificate.

    Raises:
        EvidenceFormat: one of these steps failed.
    """
    reader = cbor.Reader(value, "the contents of the endorsements extension")
    # 1.
    if (own_tag := reader.tag()) != tag:
        raise EvidenceFormat(f"the endorsements have the tag {own_tag:#x}, the evidence {tag:#x}")
    # 2.
    entries = reader.array()
    if entries not in _ENTRIES:
        raise EvidenceFormat(f"the endorsements have {entries} entries instead of 8 or 9")
    version = reader.unsigned()
    if version not in _CRL_READERS:
        raise EvidenceFormat(f"the endorsements have the unknown version {version:#x}")
    read_crl = _CRL_READERS[version]
    tcb_info, tcb_chain, pck_crl, root_crl, pck_chain, qe_identity, qe_chain = (
        reader.byte_string() for _ in range(7)
    )
    if entries == _ENTRIES[1]:
        reader.byte_string()
    # 3. and 4.
    tcb_text, tcb_signature = _split(_TCB_INFO, tcb_info)
    qe_text, qe_signature = _split(_QE_IDENTITY, qe_identity)
    return Collateral(
        pck_crl_issuer_chain=_text(pck_chain),
        root_ca_crl=read_crl(root_crl),
        pck_crl=read_crl(pck_crl),
        tcb_info_issuer_chain=_text(tcb_chain),
        tcb_info=tcb_text,
        tcb_info_signature=tcb_signature,
        qe_identity_issuer_chain=_text(qe_chain),
        qe_identity=qe_text,
        qe_identity_signature=qe_signature,
    )


def write(collateral: Collateral, *, tag: int) -> bytes:
    """Write endorsements as guests do: eight entries, CRLs in DER, texts that end in a NUL."""

    def answer(name: str, text: str, signature: bytes) -> bytes:
        return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'.encode()

    tcb_info = answer("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)
    qe_identity = answer(
        "enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature
    )
    entries = (
        tcb_info + b"\0",
        collateral.tcb_info_issuer_chain.encode() + b"\0",
        collateral.pck_crl,
        collateral.root_ca_crl,
        collateral.pck_crl_issuer_chain.encode() + b"\0",
        qe_identity + b"\0",
        collateral.qe_identity_issuer_chain.encode() + b"\0",
    )
    items = (cbor.unsigned32(_CRLS_DER), *map(cbor.byte_string, entries))
    return cbor.tagged(tag, cbor.array(*items))


def _text(value: bytes) -> str:
    try:
        return value.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvidenceFormat("the endorsements have text that is not UTF-8") from error


def _split(pattern: re.Pattern[str], value: bytes) -> tuple[str, bytes]:
    """Return the signed text and the signature in one of Intel's answers."""
    match = pattern.fullmatch(_text(value))
    if match is None:
        raise EvidenceFormat("the endorsements have an answer that is not Intel's")
    return match[1], bytes.fromhex(match[2])


def _der_crl(value: bytes) -> bytes:
    """Return the CRL without the NUL bytes that may follow it."""
    reader = der.Reader(value, "a CRL of the endorsements")
    crl = reader.element(der.SEQUENCE)
    if reader.rest.strip(b"\0"):
        raise EvidenceFormat("a CRL of the endorsements is followed by other bytes")
    return crl


def _hex_crl(value: bytes) -> bytes:
    try:
        return _der_crl(bytes.fromhex(_text(value)))
    except ValueError as error:
        raise EvidenceFormat("a CRL of the endorsements is not hexadecimal") from error


def _pem_crl(value: bytes) -> bytes:
    match = _PEM_CRL.fullmatch(_text(value))
    if match is None:
        raise EvidenceFormat("a CRL of the endorsements is not PEM")
    try:
        return _der_crl(base64.b64decode("".join(match[1].split()), validate=True))
    except binascii.Error as error:
        raise EvidenceFormat("a CRL of the endorsements is not PEM") from error


_CRL_READERS: Final[dict[int, Callable[[bytes], bytes]]] = {
    _CRLS_PEM: _pem_crl,
    _CRLS_HEX: _hex_crl,
    _CRLS_DER: _der_crl,
}
