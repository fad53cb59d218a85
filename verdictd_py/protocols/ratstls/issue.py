"""Issuer of certificates in the form of each generation of rats-tls.

The reference guest, tests, and the broker's own identity use it.

Source: wire-rats-tls.md, "Client certificates, oldest first" and "Padding".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from verdictd_py.domain.evidence import REPORT_DATA_BYTES
from verdictd_py.formats import der
from verdictd_py.formats.collateral import Collateral
from verdictd_py.formats.collateral import write as write_endorsements
from verdictd_py.protocols.ratstls import dice

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

BACKDATED: Final = timedelta(hours=1)  # wire-rats-tls.md: "notBefore one hour ago"
LIFETIME: Final = timedelta(days=365)  # the same: "one year"

_SUBJECT: Final = x509.Name(  # the same, in this order
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Inclavare Containers"),
        x509.NameAttribute(NameOID.COMMON_NAME, "RATS-TLS"),
    ]
)
_SERIAL: Final = 1  # the same
_V3: Final = 2  # RFC 5280, 4.1.2.1: the INTEGER of X.509 v3
_V4: Final = 3  # what rats-tls wrote before cf464bb

GUIDE_OID: Final = "1.2.840.113741.1337.8"
"""Extension in which the guide's guests carry their evidence."""


class Form(StrEnum):
    """Form of a certificate with evidence, oldest first; each is one row of the source's table.

    Until cf464bb, the two "v4" forms were written with the version INTEGER 3; the same forms
    with 2 followed.
    """

    LEGACY = "legacy"  # until 5de6fc3, and the packaged 0.6.4: raw quote under a vendor's OID
    BARE_V4 = "dice-bare-v4"  # from 8fbfdb6: 0x1a7501([quote]), critical
    BARE = "dice-bare"
    CUSTOM_V4 = "dice-custom-v4"  # the same with custom claims: 0x1a7501([quote, claims])
    INTERIM = "dice-interim"  # from 15724cf, and before it for custom claims
    CRITICAL = "dice-critical"  # from defec92: 60000([quote, claims]), critical
    CURRENT = "dice"  # 2378719 to HEAD: not critical
    NULL = "null"  # the null attester: no evidence


@dataclass(frozen=True, slots=True)
class _Shape:
    """Properties that distinguish a form. `tag` is None for forms without CBOR."""

    version: int
    tag: int | None
    critical: bool
    claims: bool


_SHAPES: Final = {
    Form.LEGACY: _Shape(_V4, None, critical=False, claims=False),
    Form.BARE_V4: _Shape(_V4, dice.INTERIM_TAG, critical=True, claims=False),
    Form.BARE: _Shape(_V3, dice.INTERIM_TAG, critical=True, claims=False),
    Form.CUSTOM_V4: _Shape(_V4, dice.INTERIM_TAG, critical=True, claims=True),
    Form.INTERIM: _Shape(_V3, dice.INTERIM_TAG, critical=True, claims=True),
    Form.CRITICAL: _Shape(_V3, dice.TCG_TAG, critical=True, claims=True),
    Form.CURRENT: _Shape(_V3, dice.TCG_TAG, critical=False, claims=True),
    Form.NULL: _Shape(_V3, None, critical=False, claims=False),
}


