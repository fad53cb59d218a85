"""History of appraisals in the database, shared by all brokers.

Judgements are not secret: they are not sealed. They have tags of the ledger's key, so that a
program that can write to the database cannot have an operator pin what no broker has appraised.
Rows without a correct tag are ignored. Each broker counts its own guests and releases.

Source: port `HistoryStore`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from verdictd_py.domain.events import WarningStorage
from verdictd_py.errors import StorageError
from verdictd_py.ports import Events
from verdictd_py.ports.history import Count, HistoryRow, Stored
from verdictd_py.postgres.database import Connection, Raced, Row
from verdictd_py.postgres.ledger import Ledger
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.values import number, octets, real, text

MAX_ROWS: Final = 2000
"""Rows of each kind that are stored, for all brokers together."""

_KINDS: Final = 5
"""Number of kinds: three verdicts, uses of secrets, revisions of documents."""

_OWN: Final = "own:"
"""Beginning of the ids of rows that belong to one broker; then its id follows."""

_PUT: Final = (
    "INSERT INTO judgements (id, kind, at, body, tag) VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT (id) DO UPDATE SET kind = EXCLUDED.kind, at = EXCLUDED.at,"
    " body = EXCLUDED.body, tag = EXCLUDED.tag"
)
_COUNT: Final = (
    "INSERT INTO counts (writer, interval_number, kind, code, number) VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT (writer, interval_number, kind, code) DO UPDATE SET number = EXCLUDED.number"
)
_TRIM: Final = (
    "DELETE FROM judgements WHERE kind = %s AND at <"
    " (SELECT at FROM judgements WHERE kind = %s ORDER BY at DESC OFFSET %s LIMIT 1)"
)


class PostgresHistory:
    """Port `HistoryStore`.

    Args:
        writer: id of this broker, a UUID, the same after a restart.
        events: records failures.
    """

    def __init__(self, objects: Objects, writer: str, events: Events) -> None:
        self._objects = objects
        self._writer = writer
        self._own = f"{_OWN}{writer}:"
        self._events = events
        self._failing = False
        self._complete = True

    async def load(self) -> Stored | None:
        try:
            ledger = await self._ledger()
            async with self._objects.database.reading() as connection:
                cursor = await connection.execute(
                    "SELECT id, kind, at, body, tag FROM judgements ORDER BY at DESC LIMIT %s",
                    (_KINDS * MAX_ROWS,),
                )
                stored = [
                    row
                    for values in await cursor.fetchall()
                    if hmac.compare_digest(octets(values[4]), _tag(ledger, row := _row(values)))
                ]
                cursor = await connection.execute(
                    "SELECT interval_number, kind, code, number FROM counts WHERE writer = %s",
                    (self._writer,),
                )
                counts = [
                    (number(i), text(k), text(c), number(n))
                    for i, k, c, n in await cursor.fetchall()
                ]
        except (StorageError, Raced) as error:
            self._note(error)
            return None
        self._failing = False
        return list(self._loaded(stored)), counts

    async def write(
        self,
        rows: Sequence[HistoryRow],
        deleted: Iterable[str],
        counts: Sequence[Count],
        oldest_interval: int,
    ) -> bool:
        try:
            ledger = await self._ledger()
            async with self._objects.database.appending() as connection:
                await self._write(connection, ledger, rows, tuple(deleted), counts)
                await connection.execute(
                    "DELETE FROM counts WHERE interval_number < %s", (oldest_interval,)
                )
        except (StorageError, Raced) as error:
            self._note(error)
            return True  # while it fails, the next batch tries again
        self._failing = False
        complete, self._complete = self._complete, True
        return complete

    async def _write(
        self,
        connection: Connection,
        ledger: Ledger,
        rows: Sequence[HistoryRow],
        deleted: Sequence[str],
        counts: Sequence[Count],
    ) -> None:
        ids = [*deleted, *(f"{self._own}{each}" for each in deleted)]
        await connection.execute("DELETE FROM judgements WHERE id = ANY(%s)", (ids,))
        stored = [
            replace(row, id=f"{self._own}{row.id}", own=False) if row.own else row for row in rows
        ]
        async with connection.cursor() as cursor:
            await cursor.executemany(
                _PUT,
                [(row.id, row.kind, row.at, row.body, _tag(ledger, row)) for row in stored],
            )
            await cursor.executemany(_COUNT, [(self._writer, *count) for count in counts])
        for kind in {row.kind for row in rows}:
            await connection.execute(_TRIM, (kind, kind, MAX_ROWS))

    def _loaded(self, rows: Iterable[HistoryRow]) -> Iterator[HistoryRow]:
        """Yield the shared rows and those of this broker."""
        for row in rows:
            if row.id.startswith(self._own):
                yield replace(row, id=row.id.removeprefix(self._own), own=True)
            elif not row.id.startswith(_OWN):
                yield row

    async def close(self) -> None:
        pass  # the connections belong to the store

    async def _ledger(self) -> Ledger:
        await self._objects.state()
        ledger = self._objects.ledger
        assert ledger is not None  # noqa: S101  # a state was confirmed with it
        return ledger

    def _note(self, error: StorageError | Raced) -> None:
        self._complete = False
        if not self._failing:
            cause = "another broker stores its own" if isinstance(error, Raced) else str(error)
            reason = f"the history of appraisals is not stored: {cause}"
            self._events.record(WarningStorage(reason=reason))
        self._failing = True


def _row(values: Row) -> HistoryRow:
    return HistoryRow(text(values[0]), text(values[1]), real(values[2]), text(values[3]))


def _tag(ledger: Ledger, row: HistoryRow) -> bytes:
    return ledger.row_tag("judgement", row.id, row.kind, float(row.at), row.body)
