"""Sessions of HTTP guests in a file that several brokers of one host share.

The file is opened again if it was removed or replaced, and after a failure. A damaged file is
renamed, and an empty one takes its place. Then guests attest again, which takes them a second.

Source: port `SessionStore`; SQLite, "Write-Ahead Logging", "Isolation" and "Result Codes".
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, TypeVar

from verdictd_py.domain.events import WarningStorage
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports import Events
from verdictd_py.ports.sessions import DEFAULT_LIMITS, MAX_AHEAD, SessionLimits

_BUSY_SECONDS: Final = 2.0  # wait for other brokers; each holds the file for far less

# Triggers maintain the totals, because counting takes time for each row.
_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;  -- a crash of the host loses the latest sessions only
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
# One statement, so that only one of two brokers takes the challenge.
_TAKE: Final = "DELETE FROM entries WHERE kind = ? AND name = ? RETURNING content, expires"
_GET: Final = "SELECT content FROM entries WHERE kind = ? AND name = ? AND expires > ?"
_DELETE_EXPIRED: Final = "DELETE FROM entries WHERE kind = ? AND expires <= ?"
_DELETE_AHEAD: Final = "DELETE FROM entries WHERE kind = ? AND expires > ?"
_DELETE_OLDEST: Final = (
    "DELETE FROM entries WHERE kind = ?1 AND name IN "
    "(SELECT name FROM entries WHERE kind = ?1 ORDER BY expires LIMIT ?2)"
)

_PRIMARY: Final = 0xFF  # mask of the primary result code, see "Result Codes", section 3
# SQLITE_ERROR: the statements of this module are correct, so that tables are missing.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_REOPEN: Final = _DAMAGED | {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
}

Result = TypeVar("Result")


class _ChangedByOthers(StorageError):
    """Another program changed the content of the file."""

    def __init__(self) -> None:
        super().__init__("another program changed the file")


class _Kind(StrEnum):
    CHALLENGE = "challenge"
    TOKEN = "token"  # noqa: S105  # a name
    CLAIMS = "claims"


class SqliteSessionStore:
    """Port `SessionStore` in a SQLite file, for several brokers on one host.

    Each call is a transaction in the one thread of this store, so the rest of the broker never
    waits while another process holds the file.

    Attributes:
        counts: numbers of challenges and of tokens in the file, as `fault` has found them.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        limits: SessionLimits,
        events: Events,
        busy_seconds: float,
    ) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._path = path
        self._file = _identity(path)
        self._limits = limits
        self._events = events
        self._busy_seconds = busy_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._closed = False
        self.counts = (0, 0)

    @classmethod
    def open(
        cls,
        path: Path,
        limits: SessionLimits = DEFAULT_LIMITS,
        *,
        events: Events,
        busy_seconds: float = _BUSY_SECONDS,
    ) -> Self:
        """Open the file; create it, readable by its owner only, if it is missing.

        Args:
            events: records that a damaged file was renamed.
            busy_seconds: how long to wait for other brokers.

        Raises:
            ConfigError: the file cannot be used; the message has the cause and the remedy.
        """
        try:
            try:
                connection = _connect(path, busy_seconds)
            except sqlite3.Error as error:
                if _code(error) != sqlite3.SQLITE_CORRUPT:  # any file that was named by mistake
                    raise
                _replace(path, _identity(path), str(error), events)
                connection = _connect(path, busy_seconds)
            return cls(connection, path, limits, events, busy_seconds)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot store sessions in {path}: {_reason(error)}; choose another "
                "--kbs-sessions, or make its directory writable for this user"
            ) from error

    async def add_challenge(
        self, name: str, challenge: str, *, now: datetime, expires: datetime
    ) -> None:
        def work() -> None:
            self._put(_Kind.CHALLENGE, name, challenge, now, expires)
            self._evict(_Kind.CHALLENGE, rows=self._limits.challenges)
            self._evict_sessions(now)

        await self._run(work)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        def work() -> str | None:
            row = self._row(_TAKE, _Kind.CHALLENGE, name)
            if row is None:
                return None
            challenge, expires = _text(row[0]), row[1]
            # Compared here, because SQLite 3.40 compares whole seconds in RETURNING.
            return challenge if isinstance(expires, float) and expires > now.timestamp() else None

        return await self._run(work)

    async def add_token(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        def work() -> None:
            self._put(_Kind.TOKEN, name, token, now, expires)
            self._evict(_Kind.TOKEN, size=self._limits.token_bytes)
            self._evict_sessions(now)

        await self._run(work)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return await self._run(lambda: self._get(_Kind.TOKEN, name, now))

    async def add_claims(
        self, digest: str, claims: str, *, now: datetime, expires: datetime
    ) -> None:
        def work() -> None:
            self._put(_Kind.CLAIMS, digest, claims, now, expires)
            self._evict(_Kind.CLAIMS, size=self._limits.claims_bytes)

        await self._run(work)

    async def claims(self, digest: str, *, now: datetime) -> str | None:
        return await self._run(lambda: self._get(_Kind.CLAIMS, digest, now))

    def _row(self, statement: str, *values: object) -> tuple[object, ...] | None:
        rows = self._open().execute(statement, values).fetchall()
        return rows[0] if rows else None

    def _get(self, kind: _Kind, name: str, now: datetime) -> str | None:
        row = self._row(_GET, kind, name, now.timestamp())
        return None if row is None else _text(row[0])

    def _put(self, kind: _Kind, name: str, content: str, now: datetime, expires: datetime) -> None:
        self._open().execute(_DELETE_EXPIRED, (kind, now.timestamp()))
        self._open().execute(_DELETE_AHEAD, (kind, (expires + MAX_AHEAD).timestamp()))
        self._open().execute(_PUT, (kind, name, content, expires.timestamp()))

    def _totals(self, kind: _Kind) -> tuple[int, int]:
        """Return the number of rows and of their characters."""
        rows, size = self._row("SELECT rows, size FROM totals WHERE kind = ?", kind) or (None, None)
        if not isinstance(rows, int) or not isinstance(size, int):
            raise _ChangedByOthers()
        return rows, size

    def _evict(self, kind: _Kind, *, rows: int | None = None, size: int | None = None) -> None:
        """Delete the oldest entries until there are at most `rows`, with `size` characters."""
        while True:
            stored_rows, stored_size = self._totals(kind)
            excess = 0 if rows is None else stored_rows - rows
            if size is not None and stored_size > size:
                excess = max(excess, 1)
            if excess <= 0:
                return
            if not self._open().execute(_DELETE_OLDEST, (kind, excess)).rowcount:
                raise _ChangedByOthers()

    def _evict_sessions(self, now: datetime) -> None:
        """Enforce the limit of sessions; delete unanswered challenges before tokens."""
        self._open().execute(_DELETE_EXPIRED, (_Kind.TOKEN, now.timestamp()))
        tokens, _ = self._totals(_Kind.TOKEN)
        self._evict(_Kind.CHALLENGE, rows=max(self._limits.sessions - tokens, 0))
        challenges, _ = self._totals(_Kind.CHALLENGE)
        self._evict(_Kind.TOKEN, rows=self._limits.sessions - challenges)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise StorageError("the sessions cannot be used: their store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._transaction, work
            )
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the sessions cannot be used: {_reason(error)}") from error

    def _transaction(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a transaction; if the file is damaged, once more in an empty file."""
        try:
            return self._attempt(work)
        except sqlite3.Error as error:
            if _code(error) in _REOPEN:
                self._disconnect()  # the next call opens the file again
            if _code(error) not in _DAMAGED:
                raise
            _replace(self._path, self._file, str(error), self._events)
        except _ChangedByOthers as error:
            self._disconnect()
            _replace(self._path, self._file, str(error), self._events)
        return self._attempt(work)

    def _attempt(self, work: Callable[[], Result]) -> Result:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
        return result

    def _open(self) -> sqlite3.Connection:
        """Return the connection to the file that has the name now."""
        connection = self._connection
        if connection is not None:
            if connection.in_transaction:
                return connection
            with suppress(OSError):
                if _identity(self._path) == self._file:
                    return connection
            self._disconnect()  # SQLite would go on using the deleted file
        connection = _connect(self._path, self._busy_seconds)
        self._connection, self._file = connection, _identity(self._path)
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    async def fault(self) -> str:
        """Return why the sessions cannot be used now; empty if they can."""
        try:
            self.counts = await self._run(
                lambda: (self._totals(_Kind.CHALLENGE)[0], self._totals(_Kind.TOKEN)[0])
            )
        except StorageError as error:
            return f"{self._path}: {error}; make it readable and writable for this user"
        return ""

    def close(self) -> None:
        """Close the file after the calls in progress; later calls fail."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._disconnect)
            self._thread.shutdown()


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """Open the file; create it, readable by its owner only, if it is missing.

    Raises:
        OSError, sqlite3.Error: it cannot be opened.
    """
    # SQLite does not wait for another process that sets the journal's mode at the same time.
    with _exclusively(path):
        _create(path)
        connection = sqlite3.connect(
            path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA schema_version")  # fails if the file is not a database
            path.chmod(0o600)  # its journals get the same mode
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    """Exclude other brokers while the file and its journals are created or replaced."""
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)
        yield
    finally:
        os.close(parent)


def _create(path: Path) -> None:
    """Create the file if it is missing; an existing one is not opened.

    Opening and closing an existing file would release the locks that SQLite holds on it.

    Raises:
        OSError: it cannot be created, or it is a link, which could lead to any file.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.ELOOP, "it is a link, or not a regular file")
    except FileNotFoundError:
        # They belong to the file that had this name before. Another process may still use them:
        # SQLite would then read its index (-shm) for the new file, and fail.
        _remove_journals(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _replace(path: Path, damaged: tuple[int, int], reason: str, events: Events) -> None:
    """Rename the damaged file, unless another broker has replaced it already.

    Raises:
        OSError: it cannot be renamed.
    """
    with _exclusively(path):
        if not path.exists() or _identity(path) != damaged:
            return
        path.rename(f"{path}.damaged")  # `_create` removes its journals
    events.record(
        WarningStorage(
            reason=f"the session file {path} was damaged ({reason}) and is now {path}.damaged; "
            "guests attest again"
        )
    )


def _remove_journals(path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code; 0 for errors of Python's module itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & _PRIMARY


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _text(value: object) -> str:
    """Return a column's value as text; the file may have been changed by others.

    Raises:
        StorageError: another type.
    """
    if not isinstance(value, str):
        raise _ChangedByOthers()
    return value


def _reason(error: OSError | sqlite3.Error) -> str:
    return str(getattr(error, "strerror", None) or error)
