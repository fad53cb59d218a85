"""Certificates for tests: genuine ones, and any other shape on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import cbor2
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support import vectors
from tests.support.tees import TEES
from verdictd_py.domain.evidence import Evidence
from verdictd_py.formats.collateral import Collateral
from verdictd_py.protocols.ratstls import certificate as certificates
from verdictd_py.protocols.ratstls.issue import Form, PrivateKey, issue

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)

DICE: Final = "2.23.133.5.4.9"
ENDORSEMENTS: Final = "2.23.133.5.4.2"
VENDOR: Final = "1.2.840.113741.1337."
GARBAGE: Final = b"\xbf\x9f\xff\xd9heap"

FORMS: Final[list[Form]] = [form for form in Form if form is not Form.NULL]
CBOR_FORMS: Final[list[Form]] = [form for form in FORMS if form is not Form.LEGACY]
CLAIM_FORMS: Final[list[Form]] = [Form.CUSTOM_V4, Form.INTERIM, Form.CRITICAL, Form.CURRENT]

Extensions = Sequence[tuple[str, bool, bytes]]
"""OID, critical, value of each."""


def vector(name: str) -> bytes:
    """Return a certificate of the C library rats-tls, or its collateral."""
    return vectors.vector(f"rats-tls/{name}").read_bytes()


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """One of several P-256 keys."""
    del number
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_der(key: PrivateKey) -> bytes:
    """PKCS#8."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def quote_for(report_data: bytes, *, tee_type: int = 0x81) -> bytes:
    """4 KiB with the header and the REPORTDATA of a TDX quote v4 (tdx.md)."""
    assert len(report_data) == 64
    header = b"\x04\0\x02\0" + tee_type.to_bytes(4, "little")
    return (header.ljust(568, b"\x11") + report_data).ljust(4096, b"\x22")


def report_data(quote: bytes) -> bytes:
    return quote[568:632]


def make(form: Form, key: PrivateKey | None = None, **options: Any) -> bytes:
    """A genuine certificate of `form`; the options are those of `issue`."""
    quotes = None if form is Form.NULL else quote_for
    return issue(form, key=key or ec_key(), quote_for=quotes, now=NOW, **options)


def self_signed(
    extensions: Extensions,
    *,
    key: PrivateKey | None = None,
    begin: datetime = NOW - timedelta(hours=1),
    end: datetime = NOW + timedelta(days=365),
) -> bytes:
    """A certificate with any extensions."""
    key = key or ec_key()
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for oid, critical, value in extensions:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(unknown, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def extensions_of(certificate: bytes) -> dict[str, tuple[bool, bytes]]:
    """Evidence and endorsements by OID, as another library reads them."""
    return {
        entry["extn_id"].dotted: (entry["critical"].native, entry["extn_value"].contents)
        for entry in asn1.Certificate.load(certificate)["tbs_certificate"]["extensions"]
        if not entry["extn_id"].dotted.startswith("2.5.29.")
    }


def claims_of(pubkey_hash: bytes, others: Mapping[str, bytes] | None = None) -> bytes:
    return cbor2.dumps({"pubkey-hash": pubkey_hash, **(others or {})})


def with_claims(claims: object, *, tag: int = 60000, behind: bytes = b"") -> bytes:
    """A certificate of the second generation around `claims`, whatever they are."""
    quote = quote_for(bytes(64))
    value = cbor2.dumps(cbor2.CBORTag(tag, [quote, claims])) + behind
    return self_signed([(DICE, False, value)])


def sequence(content: bytes) -> bytes:
    """A DER SEQUENCE of 128 to 255 bytes of content: what stands for a CRL."""
    return b"\x30\x81" + bytes([len(content)]) + content


def collateral() -> Collateral:
    """Collateral of the right shape; nothing in it verifies."""
    return Collateral(
        pck_crl_issuer_chain="-----BEGIN CERTIFICATE-----\npck\n-----END CERTIFICATE-----\n",
        root_ca_crl=sequence(b"\x05\0" * 80 + b"\0\0"),  # ends in NULs of its own
        pck_crl=sequence(b"\x05\0" * 90),
        tcb_info_issuer_chain="-----BEGIN CERTIFICATE-----\ntcb\n-----END CERTIFICATE-----\n",
        tcb_info='{"id":"TDX", "signature" : "not this one", "n":{"a":[{}]}}',
        tcb_info_signature=bytes(range(64)),
        qe_identity_issuer_chain="-----BEGIN CERTIFICATE-----\nqe\n-----END CERTIFICATE-----\n",
        qe_identity='{"id":"TD_QE","version":2}',
        qe_identity_signature=bytes(range(64, 128)),
    )


def read(der: bytes, now: datetime) -> Evidence:
    """Return the evidence in a certificate, as the broker reads it."""
    return certificates.read(der, TEES, now=now)
