"""The history across restarts: it is loaded at the start, and changes are stored in batches.

Nothing waits for the store. A change of the last seconds is lost if the process is killed; the
audit trail has it. What was evicted again before a batch is never written, so that a flood of
guests costs at most the capacity of the history for each batch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement
from verdictd_py.broker.tallies import MAX_BUCKETS, Key
from verdictd_py.broker.transfer import judgement_as_json, judgement_from_json
from verdictd_py.errors import RequestError
from verdictd_py.offload import offload
from verdictd_py.ports.history import Count, HistoryRow, HistoryStore

BATCH_SECONDS: Final = 5.0
"""Pause between batches."""


class Book(Protocol):
    """Further data that is stored with the history, in rows of a kind of its own.

    Attributes:
        kind: kind of its rows.
    """

    kind: str

    def restore(self, rows: Sequence[HistoryRow]) -> None:
        """Add what an earlier run has stored; rows that cannot be read are ignored."""
        ...

    def changes(self) -> tuple[Sequence[HistoryRow], Sequence[str]]:
        """Return the rows that changed since the last call, and the ids of deleted ones."""
        ...

    def write_again(self) -> None:
        """Have the next call of `changes` return everything."""
        ...


class HistoryKeeper:
    """Journal of a history (`history.Journal`).

    Args:
        history: the history of the broker.
        store: where it is stored.
        books: further data that is stored with it.
    """

    def __init__(self, history: History, store: HistoryStore, books: Sequence[Book] = ()) -> None:
        self._history = history
        self._store = store
        self._books = tuple(books)
        self._changed: dict[str, Judgement] = {}
        self._deleted: dict[str, None] = {}
        self._counts: dict[Key, int] = {}
        self._loaded = False
        history.journal = self

    def put(self, judgement: Judgement) -> None:
        self._changed[judgement.id] = judgement
        self._deleted.pop(judgement.id, None)

    def delete(self, judgement_id: str) -> None:
        self._changed.pop(judgement_id, None)
        self._deleted[judgement_id] = None

    def count(self, key: Key, number: int) -> None:
        self._counts[key] = number

    async def keep(self) -> None:
        """Load the history, and store its changes until cancelled."""
        while True:
            await self.load()
            await self.flush()
            await asyncio.sleep(BATCH_SECONDS)

    async def load(self) -> None:
        """Load what an earlier run has stored, once; rows that cannot be read are deleted.

        If the store cannot be read now, nothing is loaded, and a later call tries again. Until
        then nothing is stored: the numbers of this run would replace those of earlier ones.
        """
        if self._loaded:
            return
        stored = await self._store.load()
        if stored is None:
            return
        rows, counts = stored
        for book in self._books:
            book.restore([row for row in rows if row.kind == book.kind])
        kinds = {book.kind for book in self._books}
        rows = [row for row in rows if row.kind not in kinds]
        judgements, unreadable = await offload(
            sum(len(row.body) for row in rows), lambda: _judgements(rows)
        )
        evicted = self._history.restore(
            judgements, (((interval, kind, code), n) for interval, kind, code, n in counts)
        )
        for judgement_id in (*evicted, *unreadable):
            self.delete(judgement_id)
        for key in self._counts:  # they were counted before the earlier ones were known
            self._counts[key] = self._history.number(key)
        self._loaded = True

    async def flush(self) -> None:
        """Store the changes since the last call, unless the history is not loaded."""
        if not self._loaded:
            return
        others = self._changes_of_books()
        if not (self._changed or self._deleted or self._counts or any(others)):
            return
        try:
            if not await self._write(*others):
                self._write_again()
                await self._write(*self._changes_of_books())
        except asyncio.CancelledError:
            self._write_again()  # it is not known what is stored; `close` follows
            raise

    def _write_again(self) -> None:
        """Have everything written by the next batch. Evicted rows are deleted by a later load."""
        judgements, counts = self._history.everything()
        self._changed = {judgement.id: judgement for judgement in judgements}
        self._deleted, self._counts = {}, dict(counts)
        for book in self._books:
            book.write_again()

    async def close(self) -> None:
        """Store the last changes, and close the store."""
        await self.load()
        await self.flush()
        self._history.journal = None
        await self._store.close()

    def _changes_of_books(self) -> tuple[list[HistoryRow], list[str]]:
        rows: list[HistoryRow] = []
        ids: list[str] = []
        for book in self._books:
            changed, gone = book.changes()
            rows += changed
            ids += gone
        return rows, ids

    async def _write(self, others: Sequence[HistoryRow], gone: Sequence[str]) -> bool:
        changed, self._changed = self._changed, {}
        deleted, self._deleted = self._deleted, {}
        counts, self._counts = self._counts, {}
        rows = await asyncio.to_thread(_rows, tuple(changed.values()))
        newest = max((interval for interval, _, _ in counts), default=MAX_BUCKETS)
        numbers: list[Count] = [(*key, number) for key, number in counts.items()]
        removed = (*deleted, *gone)
        return await self._store.write((*rows, *others), removed, numbers, newest - MAX_BUCKETS)


def _rows(judgements: Sequence[Judgement]) -> list[HistoryRow]:
    return [
        HistoryRow(
            each.id,
            each.verdict.value,
            each.at.timestamp(),
            json.dumps(judgement_as_json(each), separators=(",", ":")),
        )
        for each in judgements
    ]


def _judgements(rows: Sequence[HistoryRow]) -> tuple[list[Judgement], list[str]]:
    """Return the judgements in rows, and the ids of rows that cannot be read."""
    judgements, unreadable = [], []
    for row in rows:
        judgement = None
        with suppress(RequestError, ValueError, RecursionError):
            judgement = judgement_from_json(json.loads(row.body))
        if judgement is None or judgement.id != row.id:
            unreadable.append(row.id)
        else:
            judgements.append(judgement)
    return judgements, unreadable