def issue(  # noqa: PLR0913  # what differs between guests, all by keyword
    form: Form,
    *,
    key: PrivateKey,
    quote_for: Callable[[bytes], bytes] | None,
    now: datetime,
    lifetime: timedelta = LIFETIME,
    endorsements: Collateral | None = None,
    claims: Mapping[str, bytes] | None = None,
    garbage: bytes = b"",
    oid: str = GUIDE_OID,
    tag: int | None = None,
) -> bytes:
    """Issue a self-signed certificate with evidence for its key.

    Args:
        key: P-256, or RSA of 2048 bits or more; the evidence covers its public part.
        quote_for: returns evidence with the given REPORTDATA (64 bytes); None for
            `Form.NULL`, which has no evidence.
        now: aware time; the certificate is valid from an hour before it.
        lifetime: from `now` to the end of its validity.
        endorsements: collateral to send along; only in forms with CBOR.
        claims: nonce and custom claims; only in forms with claims.
        garbage: bytes of uninitialised memory that guests with libcbor before 0.10 send after
            each CBOR buffer, repeated as needed; empty for buffers without padding.
        oid: extension of `Form.LEGACY`, which differs between TEEs.
        tag: tag that replaces the form's, for TEEs with a tag of their own.

    Returns:
        DER.

    Raises:
        ValueError: the form cannot carry one of the arguments.
    """
    shape = _SHAPES[form]
    if tag is not None and shape.tag is not None:
        shape = replace(shape, tag=tag)
    if (form is Form.NULL) != (quote_for is None):
        raise ValueError("the null attester has no quotes, and every other form needs one")
    if (claims and not shape.claims) or (endorsements and shape.tag is None):
        raise ValueError(f"the form {form} cannot carry these claims or endorsements")
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    extensions = []
    if quote_for is not None:
        extensions.append(_evidence(shape, spki, quote_for, claims or {}, garbage, oid))
    if endorsements is not None and shape.tag is not None:
        value = _padded(write_endorsements(endorsements, tag=shape.tag), garbage)
        extensions.append((dice.ENDORSEMENTS_OID, value))
    builder = _builder(key, now, now + lifetime)
    for dotted, value in extensions:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), value)
        builder = builder.add_extension(unknown, critical=shape.critical)
    certificate = builder.sign(key, hashes.SHA256())
    if shape.version == _V3:
        return certificate.public_bytes(Encoding.DER)
    return _resigned(certificate, key, shape.version)


def _evidence(
    shape: _Shape,
    spki: bytes,
    quote_for: Callable[[bytes], bytes],
    claims: Mapping[str, bytes],
    garbage: bytes,
    oid: str,
) -> tuple[str, bytes]:
    """Return the OID and the value of the extension with the evidence."""
    if shape.tag is None:
        quote = quote_for(_report_data(hashlib.sha256(spki).digest()))
        return oid, quote
    buffer = None
    if shape.claims:
        pubkey_hash = _padded(dice.write_pubkey_hash(spki), garbage)
        buffer = _padded(dice.write_claims(pubkey_hash, claims), garbage)
    quote = quote_for(_report_data(dice.binding_of(buffer, spki)))
    evidence = dice.write_evidence(dice.DiceEvidence(shape.tag, quote, buffer))
    return dice.EVIDENCE_OID, _padded(evidence, garbage)


def _report_data(binding: bytes) -> bytes:
    return binding.ljust(REPORT_DATA_BYTES, b"\0")


def _padded(buffer: bytes, garbage: bytes) -> bytes:
    """Return a CBOR buffer with its allocated size, a power of two as libcbor allocates it."""
    if not garbage:
        return buffer
    missing = (1 << (len(buffer) - 1).bit_length()) - len(buffer)
    return buffer + (garbage * (missing // len(garbage) + 1))[:missing]


def _builder(key: PrivateKey, now: datetime, end: datetime) -> x509.CertificateBuilder:
    """Return a builder of the certificate without evidence, extensions in rats-tls's order."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .serial_number(_SERIAL)
        .subject_name(_SUBJECT)
        .issuer_name(_SUBJECT)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )


def _resigned(certificate: x509.Certificate, key: PrivateKey, version: int) -> bytes:
    """Return the DER of the certificate with another version INTEGER, signed again."""
    tbs = der.with_version(certificate.tbs_certificate_bytes, version)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    original = der.Reader(certificate.public_bytes(Encoding.DER), "the certificate").inner(
        der.SEQUENCE
    )
    original.content(der.SEQUENCE)
    algorithm = original.element(der.SEQUENCE)
    # The first byte of a BIT STRING says how many bits of the last one are unused: none.
    return der.encode(der.SEQUENCE, tbs, algorithm, der.encode(der.BIT_STRING, b"\0", signature))
