"""Certificate of the HTTP listener: the operator's, or a self-signed one."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from verdictd_py.errors import ConfigError

_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_LIFETIME: Final = timedelta(days=365)
_BACKDATED: Final = timedelta(hours=1)  # clocks of guests may be behind


@dataclass(slots=True)
class KbsTls:
    """TLS settings of the HTTP listener.

    Attributes:
        context: settings for the next connection; another object after `reload`.
        files: certificate chain and key, PEM; None for a self-signed certificate.
        self_signed: the self-signed certificate, PEM, for clients that trust it; else empty.
    """

    context: ssl.SSLContext = field(repr=False)
    files: tuple[Path, Path] | None
    self_signed: bytes = b""
    _digest: bytes = b""

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
    def create(cls, host: str, *, now: datetime) -> Self:
        """Create settings with a self-signed certificate, valid for a year.

        The certificate names `host` and this machine.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        public = private.public_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "verdictd-py")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
            # Not a CA: webpki, which guests use, accepts no CA certificate as a server's.
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.ExtendedKeyUsage([_SERVER]), critical=False)
            .sign(private, hashes.SHA256())
        )
        pem = certificate.public_bytes(Encoding.PEM)
        secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        context = _context()
        # OpenSSL reads files only, so this is a file in memory.
        with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
            file.write(pem + secret)
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return cls(context, None, pem)

    def reload(self) -> tuple[str, ...]:
        """Read the operator's files again, for new connections (see `Reloadable`)."""
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
            raise ConfigError(
                f"{certificate} and {key} are not a PEM certificate and its unencrypted PEM key; "
                "correct --kbs-tls-cert and --kbs-tls-key"
            ) from None
        self.context = context
        before, self._digest = self._digest, hashlib.sha256(b"".join(contents)).digest()
        return () if before == self._digest else (f"certificate of --kbs-http: {certificate}",)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _names(host: str) -> list[x509.GeneralName]:
    """Return the names and addresses by which clients may connect to the listener."""
    addresses = {"127.0.0.1", "::1"}
    names = {"localhost", socket.gethostname()}
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            addresses.add(host)
    except ValueError:
        names.add(host)
    return [
        *(x509.DNSName(name) for name in sorted(names) if name.isascii()),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(addresses)),
    ]
