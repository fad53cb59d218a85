"""Certificate of the HTTP listener: the operator's, or a self-signed one."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from verdictd_py.errors import ConfigError
from verdictd_py.listeners.kbs.certificates import ServerCertificate
from verdictd_py.listeners.kbs.hostnames import host_addresses, host_names
from verdictd_py.listeners.pem import mistake

_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_LIFETIME: Final = timedelta(days=365)
_BACKDATED: Final = timedelta(hours=1)  # clocks of guests may be behind
_RENEWED_AFTER: Final = timedelta(days=240)
_RETRY_SECONDS: Final = 60.0
"""Pause after a failed renewal, by the monotonic clock."""


@dataclass(slots=True)
class KbsTls:
    """TLS settings of the HTTP listener.

    Attributes:
        context: settings for the next connection; another object after `reload` or `renew`.
        files: certificate chain and key, PEM; None for a self-signed certificate.
        self_signed: the self-signed certificate, PEM, for clients that trust it; else empty.
        certificate: what guests examine in the operator's certificate; None without one.
    """

    context: ssl.SSLContext = field(repr=False)
    files: tuple[Path, Path] | None
    self_signed: bytes = b""
    _own: _SelfSigned | None = field(default=None, repr=False)
    _digest: bytes = b""
    certificate: ServerCertificate | None = field(default=None, init=False)

    @classmethod
    def read(cls, certificate: Path, key: Path) -> Self:
        """Create settings with the operator's files.

        Raises:
            ConfigError: a file cannot be used; the message has the cause and the remedy.
        """
        tls = cls(_context(), (certificate, key))
        tls.reload()
        return tls

    @classmethod
    def create(
        cls,
        host: str,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Create settings with a self-signed certificate, which `renew` renews.

        The certificate names `host` and this machine.
        """
        own = _SelfSigned(ec.generate_private_key(ec.SECP256R1()), host, clock, monotonic)
        context, pem = own.issue()
        return cls(context, None, pem, own)

    @classmethod
    def imported(
        cls,
        exported: bytes,
        host: str,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Create settings with the self-signed certificate of another process (see `exported`).

        Raises:
            ValueError: it is not an exported certificate.
        """
        key = load_pem_private_key(exported, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("it has no key of an elliptic curve")
        certificate = x509.load_pem_x509_certificate(exported)
        own = _SelfSigned(key, host, clock, monotonic)
        own.issued_at = certificate.not_valid_before_utc + _BACKDATED
        return cls(_context_of(exported), None, certificate.public_bytes(Encoding.PEM), own)

    @property
    def exported(self) -> bytes:
        """The key of the self-signed certificate and the certificate, PEM: a secret; or empty."""
        return b"" if self._own is None else self._own.secret + self.self_signed

    @property
    def end(self) -> datetime | None:
        """When the certificate expires; None if its form is unknown."""
        if self._own is not None:
            return self._own.issued_at + _LIFETIME
        return None if self.certificate is None else self.certificate.not_after

    def renew(self) -> bool:
        """Renew a self-signed certificate that expires soon, or that is not valid yet.

        It is not valid yet if it was issued by a clock that was ahead and was set back. The new
        certificate has the same key and name, so that clients that trust the old one accept it.

        Returns:
            Whether the certificate was renewed.

        Raises:
            OSError: no certificate could be made, for example because no descriptor is free. The
                old one stays in use; the next attempt follows after a minute.
        """
        if self._own is None or not self._own.is_due():
            return False
        self.context, self.self_signed = self._own.issue()
        return True

    def reload(self) -> tuple[str, ...]:
        """Read the operator's files again, for new connections; see `Reloadable`."""
        if self.files is None:
            return ()
        certificate, key = self.files
        contents = []
        for option, path in (("cert", certificate), ("key", key)):
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}: {error.strerror}; check --kbs-tls-{option}"
                ) from error
        try:
            # A new context, because OpenSSL retains old certificates with other types of keys.
            context = _context()
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError):
            cause = mistake((certificate, contents[0]), (key, contents[1])) or (
                f"{certificate} and {key} are not a PEM certificate and its unencrypted PEM key"
            )
            raise ConfigError(f"{cause}; correct --kbs-tls-cert and --kbs-tls-key") from None
        self.context = context
        self.certificate = ServerCertificate.read(contents[0])
        before, self._digest = self._digest, hashlib.sha256(b"".join(contents)).digest()
        return () if before == self._digest else (f"certificate of --kbs-http: {certificate}",)


@dataclass(slots=True)
class _SelfSigned:
    """Issuer of the self-signed certificate, with its key: a secret.

    Attributes:
        issued_at: wall time of the last certificate; its validity is compared with the wall time
            of clients.
        retry_at: monotonic time of the next attempt after a failure.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    host: str
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    issued_at: datetime = field(init=False)
    retry_at: float = field(default=float("-inf"), init=False)

    def is_due(self) -> bool:
        """Return whether to renew the certificate now; not within a minute of a failure."""
        valid = self.issued_at - _BACKDATED / 2 <= self.clock() < self.issued_at + _RENEWED_AFTER
        return not valid and self.monotonic() >= self.retry_at

    def issue(self) -> tuple[ssl.SSLContext, bytes]:
        """Issue a certificate that is valid now; return TLS settings with it, and its PEM.

        Raises:
            OSError: see `KbsTls.renew`.
        """
        self.retry_at = self.monotonic() + _RETRY_SECONDS
        now = self.clock()
        public = self.key.public_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "verdictd-py")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.SubjectAlternativeName(_names(self.host)), critical=False)
            # Not a CA: webpki, which guests use, accepts no CA certificate as a server's.
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.ExtendedKeyUsage([_SERVER]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(Encoding.PEM)
        context = _context_of(pem + self.secret)
        self.issued_at = now
        self.retry_at = float("-inf")
        return context, pem

    @property
    def secret(self) -> bytes:
        """The key, PEM."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _context_of(pem: bytes) -> ssl.SSLContext:
    """Return TLS settings with a certificate and its key."""
    context = _context()
    # OpenSSL reads files only, so this is a file in memory.
    with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
        file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _names(host: str) -> list[x509.GeneralName]:
    """Return the names and addresses by which clients may connect to the listener.

    A listener on all addresses has all of this host's, because guests refuse a certificate that
    does not contain the address in their URL.
    """
    addresses = {ipaddress.ip_address(address) for address in ("127.0.0.1", "::1")}
    names = {"localhost", socket.gethostname()}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names.add(host)
    else:
        own = host_addresses() if address.is_unspecified else (address,)
        addresses.update(own)
        names.update(host_names(own))
    in_order = sorted(addresses, key=lambda address: (address.version, int(address)))
    return [
        *(x509.DNSName(name) for name in sorted(names) if name.isascii()),
        *(x509.IPAddress(address) for address in in_order),
    ]


def subject_names(pem: bytes) -> tuple[str, ...]:
    """Return the names and addresses that the first certificate is valid for, as texts."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    )
