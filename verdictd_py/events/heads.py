"""Heads of an audit file: statements that a file has a record with a digest, signed if wanted.

The digest of a record covers all records before it, so that a head covers them as well. A program
that can write the audit files can compute new digests, but it cannot sign a head without the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from verdictd_py.errors import ConfigError

MAX_KEY_FILE_BYTES: Final = 16 * 1024
"""Maximum size of a file with a key; a PEM file of an Ed25519 key has 120 bytes."""

_PURPOSE: Final = "verdictd-py audit head, version 1"
"""First line of what is signed, so that no signature counts for another purpose."""


def message(file: str, records: int, digest: str, *, last: bool = False) -> bytes:
    """Return the bytes that are signed.

    Args:
        file: name of the audit file, without its directory.
        records: number of its records up to the digest.
        digest: digest of the last of these records.
        last: whether the head states that the file ends with it.
    """
    end = "last\n" if last else ""
    return f"{_PURPOSE}\n{file}\n{records}\n{digest}\n{end}".encode()


class HeadSigner:
    """Signer of heads.

    Attributes:
        public: the public key, base64 of its 32 bytes.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = _encoded(key.public_key())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the private key: PEM, PKCS #8, not encrypted.

        Raises:
            ConfigError: there is no such key in the file; the message has the remedy.
        """
        remedy = "create one with 'openssl genpkey -algorithm ed25519 -out NEW.key'"
        try:
            key = serialization.load_pem_private_key(_read(file, "--audit-key"), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # its text could quote the key
            raise ConfigError(
                f"{file} is not a private key in PEM without a password; {remedy}"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{file} is not an Ed25519 key; {remedy}")
        return cls(key)

    def sign(self, file: str, records: int, digest: str, *, last: bool = False) -> str:
        """Return the signature of a head, base64; see `message`."""
        signature = self._key.sign(message(file, records, digest, last=last))
        return base64.b64encode(signature).decode()


class HeadVerifier:
    """Verifier of signed heads.

    Attributes:
        public: the public key, base64 of its 32 bytes.
    """

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.public = _encoded(key)

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the verifier for a public key: base64 of its 32 bytes, or the name of a PEM file.

        Raises:
            ConfigError: the text is neither.
        """
        try:
            return cls(Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True)))
        except (binascii.Error, ValueError):
            pass
        try:
            key = serialization.load_pem_public_key(_read(Path(text), "--key"))
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError(
                f"{text} is not a public key in PEM; write one with 'openssl pkey -in KEY -pubout'"
            ) from None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{text} is not an Ed25519 key; audit heads have no other signatures")
        return cls(key)

    def accepts(
        self, signature: str, file: str, records: int, digest: str, *, last: bool = False
    ) -> bool:
        """Return whether a signature is this key's for a head; see `message`."""
        try:
            raw = base64.b64decode(signature, validate=True)
            self._key.verify(raw, message(file, records, digest, last=last))
        except (binascii.Error, ValueError, InvalidSignature):
            return False
        return True


def fingerprint(public: str) -> str:
    """Return the SHA-256 of a public key, for people who compare two of them."""
    return hashlib.sha256(base64.b64decode(public)).hexdigest()


def _encoded(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes_raw()).decode()


def _read(file: Path, option: str) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; check {option}") from error
