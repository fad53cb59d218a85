"""Cache of sealed objects, which are as useless to a reader as those in the database."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from verdictd_py.postgres.ledger import Entry

MAX_BYTES: Final = 32 * 1024 * 1024
"""Size of all envelopes in memory; the ones that were used least recently are evicted."""

MAX_OBJECT_BYTES: Final = 1024 * 1024
"""Size of the largest envelope that is cached."""


class Envelopes:
    """Envelopes by path, each of one revision."""

    def __init__(self) -> None:
        self._sealed: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, entry: Entry) -> bytes | None:
        """Return the envelope of an entry's revision; None if it is not in memory."""
        cached = self._sealed.get(entry.path)
        if cached is None or cached[0] != entry.revision:
            return None
        self._sealed.move_to_end(entry.path)
        return cached[1]

    def add(self, entry: Entry, sealed: bytes) -> None:
        """Cache an envelope, unless it is too large."""
        self.discard(entry.path)
        if len(sealed) > MAX_OBJECT_BYTES:
            return
        self._sealed[entry.path] = entry.revision, sealed
        self._bytes += len(sealed)
        while self._bytes > MAX_BYTES:
            _, (_, evicted) = self._sealed.popitem(last=False)
            self._bytes -= len(evicted)

    def discard(self, path: str) -> None:
        """Remove the envelope of a path, if there is one."""
        cached = self._sealed.pop(path, None)
        if cached is not None:
            self._bytes -= len(cached[1])
