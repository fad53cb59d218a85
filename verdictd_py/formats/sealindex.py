"""Index of the sealed objects of a directory: which revision of each object is the stored one.

An envelope authenticates its name and revision, but not that it is the newest one. The index does:
one root and at most 256 shards.

A shard is a sorted sequence of entries of 24 bytes: the first 16 bytes of the SHA-256 of a path,
then the revision. Its file is named by its number and the SHA-256 of its content, and is never
changed. The root has the digest of each shard, and an HMAC-SHA256 over everything in it. Therefore
an older shard is of no use without the older root, which has older digests of all shards.

=========  =====================================================================================
bytes      field of the root; numbers are unsigned and big-endian
=========  =====================================================================================
8          magic, `\\x8aVERDIDX`
1          version of the format, 1
1          1 if every object must be sealed, 0 if plain objects are read as well
8          generation: it grows with each change
2          number of pending changes
each       2 + n: length and path in UTF-8; 8: revision, 0 for a deletion
8192       SHA-256 of each shard; zeros for an empty one
32         HMAC-SHA256 of all bytes before
=========  =====================================================================================

A pending change was announced and may have been made: both the old and the new object are valid.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports.sealing import SealBroken

MAGIC: Final = b"\x8aVERDIDX"
FORMAT_VERSION: Final = 1
SHARDS: Final = 256
MAX_PENDING: Final = 1000
"""Maximum number of pending changes: a batch of `store seal` has fewer."""

_DIGEST_BYTES: Final = 32
_TAG_BYTES: Final = 32
_KEY_BYTES: Final = 16
_REVISION_BYTES: Final = 8
_ENTRY_BYTES: Final = _KEY_BYTES + _REVISION_BYTES
_FIXED: Final = len(MAGIC) + 1 + 1 + 8 + 2
_EMPTY: Final = bytes(_DIGEST_BYTES)
_DAMAGED: Final = "the index of sealed objects is damaged"


@dataclass(frozen=True, slots=True)
class Root:
    """Root of the index.

    Attributes:
        strict: whether every object must be sealed.
        generation: number of the change.
        pending: announced changes: revision by path, 0 for a deletion.
        shards: SHA-256 of the content of each shard.
    """

    strict: bool = False
    generation: int = 0
    pending: Mapping[str, int] = field(default_factory=dict)
    shards: tuple[bytes, ...] = (_EMPTY,) * SHARDS

    def encode(self, key: SecretBytes) -> bytes:
        """Return the bytes of the root.

        Raises:
            ValueError: there are too many pending changes, or a path is too long.
        """
        if len(self.pending) > MAX_PENDING:
            raise ValueError(f"an index has at most {MAX_PENDING} pending changes")
        pending = []
        for path, revision in sorted(self.pending.items()):
            name = path.encode()
            pending += [len(name).to_bytes(2, "big"), name, revision.to_bytes(8, "big")]
        content = b"".join(
            (
                MAGIC,
                bytes((FORMAT_VERSION, self.strict)),
                self.generation.to_bytes(8, "big"),
                len(self.pending).to_bytes(2, "big"),
                *pending,
                *self.shards,
            )
        )
        return content + _tag(key, content)

    @classmethod
    def parse(cls, content: bytes, key: SecretBytes) -> Root:
        """Parse a root.

        Raises:
            SealBroken: it was not written with this key, was altered, or has an unknown version.
        """
        body, tag = content[:-_TAG_BYTES], content[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, _tag(key, body)):
            raise SealBroken("the index of sealed objects does not authenticate")
        # From here on the content is that of this program, possibly of a newer version.
        if not body.startswith(MAGIC) or len(body) < _FIXED:
            raise SealBroken(_DAMAGED)
        version, strict = body[len(MAGIC)], body[len(MAGIC) + 1]
        if version != FORMAT_VERSION or strict > 1:
            raise SealBroken(f"the index of sealed objects has the unknown version {version}")
        generation = int.from_bytes(body[_FIXED - 10 : _FIXED - 2], "big")
        count = int.from_bytes(body[_FIXED - 2 : _FIXED], "big")
        pending: dict[str, int] = {}
        at = _FIXED
        for _ in range(count):
            end = at + 2 + int.from_bytes(body[at : at + 2], "big")
            try:
                path = body[at + 2 : end].decode()
            except UnicodeDecodeError:
                raise SealBroken(_DAMAGED) from None
            pending[path] = int.from_bytes(body[end : end + _REVISION_BYTES], "big")
            at = end + _REVISION_BYTES
        shards = body[at:]
        if len(shards) != SHARDS * _DIGEST_BYTES or len(pending) != count:
            raise SealBroken(_DAMAGED)
        digests = tuple(
            shards[start : start + _DIGEST_BYTES] for start in range(0, len(shards), _DIGEST_BYTES)
        )
        return cls(bool(strict), generation, pending, digests)

    def shard_file(self, number: int) -> str | None:
        """Return the name of the file of a shard; None if the shard is empty."""
        digest = self.shards[number]
        return None if digest == _EMPTY else f"{number:02x}-{digest.hex()}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Entries of the paths with one first byte of their digest."""

    content: bytes = b""

    @classmethod
    def parse(cls, content: bytes, digest: bytes) -> Shard:
        """Parse a shard.

        Raises:
            SealBroken: it has another digest.
        """
        if hashlib.sha256(content).digest() != digest or len(content) % _ENTRY_BYTES:
            raise SealBroken("a part of the index of sealed objects was altered")
        return cls(content)

    @property
    def digest(self) -> bytes:
        """Digest of the content, as in the root."""
        return hashlib.sha256(self.content).digest() if self.content else _EMPTY

    def revision(self, path: str) -> int | None:
        """Return the revision of an object; None if it is not sealed."""
        key = key_of(path)
        at = self._position(key)
        found = self.content[at : at + _ENTRY_BYTES]
        if found[:_KEY_BYTES] != key:
            return None
        return int.from_bytes(found[_KEY_BYTES:], "big")

    def changed(self, changes: Mapping[str, int]) -> Shard:
        """Return the shard with other revisions.

        Args:
            changes: revision by path; 0 removes the entry.
        """
        entries = dict(self._entries())
        for path, revision in changes.items():
            if revision:
                entries[key_of(path)] = revision.to_bytes(_REVISION_BYTES, "big")
            else:
                entries.pop(key_of(path), None)
        return Shard(b"".join(key + entries[key] for key in sorted(entries)))

    def __len__(self) -> int:
        return len(self.content) // _ENTRY_BYTES

    def keys(self) -> Iterator[bytes]:
        """Yield the digests of the paths that have an entry, see `key_of`."""
        for key, _ in self._entries():
            yield key

    def without(self, keys: frozenset[bytes]) -> Shard:
        """Return the shard without the entries of these digests."""
        return Shard(b"".join(key + rev for key, rev in self._entries() if key not in keys))

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        for at in range(0, len(self.content), _ENTRY_BYTES):
            entry = self.content[at : at + _ENTRY_BYTES]
            yield entry[:_KEY_BYTES], entry[_KEY_BYTES:]

    def _position(self, key: bytes) -> int:
        """Return where the entry of a digest is, or would be."""
        place = bisect_left(
            range(len(self)),
            key,
            key=lambda index: self.content[
                index * _ENTRY_BYTES : index * _ENTRY_BYTES + _KEY_BYTES
            ],
        )
        return place * _ENTRY_BYTES


def shard_of(path: str) -> int:
    """Return the number of the shard that has the entry of a path."""
    return key_of(path)[0]


def key_of(path: str) -> bytes:
    """Return the digest under which the entry of a path is stored."""
    return hashlib.sha256(path.encode()).digest()[:_KEY_BYTES]


def _tag(key: SecretBytes, content: bytes) -> bytes:
    return hmac.new(key.reveal(), content, hashlib.sha256).digest()
