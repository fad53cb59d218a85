"""Certificate chains and signatures of a quote, checked here before collateral is requested.

A forged chain must never cause a fetch of collateral, and claims are shown on a refusal
only because the quote's own signatures were verified by this module: no order of checks
inside another library is relied on. Revocation and TCB come after, with the collateral.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from verdictd_py.errors import (
    ClockBehind,
    CollateralExpired,
    ConfigError,
    EvidenceExpired,
    QuoteInvalid,
    Reason,
    ReasonKind,
)
from verdictd_py.tees.intel.quote import Quote

INTEL_ROOT_KEY_SHA256: Final = bytes.fromhex(
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)  # of the DER SubjectPublicKeyInfo in Intel_SGX_Provisioning_Certification_RootCA.cer (Intel)
MAX_CHAIN_CERTIFICATES: Final = 4  # Intel's chains have 2 or 3; each costs a signature check
_P256_BYTES: Final = 32  # size of each of r, s, x and y

# Whatever cryptography raises for certificates it cannot use: several derive from
# Exception directly, so they are named one by one.
UNUSABLE: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the PCK certificate says about the platform.

    Attributes:
        fmspc: 12 lower-case hex digits.
        ca: `processor` or `platform`, which of Intel's CAs issued it.
        cpu_svn: 16 bytes, one SVN each.
        pce_id: 4 lower-case hex digits, which provisioning certification enclave.
        pce_svn: its SVN.
        key: the PCK, which signs the QE's report.
        digest: SHA-256 of the machine's PPID in hex. Intel calls the PPID privacy sensitive, so
            it is not logged itself.
    """

    fmspc: str
    ca: str
    cpu_svn: bytes = field(repr=False)
    pce_id: str
    pce_svn: int
    key: ec.EllipticCurvePublicKey = field(repr=False)
    digest: str = ""


def root_key_digest(root_ca_der: bytes | None) -> bytes:
    """SHA-256 of the trusted root's SubjectPublicKeyInfo; Intel's where None is given.

    Raises:
        ConfigError: the operator's root is not a certificate.
    """
    if root_ca_der is None:
        return INTEL_ROOT_KEY_SHA256
    try:
        return key_digest(x509.load_der_x509_certificate(root_ca_der))
    except UNUSABLE as error:
        raise ConfigError(
            f"the root CA is not a DER certificate: {error}; "
            "convert it with `openssl x509 -outform der`"
        ) from error


def load_chain(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM text. None of them is verified.

    The library's warnings about unusual certificates are suppressed, because any client could fill
    the log with them: a chain that no trusted root signed is refused for that reason.

    Raises:
        ValueError: they are none, or one of `UNUSABLE`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_pem_x509_certificates(pem)


def verify_chain(pem: bytes, *, root_key: bytes, now: datetime) -> x509.Certificate:
    """Verify a certificate chain of Intel up to the trusted root, and its validity.

    Args:
        pem: certificates, leaf first, each followed by its issuer.
        root_key: SHA-256 of the root's SubjectPublicKeyInfo.
        now: time at which it must be valid.

    Returns:
        The leaf.

    Raises:
        QuoteInvalid: the chain does not lead to the root.
        EvidenceExpired: it does, but a certificate in it has expired.
        ClockBehind: it does, but a certificate in it is not valid yet.
    """
    chain = verify_chain_signatures(pem, root_key=root_key)
    for certificate in chain:
        check_validity(certificate, now, EvidenceExpired)
    return chain[0]


def verify_chain_signatures(pem: bytes, *, root_key: bytes) -> tuple[x509.Certificate, ...]:
    """Verify a certificate chain of Intel up to the trusted root, at no particular time.

    1. It has at most `MAX_CHAIN_CERTIFICATES`, and at least a leaf and the root.
    2. The last one has the trusted root's key, and is signed with it.
    3. From the root down, each signs the next: the names match, the issuer is a CA that may
       sign certificates, and all signatures are ECDSA P-256 with SHA-256.

    Args:
        pem: certificates, leaf first, each followed by its issuer.
        root_key: SHA-256 of the root's SubjectPublicKeyInfo.

    Returns:
        The chain, leaf first.

    Raises:
        QuoteInvalid: the chain does not lead to the root.
    """
    try:
        chain = load_chain(pem.rstrip(b"\0"))
        # 1.
        if not 2 <= len(chain) <= MAX_CHAIN_CERTIFICATES:
            raise _broken(
                f"it has {len(chain)} certificates, 2 to {MAX_CHAIN_CERTIFICATES} expected"
            )
        # 2. A certificate is inspected only after its issuer is trusted.
        if not compare_digest(key_digest(chain[-1]), root_key):
            raise _broken("it does not end at the trusted root")
        chain[-1].verify_directly_issued_by(chain[-1])
        # 3.
        for depth in range(len(chain) - 1, 0, -1):
            _check_link(chain[depth], chain[depth - 1], below=depth - 1)
    except UNUSABLE as error:
        raise _broken(f"{type(error).__name__}: {error}") from error
    return tuple(chain)


def verify_pck_chain(pem: bytes, *, root_key: bytes, now: datetime) -> Platform:
    """Verify the PCK chain that a quote carries, and return what its leaf says.

    Raises:
        QuoteInvalid: it does not lead to the root, or is no PCK certificate.
        EvidenceExpired, ClockBehind: it does, but not at `now`.
    """
    leaf = verify_chain(pem, root_key=root_key, now=now)
    try:
        key = leaf.public_key()
        issuer = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        extension = dcap_qvl.parse_pck_extension_from_pem(
            leaf.public_bytes(serialization.Encoding.PEM)
        )
        name = str(issuer[0].value) if issuer else ""
        cas = [ca for ca in ("processor", "platform") if ca in name.lower()]
        if len(cas) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
            raise _broken("its leaf is not issued by a PCK processor or platform CA")
        return Platform(
            fmspc=extension.fmspc.hex(),
            ca=cas[0],
            cpu_svn=extension.cpu_svn,
            pce_id=extension.pce_id.hex(),
            pce_svn=extension.pce_svn,
            key=key,
            digest=sha256(b"verdictd-py platform" + extension.ppid).hexdigest(),
        )
    except UNUSABLE as error:
        raise _broken(f"its leaf is not a PCK certificate: {error}") from error


def verify_quote_signatures(quote: Quote, platform: Platform) -> None:
    """Verifies that this platform's quoting enclave signed the quote.

    1. The PCK signed the QE's report.
    2. The QE's report names the attestation key: its report data begins with
       SHA-256(attestation key || QE authentication data).
    3. The attestation key signed header and body.

    Raises:
        QuoteInvalid: one of them does not hold.
    """
    # 1.
    if not _signed_by(platform.key, quote.qe_report_signature, quote.qe_report):
        raise _forged("the PCK did not sign the quoting enclave's report")
    # 2. REPORTDATA of an SGX report is at offset 320.
    named = quote.qe_report[320:352]
    if not compare_digest(named, sha256(quote.attestation_key + quote.qe_auth_data).digest()):
        raise _forged("the quoting enclave's report names another attestation key")
    # 3.
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256R1(),
            b"\x04" + quote.attestation_key,  # SEC 1, uncompressed
        )
    except ValueError as error:
        raise _forged("the attestation key is not a point of P-256") from error
    if not _signed_by(key, quote.signature, quote.signed):
        raise _forged("the attestation key did not sign header and body")


