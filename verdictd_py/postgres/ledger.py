"""Ledger of the store: which revision of each object is the current one, authenticated.

Sealing binds an object to its name and its revision. It does not say which revision is the newest:
a program that can write to the database could put an older row back, together with its revision.
The ledger prevents that. Each change of the store has the next number, which is the revision of the
object that it writes; a deleted object leaves an entry, too. One row has the number of the last
change and a *tag*: HMAC-SHA-256, under a key that only brokers can unseal, over this number and the
sum of the HMACs of all entries (a keyed multiset hash). A broker that reads all entries can verify
the tag, and one that knows them needs only those that have changed.

Brokers that race, and a database that reports a failure, can have several objects sealed under one
path and one number. Therefore each attempt has a *nonce*, which the seal and the sum contain: only
the envelope of the attempt that was stored is valid.

The sum has two parts, so that a missing revision can be named without its nonce: the revisions are
in the upper one, the nonces in the lower one. Nothing of it is stored, so that its terms are not
known outside the brokers.

Source: Clarke and others, "Incremental Multiset Hash Functions and Their Application to Memory
Integrity Checking", ASIACRYPT 2003 (MSet-Add-Hash).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from verdictd_py.domain.secrets import SecretBytes

DELETED: Final = -1
"""Size of a deleted object."""

MAX_BLAMED: Final = 200_000
"""Tags that are computed at most to name the entry that was replaced, about a second."""

NONCE_BYTES: Final = 16

_UPPER: Final = 2**320
"""Factor of the upper part of a sum: the lower parts of 2**64 entries are less."""

_MAC_BYTES: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in the ledger.

    Attributes:
        path: canonical path, as in `StoredObject`.
        kind: type of the object, as in `SealedName`.
        revision: number of the change that wrote it.
        size: size of its content in bytes, or `DELETED`. Other sizes are for displays only, and
            not authenticated.
        changed: time of this change, in microseconds since 1970, for displays only.
        nonce: random bytes of the attempt that has stored it.
    """

    path: str
    kind: str
    revision: int
    size: int
    changed: int
    nonce: bytes

    @property
    def is_deleted(self) -> bool:
        return self.size == DELETED

    @property
    def time(self) -> datetime:
        """Time of the change."""
        return _EPOCH + timedelta(microseconds=self.changed)


class Ledger:
    """Key of a store's ledger, and what is computed with it.

    Args:
        store: id of the store.
        key: 32 bytes.
    """

    def __init__(self, store: str, key: SecretBytes) -> None:
        self.store = store
        self._key = key

    def weight(self, entry: Entry) -> int:
        """Return the term of an entry in the sum."""
        nonce = self._mac("nonce", entry.path, entry.revision, entry.nonce.hex())
        return self._upper(entry) * _UPPER + int.from_bytes(nonce, "big")

    def _upper(self, entry: Entry) -> int:
        parts = (entry.path, entry.kind, entry.revision, str(entry.is_deleted))
        return int.from_bytes(self._mac("entry", *parts), "big")

    def sum(self, entries: Iterable[Entry]) -> int:
        """Return the sum of all entries."""
        return sum(map(self.weight, entries))

    def replaced(self, total: int, old: Entry | None, new: Entry) -> int:
        """Return the sum after an entry has replaced another one."""
        before = 0 if old is None else self.weight(old)
        return total - before + self.weight(new)

    def tag(self, change: int, total: int) -> bytes:
        """Return the tag of a state: number of the last change, and sum of all entries.

        Its first half has the revisions only, for `blame`; the second one authenticates all.
        """
        return self._revisions(change, total // _UPPER) + self._mac("state", change, total)

    def _revisions(self, change: int, upper: int) -> bytes:
        return self._mac("revisions", change, upper)

    def row_tag(self, *parts: str | float) -> bytes:
        """Return the tag of a row that is not an object: a judgement of the history."""
        return self._mac("row", *parts)

    def blame(self, entries: Mapping[str, Entry], change: int, tag: bytes) -> str:
        """Return the path of the one entry whose older revision explains a wrong tag; else empty.

        Each change has written one entry, so that the number of a change that was undone is not the
        revision of any entry. The search tries each of these numbers for each entry.
        """
        upper = sum(map(self._upper, entries.values()))
        present = {entry.revision for entry in entries.values()}
        missing = [number for number in range(change, 0, -1) if number not in present]
        tried = 0
        for entry in entries.values():
            others = upper - self._upper(entry)
            for revision in missing:
                if revision < entry.revision:
                    break
                for size in (0, DELETED):
                    tried += 1
                    if tried > MAX_BLAMED:
                        return ""
                    newer = replace(entry, revision=revision, size=size)
                    explained = self._revisions(change, others + self._upper(newer))
                    if hmac.compare_digest(explained, tag[:_MAC_BYTES]):
                        return entry.path
        return ""

    def _mac(self, purpose: str, *parts: str | float) -> bytes:
        fields = (repr(part).encode() for part in (self.store, *parts))
        message = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        return hmac.digest(self._key.reveal(), purpose.encode() + b"\0" + message, "sha256")
