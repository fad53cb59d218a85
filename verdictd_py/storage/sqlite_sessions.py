"""Sessions of HTTP guests in a file that several brokers of one host share.

Source: port `SessionStore`; SQLite, "Write-Ahead Logging" and "Isolation".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, TypeVar

from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.storage.sessions import AHEAD, USUAL, Bounds

_BUSY_SECONDS: Final = 2.0  # to wait for the other brokers; each holds the file for far less

# Counting rows takes time for each of them, so triggers keep the totals.
_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;  -- a crash of the host ends sessions, and nothing else
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    kind TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL, expires REAL NOT NULL,
    PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_end ON entries (kind, expires);
CREATE TABLE IF NOT EXISTS totals (kind TEXT PRIMARY KEY, rows INTEGER, size INTEGER);
INSERT OR IGNORE INTO totals VALUES ('challenge', 0, 0), ('token', 0, 0), ('claims', 0, 0);
CREATE TRIGGER IF NOT EXISTS more AFTER INSERT ON entries BEGIN
    UPDATE totals SET rows = rows + 1, size = size + length(NEW.content) WHERE kind = NEW.kind;
END;
CREATE TRIGGER IF NOT EXISTS fewer AFTER DELETE ON entries BEGIN
    UPDATE totals SET rows = rows - 1, size = size - length(OLD.content) WHERE kind = OLD.kind;
END;
CREATE TRIGGER IF NOT EXISTS other AFTER UPDATE OF content ON entries BEGIN
    UPDATE totals SET size = size + length(NEW.content) - length(OLD.content)
    WHERE kind = NEW.kind;
END;
COMMIT;
"""
_PUT: Final = (
    "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
    "SET content = excluded.content, expires = excluded.expires"
)
# One statement, so that of two brokers only one gets it.
_TAKE: Final = "DELETE FROM entries WHERE kind = ? AND name = ? RETURNING content, expires"
_GET: Final = "SELECT content FROM entries WHERE kind = ? AND name = ? AND expires > ?"
_FORGET_ENDED: Final = "DELETE FROM entries WHERE kind = ? AND expires <= ?"
_FORGET_AHEAD: Final = "DELETE FROM entries WHERE kind = ? AND expires > ?"
_FORGET_OLDEST: Final = (
    "DELETE FROM entries WHERE kind = ?1 AND name IN "
    "(SELECT name FROM entries WHERE kind = ?1 ORDER BY expires LIMIT ?2)"
)

Result = TypeVar("Result")


class _Kind(StrEnum):
    CHALLENGE = "challenge"
    TOKEN = "token"  # noqa: S105  # a name
    CLAIMS = "claims"


