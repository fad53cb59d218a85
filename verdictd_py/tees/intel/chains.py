"""Certificate chains of Intel, verified up to the trusted root.

Signatures and rights of issuers do not depend on the time; validity periods do. They are separate,
so that the result of the first can be cached.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import SignatureAlgorithmOID

from verdictd_py.errors import (
    ClockBehind,
    CollateralExpired,
    ConfigError,
    EvidenceExpired,
    QuoteInvalid,
    Reason,
    ReasonKind,
)

INTEL_ROOT_KEY_SHA256: Final = bytes.fromhex(
    "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
)  # of the DER SubjectPublicKeyInfo in Intel_SGX_Provisioning_Certification_RootCA.cer (Intel)
MAX_CHAIN_CERTIFICATES: Final = 4  # Intel's chains have 2 or 3; each costs a signature check

_CAS: Final = 16
"""Maximum number of cached pairs of CA and issuer. Intel has one root and two CAs for PCKs."""

# Exceptions that cryptography raises for certificates it cannot use: several derive from
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


class Periods:
    """Validity periods of the certificates of a chain, read once.

    Args:
        certificates: their signatures were verified, so that they have certainly been issued.

    Attributes:
        end: when the first of them expires.
    """

    __slots__ = ("_periods", "_start", "end")

    def __init__(self, certificates: Iterable[x509.Certificate]) -> None:
        self._periods = tuple(
            (each.not_valid_before_utc, each.not_valid_after_utc) for each in certificates
        )
        self._start = max(start for start, _ in self._periods)
        self.end = min(end for _, end in self._periods)

    def require(
        self,
        now: datetime,
        expired: type[CollateralExpired | EvidenceExpired] = CollateralExpired,
    ) -> None:
        """Require that every certificate is valid at `now`; both ends belong to the period.

        Args:
            expired: error for a certificate that has expired.

        Raises:
            CollateralExpired, EvidenceExpired: one of them has expired.
            ClockBehind: one of them is not valid yet, so that this host's clock is wrong.
        """
        if self._start <= now <= self.end:
            return
        for start, end in self._periods:
            if start > now:
                raise clock_behind("a certificate of the platform's vendor", start, now)
            if now > end:
                text = "a certificate of the platform's chain is outside its validity"
                window = f"{start.isoformat()} to {end.isoformat()}"
                kind = ReasonKind.VERIFICATION
                reason = Reason("pck-chain", now.isoformat(), window, text, kind=kind)
                raise expired(text, reasons=(reason,))


def root_key_digest(root_ca_der: bytes | None) -> bytes:
    """Return the SHA-256 of the trusted root's SubjectPublicKeyInfo; Intel's for None.

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
            raise broken(
                f"it has {len(chain)} certificates, 2 to {MAX_CHAIN_CERTIFICATES} expected"
            )
        # 2. A certificate is inspected only after its issuer is trusted.
        if not compare_digest(key_digest(chain[-1]), root_key):
            raise broken("it does not end at the trusted root")
        _verify_issued(chain[-1], chain[-1])
        # 3.
        for depth in range(len(chain) - 1, 0, -1):
            check = _check_link if depth == 1 else _check_ca
            check(chain[depth], chain[depth - 1], depth - 1)
    except UNUSABLE as error:
        raise broken(f"{type(error).__name__}: {error}") from error
    return tuple(chain)


@lru_cache(maxsize=_CAS)
def _verify_issued(subject: x509.Certificate, issuer: x509.Certificate) -> None:
    """Verify the signature of a root with its own key; see `_check_ca` for the cache."""
    subject.verify_directly_issued_by(issuer)


@lru_cache(maxsize=_CAS)
def _check_ca(issuer: x509.Certificate, subject: x509.Certificate, below: int) -> None:
    """Check the step from an issuer to a CA, which all machines have in common.

    The cache is keyed by every byte of both certificates. It contains successes only, and nothing
    invalidates them, because no step depends on the time or on a revocation: these are checked
    for each guest, `Periods` and dcap-qvl.
    """
    _check_link(issuer, subject, below)


def _check_link(issuer: x509.Certificate, subject: x509.Certificate, below: int) -> None:
    """Check one step of a chain; `below` counts the CAs between issuer and leaf."""
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise broken("an issuer's key is not on P-256")
    if subject.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise broken("a certificate is not signed with ECDSA and SHA-256")
    constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    if not constraints.ca or not usage.key_cert_sign:
        raise broken("an issuer is not a CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise broken("it is longer than a CA in it allows")
    subject.verify_directly_issued_by(issuer)  # names and signature


def clock_behind(what: str, issued: datetime, now: datetime) -> ClockBehind:
    """Return the error for something that was signed later than `now`."""
    return ClockBehind(
        f"{what} was issued at {_utc(issued)}, but this host's clock shows {_utc(now)}; "
        "check this host's clock"
    )


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def key_digest(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo, DER."""
    return sha256(
        certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()


def broken(why: str) -> QuoteInvalid:
    """Return the error for a chain that does not lead to the trusted root."""
    text = "the certificate chain does not verify up to the trusted root"
    reason = Reason("pck-chain", "", "", f"{text}: {why}", kind=ReasonKind.VERIFICATION)
    return QuoteInvalid(text, reasons=(reason,))
