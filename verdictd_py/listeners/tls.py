"""Files for mutual TLS, checked when they are read: gRPC would fail only at a handshake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_certificates

from verdictd_py.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM texts of a certificate, its key, and the CA of the peers."""

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes

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
            raise ConfigError(
                f"{certificate} is not a PEM certificate, {key} not an unencrypted PEM key, or "
                f"{ca} not a PEM certificate; correct {option}-cert, -key and -ca"
            ) from None
        if private.public_key() != own.public_key():
            raise ConfigError(
                f"the key {key} does not belong to the certificate {certificate}; "
                f"correct {option}-cert or {option}-key"
            )
        return cls(texts["cert"], texts["key"], texts["ca"])