class SqliteSessionStore:
    """Port `SessionStore` in a SQLite file: several brokers, one host.

    Each call is a transaction of its own, in the one thread of this store: where another
    process holds the file, nothing else of the broker waits for it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, bounds: Bounds) -> None:
        self._connection = connection
        self._path = path
        self._file = _identity(path)
        self._bounds = bounds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._closed = False

    @classmethod
    def open(
        cls, path: Path, bounds: Bounds = USUAL, *, busy_seconds: float = _BUSY_SECONDS
    ) -> Self:
        """Opens the file, or makes it, readable for its owner alone.

        Args:
            busy_seconds: how long to wait for the other brokers.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        connection = None
        try:
            path.touch(mode=0o600, exist_ok=True)
            path.chmod(0o600)  # its journals get the same mode
            connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
            connection.executescript(_SCHEMA)
            return cls(connection, path, bounds)
        except (OSError, sqlite3.Error) as error:
            if connection is not None:
                connection.close()
            raise ConfigError(
                f"cannot keep sessions in {path}: {_why(error)}; choose another --kbs-sessions, or "
                "make its directory writable for this user"
            ) from error

    async def begin(self, name: str, challenge: str, *, now: datetime, expires: datetime) -> None:
        def work() -> None:
            self._put(_Kind.CHALLENGE, name, challenge, now, expires)
            self._bound(_Kind.CHALLENGE, rows=self._bounds.challenges)
            self._bound_sessions(now)

        await self._run(work)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        def work() -> str | None:
            found = self._one(_TAKE, _Kind.CHALLENGE, name)
            if found is None:
                return None
            challenge, expires = _text(found[0]), found[1]
            # SQLite 3.40 compares by whole seconds in RETURNING.
            return challenge if isinstance(expires, float) and expires > now.timestamp() else None

        return await self._run(work)

    async def attested(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        def work() -> None:
            self._put(_Kind.TOKEN, name, token, now, expires)
            self._bound(_Kind.TOKEN, size=self._bounds.token_bytes)
            self._bound_sessions(now)

        await self._run(work)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return await self._run(lambda: self._get(_Kind.TOKEN, name, now))

    async def keep(self, digest: str, claims: str, *, now: datetime, expires: datetime) -> None:
        def work() -> None:
            self._put(_Kind.CLAIMS, digest, claims, now, expires)
            self._bound(_Kind.CLAIMS, size=self._bounds.claims_bytes)

        await self._run(work)

    async def kept(self, digest: str, *, now: datetime) -> str | None:
        return await self._run(lambda: self._get(_Kind.CLAIMS, digest, now))

    def _one(self, statement: str, *values: object) -> tuple[object, ...] | None:
        found = self._connection.execute(statement, values).fetchall()
        return found[0] if found else None

    def _get(self, kind: _Kind, name: str, now: datetime) -> str | None:
        found = self._one(_GET, kind, name, now.timestamp())
        return None if found is None else _text(found[0])

    def _put(self, kind: _Kind, name: str, content: str, now: datetime, expires: datetime) -> None:
        self._connection.execute(_FORGET_ENDED, (kind, now.timestamp()))
        self._connection.execute(_FORGET_AHEAD, (kind, (expires + AHEAD).timestamp()))
        self._connection.execute(_PUT, (kind, name, content, expires.timestamp()))

    def _totals(self, kind: _Kind) -> tuple[int, int]:
        """Rows and characters."""
        rows, size = self._one("SELECT rows, size FROM totals WHERE kind = ?", kind) or (None, None)
        if not isinstance(rows, int) or not isinstance(size, int):
            raise StorageError("the sessions cannot be used: the file was changed by others")
        return rows, size

    def _bound(self, kind: _Kind, *, rows: int | None = None, size: int | None = None) -> None:
        """Forgets the oldest until neither is exceeded."""
        while True:
            found_rows, found_size = self._totals(kind)
            excess = 0 if rows is None else found_rows - rows
            if size is not None and found_size > size:
                excess = max(excess, 1)
            if excess <= 0:
                return
            if not self._connection.execute(_FORGET_OLDEST, (kind, excess)).rowcount:
                raise StorageError("the sessions cannot be used: the file was changed by others")

    def _bound_sessions(self, now: datetime) -> None:
        """Unanswered challenges go first."""
        self._connection.execute(_FORGET_ENDED, (_Kind.TOKEN, now.timestamp()))
        tokens, _ = self._totals(_Kind.TOKEN)
        self._bound(_Kind.CHALLENGE, rows=max(self._bounds.sessions - tokens, 0))
        challenges, _ = self._totals(_Kind.CHALLENGE)
        self._bound(_Kind.TOKEN, rows=self._bounds.sessions - challenges)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise StorageError("the sessions cannot be used: they are closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._transaction, work
            )
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the sessions cannot be used: {_why(error)}") from error

    def _transaction(self, work: Callable[[], Result]) -> Result:
        if _identity(self._path) != self._file:  # SQLite would go on with what nobody else sees
            raise StorageError("the sessions cannot be used: the file was replaced")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # SQLite may have rolled back by itself
                self._connection.execute("ROLLBACK")
        return result

    def close(self) -> None:
        """Closes the file after the calls under way; later ones fail."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._connection.close)
            self._thread.shutdown()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _text(found: object) -> str:
    """What a file holds is whatever somebody wrote into it."""
    if not isinstance(found, str):
        raise StorageError("the sessions cannot be used: the file was changed by others")
    return found


def _why(error: OSError | sqlite3.Error) -> str:
    return str(getattr(error, "strerror", None) or error)
