"""Checksums and their signature."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tools.archives import sha256
from verdictd_py.secretfiles import SecretFileUnusable, read_secret_file

SUMS: Final = "SHA256SUMS"
SIGNATURE: Final = "SHA256SUMS.sig"
_MAX_KEY_BYTES: Final = 16 * 1024
_REMEDY: Final = "create one with 'openssl genpkey -algorithm ed25519'"


def seal(place: Path, key: Path | None) -> None:
    """Write the checksums of all files, and the signature of the checksums.

    Args:
        key: private key of the site in PEM, Ed25519 or ECDSA; None for no signature.

    Raises:
        SecretFileUnusable: the key cannot be read, is of another type, or encrypted.
    """
    names = sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
    sums = "".join(f"{sha256(place / name)}  {name}\n" for name in names).encode()
    (place / SUMS).write_bytes(sums)
    if key is not None:
        (place / SIGNATURE).write_bytes(_signature(key, sums))


def _signature(file: Path, message: bytes) -> bytes:
    """Sign; the same key and message always give the same signature (RFC 6979 for ECDSA)."""
    content = read_secret_file(file, "private key", max_bytes=_MAX_KEY_BYTES).reveal()
    try:
        key = load_pem_private_key(content, None)
    except TypeError:
        raise SecretFileUnusable(f"the key in {file} is encrypted; give a plain one") from None
    except ValueError:
        raise SecretFileUnusable(f"{file} is no private key in PEM; {_REMEDY}") from None
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, EllipticCurvePrivateKey):
        return key.sign(message, ECDSA(SHA256(), deterministic_signing=True))
    raise SecretFileUnusable(f"the key in {file} is neither Ed25519 nor ECDSA; {_REMEDY}")
