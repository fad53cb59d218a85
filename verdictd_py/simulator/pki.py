"""The simulated platform's certificates: root, PCK CA, PCK leaf, TCB signing; and CRLs.

Shapes follow Intel's "SGX PCK Certificate and Certificate Revocation List Profile
Specification"; every subject says that it is simulated. All keys are P-256, as Intel's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

PckCa = Literal["platform", "processor"]
"""CA that issues a PCK certificate; the parameter `ca` of Intel's PCS."""

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"  # PCK profile, "SGX Extensions"
_SGX_EXTENSION_DER: Final = bytes.fromhex("2a864886f84d010d01")  # the same, DER content

_ORGANIZATION: Final = "verdictd-py simulator, not Intel"
_CA_NAMES: Final = {
    # Intel's names with one word changed: verifiers look for "Platform" or "Processor".
    "platform": "Simulated SGX PCK Platform CA",
    "processor": "Simulated SGX PCK Processor CA",
}
_COORDINATE_BYTES: Final = 32  # P-256


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with the certificate over its public key."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def as_json(self) -> dict[str, str]:
        """Return key and certificate as PEM; the result is secret."""
        return {"key": key_to_pem(self.key), "certificate": self.pem}

    @classmethod
    def from_json(cls, members: dict[str, str]) -> Self:
        """Construct a signer from the result of `as_json`.

        Raises:
            ValueError, TypeError, KeyError: a member is missing or malformed.
        """
        certificate = x509.load_pem_x509_certificate(members["certificate"].encode("ascii"))
        return cls(key_from_pem(members["key"]), certificate)


@dataclass(frozen=True, slots=True)
class Validity:
    """A validity period: its first and last moment, as aware times.

    Raises:
        ValueError: one of them has no time zone.
    """

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_before.utcoffset() is None or self.not_after.utcoffset() is None:
            raise ValueError("times of the simulator need a time zone")


@dataclass(frozen=True, slots=True)
class PckIdentity:
    """Identity of a platform in its PCK certificate (PCK profile, "SGX Extensions").

    Attributes:
        ppid: 16 bytes.
        cpu_svn: 16 bytes; every byte is also one TCB component.
        pce_svn: 0 to 65535.
        pce_id: 2 bytes.
        fmspc: 6 bytes.
        platform_instance_id: 16 bytes; only a platform CA's certificate has it, together
            with the configuration; None otherwise.

    Raises:
        ValueError: an identifier has another size.
    """

    ppid: bytes
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    platform_instance_id: bytes | None

    def __post_init__(self) -> None:
        sizes = (len(self.ppid), len(self.cpu_svn), len(self.pce_id), len(self.fmspc))
        if sizes != (16, 16, 2, 6) or len(self.platform_instance_id or bytes(16)) != 16:
            raise ValueError("an identifier of the PCK certificate has a wrong size")


def new_key() -> ec.EllipticCurvePrivateKey:
    """Generate a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Encode the private key as PKCS#8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")


def key_from_pem(text: str) -> ec.EllipticCurvePrivateKey:
    """Decode the result of `key_to_pem`.

    Raises:
        ValueError, TypeError: not such a PEM, or not a P-256 key.
    """
    key = serialization.load_pem_private_key(text.encode("ascii"), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 key")
    return key


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Sign by ECDSA with SHA-256 and return 64 bytes, r and s big-endian, as in quotes."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public point as 64 bytes, x and y big-endian, as in quotes."""
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return point[1:]  # without SEC 1's leading 04


def new_root(
    validity: Validity, crl_url: str, key: ec.EllipticCurvePrivateKey | None = None
) -> Signer:
    """Create a self-signed root CA, with the address of its CRL as in Intel's root.

    Args:
        key: the key of a renewed root; default: a new one.
    """
    key, name = key or new_key(), _name("Simulated SGX Root CA")
    builder = _builder(name, name, key, key, validity)
    return _finish(builder, key, key, path_length=1, crl_url=crl_url)


