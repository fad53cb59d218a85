"""Audit heads in the database, so that another machine can prove that a trail was cut.

A head says that an audit file had a number of records, the last one with a digest. The rights of
the brokers' role do not include changing or deleting a head. `verdictd-py store heads` prints them
as lines of a log, which `verdictd-py audit verify --log` compares with a trail.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from verdictd_py.domain.events import AuditHead
from verdictd_py.errors import StorageError
from verdictd_py.postgres.database import Database, Raced

FLUSH_SECONDS: Final = 5.0
"""Pause between two batches of heads."""


class StoredHeads:
    """Heads of this process, which are stored in batches.

    Args:
        broker: id of this broker.
        waiting: heads that are to be stored.
    """

    def __init__(self, database: Database, broker: str, waiting: deque[AuditHead]) -> None:
        self._database = database
        self._broker = broker
        self._waiting = waiting

    async def keep(self) -> None:
        """Store the heads again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Store the heads that wait; they continue to wait if that fails."""
        heads = tuple(self._waiting)
        if not heads:
            return
        with suppress(StorageError, Raced):  # readiness reports it
            async with self._database.appending() as connection, connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO audit_heads (broker, file, records, digest, signature)"
                    " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    [
                        (self._broker, head.file, head.records, head.digest, head.signature)
                        for head in heads
                    ],
                )
            for head in heads:
                if self._waiting and self._waiting[0] is head:
                    self._waiting.popleft()


async def logged_heads(database: Database, broker: str | None = None) -> Sequence[str]:
    """Return stored heads as lines of a log in JSON, in the order of their records.

    Args:
        broker: id of the broker whose heads are returned; None for all.

    Raises:
        StorageError: they cannot be read.
    """
    async with database.reading() as connection:
        cursor = await connection.execute(
            "SELECT broker, file, records, digest, signature, stored FROM audit_heads"
            " WHERE %(broker)s::text IS NULL OR broker = %(broker)s ORDER BY broker, file, records",
            {"broker": broker},
        )
        rows = await cursor.fetchall()
    names = ("broker", "file", "records", "digest", "signature")
    return [
        json.dumps(
            {
                "time": row[5].isoformat(),
                "event": AuditHead.spec.name,
                **dict(zip(names, row[:5], strict=True)),
            }
        )
        for row in rows
    ]
