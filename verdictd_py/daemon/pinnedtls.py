"""TLS to a service whose certificate is pinned: exactly that certificate or key, and nothing else.

The installer of Intel's PCCS creates a self-signed certificate without a subject alternative name,
which no client accepts by CA and name.
"""

from __future__ import annotations

import hashlib
import ssl
from hmac import compare_digest
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verdictd_py.daemon.httpcauses import WrongPin

PIN_BYTES: Final = 32
"""Length of a pin, a SHA-256 digest."""


def pinned_context(pin: bytes) -> ssl.SSLContext:
    """Return a TLS context that accepts only servers with the pinned certificate or key.

    Names, dates and CAs are not verified: the pin identifies the server. The handshake fails before
    the client sends its request.

    Args:
        pin: SHA-256 of the certificate (DER) or of its SubjectPublicKeyInfo.
    """
    context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # `_PinnedObject` verifies the certificate instead
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.pin = pin
    return context


class _PinnedObject(ssl.SSLObject):
    """TLS connection whose handshake ends with the comparison of the pin."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        pin = context.pin if isinstance(context, _PinnedContext) else b""
        require_pinned(self.getpeercert(binary_form=True) or b"", pin)


class _PinnedContext(ssl.SSLContext):
    """TLS context whose connections compare a pin; it refuses every server until it has one."""

    sslobject_class = _PinnedObject
    pin = b""


def require_pinned(certificate: bytes, pin: bytes) -> None:
    """Compare a server's certificate with a pin.

    Raises:
        WrongPin: neither the certificate nor its public key is the pinned one.
    """
    presented = hashlib.sha256(certificate).digest()
    if len(pin) == PIN_BYTES and certificate:
        if compare_digest(presented, pin):
            return
        if compare_digest(_key_digest(certificate), pin):
            return
    error = WrongPin("the certificate is not the pinned one")
    error.presented = presented.hex()
    raise error


def _key_digest(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo; empty if it cannot be read."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, x509.UnsupportedGeneralNameType):
        return b""
    return hashlib.sha256(info).digest()
