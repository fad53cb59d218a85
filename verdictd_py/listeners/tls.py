"""The three files of mutual TLS, read and checked: gRPC would only fail at a handshake."""

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
    """PEM texts of our certificate, its key, and the CA of the other side."""

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes

    @classmethod
    def read(cls, option: str, certificate: Path, key: Path, ca: Path) -> Self:
        """Reads and checks the three files.

        Args:
            option: what the options that name them begin with, `--client-api`.

        Raises:
            ConfigError: one line that names the file, the cause and the remedy.
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
            ours = load_pem_x509_certificate(texts["cert"])
            private = serialization.load_pem_private_key(texts["key"], password=None)
            load_pem_x509_certificates(texts["ca"])
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            raise ConfigError(
                f"{certificate}, {key} or {ca} is no PEM certificate, unencrypted PEM key "
                f"and PEM certificate, in this order; correct {option}-cert, -key and -ca"
            ) from None
        if private.public_key() != ours.public_key():
            raise ConfigError(
                f"the key {key} does not belong to the certificate {certificate}; "
                "give the two that belong together"
            )
        return cls(texts["cert"], texts["key"], texts["ca"])