def verify_signed_text(text: str, signature: bytes, signer: x509.Certificate, *, rule: str) -> None:
    """Verifies that the leaf of a verified chain signed a JSON text of Intel's.

    Args:
        rule: name of the text for the reason: `tcb-info` or `qe-identity`.

    Raises:
        QuoteInvalid: it did not.
    """
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _signed_by(
        key, signature, text.encode("utf-8", "surrogatepass")
    ):
        what = "the signature of the collateral does not verify"
        reason = Reason(rule, "", "", what, kind=ReasonKind.VERIFICATION)
        raise QuoteInvalid(what, reasons=(reason,))


def _signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (r and s, 32 bytes each) is `key`'s over `message`."""
    if len(signature) != 2 * _P256_BYTES:
        return False
    r = int.from_bytes(signature[:_P256_BYTES], "big")
    s = int.from_bytes(signature[_P256_BYTES:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _check_link(issuer: x509.Certificate, subject: x509.Certificate, *, below: int) -> None:
    """Checks one step of a chain; `below` counts the CAs between issuer and leaf."""
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _broken("an issuer's key is not on P-256")
    if subject.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise _broken("a certificate is not signed with ECDSA and SHA-256")
    constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    if not constraints.ca or not usage.key_cert_sign:
        raise _broken("an issuer is not a CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _broken("it is longer than a CA in it allows")
    subject.verify_directly_issued_by(issuer)  # names and signature


def check_validity(
    certificate: x509.Certificate,
    now: datetime,
    expired: type[CollateralExpired | EvidenceExpired] = CollateralExpired,
) -> None:
    """Require that a certificate is valid at `now`.

    Args:
        certificate: its signature was verified, so that it has certainly been issued.
        expired: error for a certificate that has expired.

    Raises:
        CollateralExpired, EvidenceExpired: it has expired.
        ClockBehind: it is not valid yet, so that this host's clock is wrong.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start > now:
        raise clock_behind("a certificate of the platform's vendor", start, now)
    if now > end:
        text = "a certificate of the platform's chain is outside its validity"
        window = f"{start.isoformat()} to {end.isoformat()}"
        reason = Reason("pck-chain", now.isoformat(), window, text, kind=ReasonKind.VERIFICATION)
        raise expired(text, reasons=(reason,))


def clock_behind(what: str, issued: datetime, now: datetime) -> ClockBehind:
    """Return the error for something that was signed later than `now`."""
    return ClockBehind(
        f"{what} was issued at {_utc(issued)}, but this host's clock shows {_utc(now)}; "
        "check this host's clock"
    )


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def key_digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate's SubjectPublicKeyInfo, DER."""
    return sha256(
        certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()


def _broken(why: str) -> QuoteInvalid:
    text = "the certificate chain does not verify up to the trusted root"
    reason = Reason("pck-chain", "", "", f"{text}: {why}", kind=ReasonKind.VERIFICATION)
    return QuoteInvalid(text, reasons=(reason,))


def _forged(why: str) -> QuoteInvalid:
    text = "the quote's signature does not verify"
    reason = Reason("signature", "", "", f"{text}: {why}", kind=ReasonKind.VERIFICATION)
    return QuoteInvalid(text, reasons=(reason,))
