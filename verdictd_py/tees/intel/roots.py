"""Root certificates that the operator names instead of the vendor's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from verdictd_py.errors import ConfigError

MAX_ROOT_BYTES: Final = 64 * 1024
"""Maximum size of a root certificate's file; a certificate has about 700 bytes."""


def read_root_ca(path: Path, *, option: str) -> bytes:
    """Return the DER form of the root certificate in a DER or PEM file.

    Raises:
        ConfigError: the file cannot be read, or is not a certificate.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_ROOT_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check {option}") from error
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        return x509.load_der_x509_certificate(data).public_bytes(Encoding.DER)
    except ValueError:
        raise ConfigError(
            f"{path} contains no certificate in DER or PEM; give {option} a root certificate"
        ) from None