def new_pck_ca(root: Signer, ca: PckCa, validity: Validity, root_crl_url: str) -> Signer:
    """Create the intermediate CA between root and PCK certificate."""
    key = new_key()
    builder = _builder(_name(_CA_NAMES[ca]), root.certificate.subject, key, root.key, validity)
    return _finish(builder, key, root.key, path_length=0, crl_url=root_crl_url)


def new_tcb_signer(root: Signer, validity: Validity, root_crl_url: str) -> Signer:
    """Create the signer of TCB info and QE identity."""
    key, name = new_key(), _name("Simulated SGX TCB Signing")
    builder = _builder(name, root.certificate.subject, key, root.key, validity)
    return _finish(builder, key, root.key, path_length=None, crl_url=root_crl_url)


def new_pck(ca: Signer, identity: PckIdentity, validity: Validity, crl_url: str) -> Signer:
    """Create the platform's PCK, which certifies its quoting enclave."""
    key, name = new_key(), _name("Simulated SGX PCK Certificate")
    builder = _builder(name, ca.certificate.subject, key, ca.key, validity).add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_EXTENSION), sgx_extension(identity)),
        critical=False,
    )
    return _finish(builder, key, ca.key, path_length=None, crl_url=crl_url)


def new_crl(issuer: Signer, revoked: tuple[x509.Certificate, ...], validity: Validity) -> bytes:
    """Return the DER of `issuer`'s CRL, which lists `revoked` since the CRL's own issue."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(validity.not_before)
        .next_update(validity.not_after)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(validity.not_before)
            .build()
        )
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def sgx_extension(identity: PckIdentity) -> bytes:
    """Encode the SGX extension as DER (PCK profile, "SGX Extensions"; numbers are OID arcs)."""
    components = [
        _entry((2, arc), _integer(svn)) for arc, svn in enumerate(identity.cpu_svn, start=1)
    ]
    tcb = _sequence(
        *components,
        _entry((2, 17), _integer(identity.pce_svn)),
        _entry((2, 18), _octets(identity.cpu_svn)),
    )
    entries = [
        _entry((1,), _octets(identity.ppid)),
        _entry((2,), tcb),
        _entry((3,), _octets(identity.pce_id)),
        _entry((4,), _octets(identity.fmspc)),
    ]
    if identity.platform_instance_id is None:
        return _sequence(*entries, _entry((5,), _tlv(0x0A, b"\x00")))  # SGX type: standard
    false = _tlv(0x01, b"\x00")
    configuration = _sequence(  # dynamic platform, cached keys, SMT enabled
        _entry((7, 1), false), _entry((7, 2), false), _entry((7, 3), false)
    )
    return _sequence(
        *entries,
        _entry((5,), _tlv(0x0A, b"\x01")),  # SGX type: scalable, as every TDX platform's
        _entry((6,), _octets(identity.platform_instance_id)),
        _entry((7,), configuration),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    validity: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _finish(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None,
    crl_url: str,
) -> Signer:
    """Add usage and CRL address, and sign; with `path_length` None it is not a CA."""
    is_ca = path_length is not None
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    point = x509.DistributionPoint(
        full_name=[x509.UniformResourceIdentifier(crl_url)],
        relative_name=None,
        reasons=None,
        crl_issuer=None,
    )
    certificate = (
        builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(usage, critical=True)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    return Signer(key, certificate)


def _entry(arcs: tuple[int, ...], value: bytes) -> bytes:
    """Encode one member of the extension: OID under SGX_EXTENSION (arcs below 128) and value."""
    return _sequence(_tlv(0x06, _SGX_EXTENSION_DER + bytes(arcs)), value)


def _sequence(*members: bytes) -> bytes:
    return _tlv(0x30, b"".join(members))


def _octets(value: bytes) -> bytes:
    return _tlv(0x04, value)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _tlv(tag: int, content: bytes) -> bytes:
    """Encode one element of DER (X.690): tag, length in its shortest form, content."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
