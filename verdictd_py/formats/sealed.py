"""Envelope of a sealed object: header, then AES-256-GCM ciphertext with its tag.

=========  =====================================================================================
bytes      field
=========  =====================================================================================
8          magic, `\\x8aVERDSEA`
1          version of the format, 1
8          revision of the object, unsigned, big-endian
1 + n      length and id of the KEK's version, printable ASCII without spaces
2 + n      length (big-endian) and bytes of the wrapped data key
12         nonce
rest       ciphertext and tag (16 bytes)
=========  =====================================================================================

The associated data is the name of the object and the header, so that neither can be exchanged.
The parser accepts exactly one encoding of each envelope.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from verdictd_py.ports.sealing import (
    MAX_VERSION_BYTES,
    MAX_WRAPPED_BYTES,
    SealBroken,
    SealedName,
)

MAGIC: Final = b"\x8aVERDSEA"
FORMAT_VERSION: Final = 1
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

MAX_REVISION: Final = 2**64 - 1

_FIXED: Final = len(MAGIC) + 1 + 8
MAX_HEADER_BYTES: Final = _FIXED + 1 + MAX_VERSION_BYTES + 2 + MAX_WRAPPED_BYTES + NONCE_BYTES

MAX_OVERHEAD_BYTES: Final = MAX_HEADER_BYTES + TAG_BYTES
"""Maximum difference between the sizes of an envelope and its content."""

_VISIBLE: Final = frozenset(range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class Header:
    """Header of an envelope.

    Attributes:
        revision: revision that the object was sealed as; true once the ciphertext authenticates.
        version: id of the KEK's version.
        wrapped: wrapped data key.
        nonce: nonce of the ciphertext.
    """

    revision: int
    version: str
    wrapped: bytes
    nonce: bytes

    def encode(self) -> bytes:
        """Return the bytes of the header.

        Raises:
            ValueError: a field is too long, empty, or has other characters.
        """
        version = self.version.encode("ascii")
        if not 0 < len(version) <= MAX_VERSION_BYTES or not _VISIBLE.issuperset(version):
            raise ValueError("the id of a KEK's version has 1 to 255 visible ASCII characters")
        if not 0 < len(self.wrapped) <= MAX_WRAPPED_BYTES or len(self.nonce) != NONCE_BYTES:
            raise ValueError(f"a wrapped key has 1 to {MAX_WRAPPED_BYTES} bytes")
        return b"".join(
            (
                MAGIC,
                bytes((FORMAT_VERSION,)),
                self.revision.to_bytes(8, "big"),
                bytes((len(version),)),
                version,
                len(self.wrapped).to_bytes(2, "big"),
                self.wrapped,
                self.nonce,
            )
        )

    @property
    def overhead(self) -> int:
        """Difference between the sizes of the envelope and its content, in bytes."""
        return _FIXED + 1 + len(self.version) + 2 + len(self.wrapped) + NONCE_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope.

    Attributes:
        encoded_header: bytes of the header, which are authenticated.
        ciphertext: ciphertext with its tag.
    """

    header: Header
    encoded_header: bytes
    ciphertext: bytes

    @classmethod
    def parse(cls, sealed: bytes) -> Envelope:
        """Parse an envelope.

        Raises:
            SealBroken: it is not an envelope, or of an unknown version.
        """
        header = parse_header(sealed)
        end = header.overhead - TAG_BYTES
        if len(sealed) < header.overhead:
            raise SealBroken("is a truncated sealed object")
        return cls(header, sealed[:end], sealed[end:])


def is_sealed(content: bytes) -> bool:
    """Return whether bytes begin as an envelope does."""
    return content.startswith(MAGIC)


def parse_header(beginning: bytes) -> Header:
    """Parse the header at the beginning of an envelope.

    Args:
        beginning: the envelope, or at least its first `MAX_HEADER_BYTES`.

    Raises:
        SealBroken: it is not an envelope, or of an unknown version.
    """
    if not is_sealed(beginning):
        raise SealBroken("is not sealed")
    if len(beginning) <= _FIXED:
        raise SealBroken("is a truncated sealed object")
    if beginning[len(MAGIC)] != FORMAT_VERSION:
        raise SealBroken(
            f"is sealed in version {beginning[len(MAGIC)]} of the format, and this program knows "
            f"only {FORMAT_VERSION}"
        )
    revision = int.from_bytes(beginning[len(MAGIC) + 1 : _FIXED], "big")
    version, at = _counted(beginning, _FIXED, 1, MAX_VERSION_BYTES)
    wrapped, at = _counted(beginning, at, 2, MAX_WRAPPED_BYTES)
    nonce = beginning[at : at + NONCE_BYTES]
    if len(nonce) != NONCE_BYTES:
        raise SealBroken("is a truncated sealed object")
    if not _VISIBLE.issuperset(version):
        raise SealBroken("has a damaged header")
    return Header(revision, version.decode("ascii"), wrapped, nonce)


def associated_data(name: SealedName, encoded_header: bytes) -> bytes:
    """Return what authenticates the name and the header of an envelope."""
    return b"verdictd-py sealed object\0" + encoded_name(name) + encoded_header


def key_context(name: SealedName) -> bytes:
    """Return the context that a data key is wrapped in: 32 bytes, different for each name."""
    return hashlib.sha256(b"verdictd-py data key\0" + encoded_name(name)).digest()


def encoded_name(name: SealedName) -> bytes:
    """Return an encoding of a name; no two names have the same.

    Raises:
        ValueError: a part is too long, or the revision is not a number of 64 bits.
    """
    parts = [part.encode() for part in (name.kind, name.path)]
    if any(len(part) > 0xFFFF for part in parts) or not 0 <= name.revision <= MAX_REVISION:
        raise ValueError("the name of a sealed object is too long, or its revision is out of range")
    counted = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return counted + name.revision.to_bytes(8, "big")


def _counted(content: bytes, at: int, size: int, most: int) -> tuple[bytes, int]:
    """Return a field with a length of `size` bytes before it, and the position after it."""
    length = int.from_bytes(content[at : at + size], "big")
    start, end = at + size, at + size + length
    if not 0 < length <= most:
        raise SealBroken("has a damaged header")
    if end > len(content):
        raise SealBroken("is a truncated sealed object")
    return content[start:end], end
