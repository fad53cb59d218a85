"""Statements on the tables of the store: its state, and the rows of objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.postgres.database import Connection, Raced
from verdictd_py.postgres.ledger import Entry
from verdictd_py.postgres.schema import CHANNEL, require_compatible
from verdictd_py.postgres.values import number, octets, text

_STATE: Final = (
    "SELECT (SELECT coalesce(max(version), 0) FROM migrations),"
    " (SELECT coalesce(max(min_compatible), 0) FROM migrations),"
    " s.id, s.change, s.tag, s.ledger_key FROM (VALUES (1)) AS v LEFT JOIN store s ON true"
)
_CHANGED: Final = (
    "SELECT path, kind, revision, CASE WHEN sealed IS NULL THEN -1 ELSE abs(size) END, changed,"
    " nonce FROM objects WHERE revision > %s"
)
_UPSERT: Final = (
    "INSERT INTO objects (path, kind, revision, size, changed, nonce, sealed)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (path) DO UPDATE SET kind = EXCLUDED.kind, revision = EXCLUDED.revision,"
    " size = EXCLUDED.size, changed = EXCLUDED.changed, nonce = EXCLUDED.nonce,"
    " sealed = EXCLUDED.sealed"
)


@dataclass(frozen=True, slots=True)
class StateRow:
    """The row of the store.

    Attributes:
        store: id of the store.
        change: number of the last change.
        key: the ledger's key, sealed.
    """

    store: str
    change: int
    tag: bytes
    key: bytes = field(repr=False)


async def read_state(connection: Connection) -> StateRow | None:
    """Return the row of the store; None if the store is empty.

    Raises:
        SchemaUnusable: this release cannot use the schema.
    """
    row = await (await connection.execute(_STATE)).fetchone()
    assert row is not None  # noqa: S101  # a left join of one row
    require_compatible(number(row[0]), number(row[1]))
    if row[2] is None:
        return None
    return StateRow(str(row[2]), number(row[3]), octets(row[4]), octets(row[5]))


async def changed_since(connection: Connection, change: int) -> list[Entry]:
    """Return the entries that later changes than this one have written."""
    cursor = await connection.execute(_CHANGED, (change,))
    return [
        Entry(text(path), text(kind), number(revision), number(size), number(at), octets(nonce))
        for path, kind, revision, size, at, nonce in await cursor.fetchall()
    ]


async def read_sealed(connection: Connection, path: str) -> tuple[int | None, bytes | None]:
    """Return revision and envelope of a row; None for what does not exist."""
    cursor = await connection.execute(
        "SELECT revision, sealed FROM objects WHERE path = %s", (path,)
    )
    row = await cursor.fetchone()
    if row is None:
        return None, None
    return number(row[0]), None if row[1] is None else octets(row[1])


async def create_store(connection: Connection, row: StateRow) -> None:
    """Insert the row of the store, unless there is one."""
    await connection.execute(
        "INSERT INTO store (id, change, tag, ledger_key) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (one) DO NOTHING",
        (row.store, row.change, row.tag, row.key),
    )


async def advance(
    connection: Connection, before: tuple[int, bytes], after: tuple[int, bytes]
) -> None:
    """Set number and tag of the store, and notify all brokers at the commit.

    Raises:
        Raced: number and tag are not those before.
    """
    cursor = await connection.execute(
        "UPDATE store SET change = %s, tag = %s WHERE change = %s AND tag = %s", (*after, *before)
    )
    if cursor.rowcount != 1:
        raise Raced
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(after[0])))


async def upsert(connection: Connection, rows: Iterable[tuple[Entry, bytes | None]]) -> None:
    """Create or replace the rows of entries."""
    values: Sequence[tuple[object, ...]] = [
        (entry.path, entry.kind, entry.revision, entry.size, entry.changed, entry.nonce, sealed)
        for entry, sealed in rows
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(_UPSERT, values)


async def replace_envelope(connection: Connection, entry: Entry, old: bytes, new: bytes) -> bool:
    """Replace the envelope of a row with the same revision; return whether it was `old`."""
    cursor = await connection.execute(
        "UPDATE objects SET sealed = %s WHERE path = %s AND revision = %s AND sealed = %s",
        (new, entry.path, entry.revision, old),
    )
    return cursor.rowcount == 1


async def replace_ledger_key(connection: Connection, old: bytes, new: bytes) -> bool:
    """Replace the sealed key of the ledger; return whether it was `old`."""
    cursor = await connection.execute(
        "UPDATE store SET ledger_key = %s WHERE ledger_key = %s", (new, old)
    )
    return cursor.rowcount == 1
