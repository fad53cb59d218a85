"""Files for mutual TLS, checked when they are read: gRPC would fail only at a handshake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates
from OpenSSL import crypto

from verdictd_py.errors import ConfigError
from verdictd_py.listeners.pem import mistake
from verdictd_py.listeners.reread import Reread


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM texts of a certificate, its key, and the CA of the peers.

    Attributes:
        ca: certificates of the CA, for handshakes.
        trusted: those of them by which a caller has rights; None for all.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes
    trusted: bytes | None = None

    @classmethod
    def read(cls, option: str, certificate: Path, key: Path, ca: Path) -> Self:
        """Read and check the three files.

        Args:
            option: common prefix of the options that name the files, `--client-api`.

        Raises:
            ConfigError: a file cannot be used; the message has the file, cause and remedy.
        """
        texts = {}
        for name, path in (("cert", certificate), ("key", key), ("ca", ca)):
            try:
                texts[name] = path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}: {error.strerror}; check {option}-{name}"
                ) from error
        try:
            own = load_pem_x509_certificate(texts["cert"])
            private = serialization.load_pem_private_key(texts["key"], password=None)
            load_pem_x509_certificates(texts["ca"])
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            cause = mistake((certificate, texts["cert"]), (key, texts["key"])) or (
                f"{certificate} is not a PEM certificate, {key} not an unencrypted PEM key, or "
                f"{ca} not a PEM certificate"
            )
            raise ConfigError(f"{cause}; correct {option}-cert, -key and -ca") from None
        if private.public_key() != own.public_key():
            raise ConfigError(
                f"the key {key} does not belong to the certificate {certificate}; "
                f"correct {option}-cert or {option}-key"
            )
        return cls(texts["cert"], texts["key"], texts["ca"])

    def differences(self, new: Self) -> tuple[str, ...]:
        """Describe what changed from these files to `new`."""
        changes = []
        if self.certificate != new.certificate:
            fingerprint = load_pem_x509_certificate(new.certificate).fingerprint(SHA256()).hex()
            changes.append(f"certificate of the client API: now SHA-256 {fingerprint}")
        if self.issuers != new.issuers:
            changes.append("CA of client certificates: replaced")
        return tuple(changes)

    @property
    def issuers(self) -> bytes:
        """Certificates of the CA by which a caller has rights, PEM."""
        return self.ca if self.trusted is None else self.trusted

    def lessened(self, new: Self) -> Self:
        """Return these files, without trust in certificates of the CA that `new` does not have."""
        trusted = load_pem_x509_certificates(new.ca)
        before = load_pem_x509_certificates(self.issuers) if self.issuers else []
        still = [certificate for certificate in before if certificate in trusted]
        if still == before:
            return self
        pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in still)
        return replace(self, trusted=pem)


class TrustedClients:
    """Check of the certificates of open connections against a CA that was replaced.

    gRPC verifies a client's certificate in the handshake only, and cannot close one connection.
    Therefore, once the files were replaced, this check repeats the verification for each call. It
    never ends: if the first CA is restored, a connection from the time of the other CA is open.

    Args:
        files: the TLS files in force.
    """

    def __init__(self, files: Reread[TlsFiles]) -> None:
        self._files = files

    def is_trusted(self, auth: Mapping[str, Iterable[bytes]]) -> bool:
        """Return whether the CA in force issued the client's certificate.

        Args:
            auth: the authentication context of a call with TLS.
        """
        if not self._files.replaced:
            return True
        try:
            store = crypto.X509Store()
            for issuer in load_pem_x509_certificates(self._files.current.issuers):
                store.add_cert(crypto.X509.from_cryptography(issuer))
            (leaf,) = auth.get("x509_pem_cert", ())
            chain = [
                crypto.X509.from_cryptography(sent)
                for text in auth.get("x509_pem_cert_chain", ())
                for sent in load_pem_x509_certificates(text)
            ]
            certificate = crypto.X509.from_cryptography(load_pem_x509_certificate(leaf))
            crypto.X509StoreContext(store, certificate, chain).verify_certificate()
        except (ValueError, crypto.Error, crypto.X509StoreContextError):
            return False
        return True
