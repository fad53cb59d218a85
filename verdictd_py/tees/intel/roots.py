"""Roots of trust that the operator names instead of the manufacturer's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from verdictd_py.errors import ConfigError

MAX_ROOT_BYTES: Final = 64 * 1024
"""One certificate, about 700 bytes; a larger file is something else."""


def read_root_ca(path: Path, *, option: str) -> bytes:
    """DER of the root certificate in `path`, which holds DER or PEM.

    Raises:
        ConfigError: one line that names the file, the cause and the remedy.
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
            f"{path} holds no certificate in DER or PEM; give the root's to {option}"
        ) from None
