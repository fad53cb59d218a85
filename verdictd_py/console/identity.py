"""Identification of people: by a session on loopback, by a client certificate elsewhere."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from verdictd_py.config import Address
from verdictd_py.domain.callers import Caller
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.kbs.tls import subject_names
from verdictd_py.listeners.protection import Protection
from verdictd_py.listeners.reread import Reread
from verdictd_py.listeners.tls import TlsFiles

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Identity:
    """How people are identified at an address.

    Attributes:
        rules: rules of the client API, which give each certificate its role.
        context: returns the TLS settings for a connection; None on loopback, without TLS.
        is_own_host: returns whether a host name of a request is the console's.
    """

    rules: CallerRules
    context: Callable[[], ssl.SSLContext] | None
    is_own_host: Callable[[str], bool]

    @classmethod
    def at(cls, address: Address, protected: Protection) -> Identity:
        """Return how people are identified at `address`.

        Raises:
            ConfigError: other hosts can reach the address, and the client API has no TLS files.
        """
        if address.local:
            return cls(protected.rules, None, _is_loopback)
        if protected.tls is None:
            raise ConfigError(
                f"--console {address} can be reached from other hosts and has no TLS; give "
                "--client-api-cert, -key, -ca and -roles, or a loopback address"
            )
        files = protected.tls
        return cls(protected.rules, _Contexts(files), lambda host: _is_named(host, files.current))

    def certified(self, transport: Any) -> tuple[str, Caller]:  # noqa: ANN401  # of the library
        """Return the digest of the client's certificate, and who it is by the roles in force."""
        tls = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True)
        certificate = x509.load_der_x509_certificate(der)
        return sha256(der).hexdigest(), self.rules.caller(_CertificateContext(certificate))


@dataclass(frozen=True, slots=True)
class _CertificateContext:
    """A client certificate as gRPC describes it, for the rules of the client API."""

    certificate: x509.Certificate

    def peer(self) -> str:
        return "console"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        subject = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return {
            "x509_common_name": [str(each.value).encode() for each in subject],
            "x509_subject_alternative_name": [n.encode() for n in _names(self.certificate)],
            "x509_pem_cert": [self.certificate.public_bytes(Encoding.PEM)],
        }


class _Contexts:
    """TLS settings that follow the files in force, for each new connection."""

    def __init__(self, files: Reread[TlsFiles]) -> None:
        self._files = files
        self._used = files.current
        self._context = _context(self._used)

    def __call__(self) -> ssl.SSLContext:
        current = self._files.current
        if current is not self._used:
            self._context = _context(current)
            self._used = current
        return self._context


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would keep a client's certificate that the CA in force does not trust.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.load_verify_locations(cadata=files.ca.decode())
    # OpenSSL reads files only, so this is a file in memory.
    with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
        file.write(files.certificate + b"\n" + files.key)
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def _names(certificate: x509.Certificate) -> list[str]:
    """Return the alternative names of a certificate."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names: list[str] = []
    for kind in (x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name):
        names += extension.value.get_values_for_type(kind)
    return names + [str(each) for each in extension.value.get_values_for_type(x509.IPAddress)]


def _is_loopback(host: str) -> bool:
    """Return whether a host name means this host's loopback, for every resolver."""
    return host.lower() in _LOOPBACK


def _is_named(host: str, files: TlsFiles) -> bool:
    """Return whether the server's certificate names a host."""
    names = {name.lower() for name in subject_names(files.certificate)}
    first, _, rest = host.lower().partition(".")
    if host.lower() in names or (first and rest and f"*.{rest}" in names):
        return True
    try:
        return str(ipaddress.ip_address(host)) in names
    except ValueError:
        return False
