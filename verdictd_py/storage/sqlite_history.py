"""History of appraisals in a SQLite file, which only this user can read.

A file that is damaged is renamed, and an empty one takes its place. A file that was removed or
replaced is created again. Any other failure is recorded once, and the next batch tries again. No
failure of this file stops the broker. A file of a later version is left as it is.

Source: port `HistoryStore`; SQLite, "Write-Ahead Logging" and "Result Codes".
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeVar

from verdictd_py.domain.events import WarningStorage
from verdictd_py.ports import Events
from verdictd_py.ports.history import Count, HistoryRow, Stored

MAX_ROWS: Final = 2000
"""Rows of each kind that are loaded; several brokers on one directory store theirs together."""

_KINDS: Final = 5
"""Kinds of rows: three verdicts, uses of secrets, texts of documents."""

_VERSION: Final = 1
"""Version of the tables. Another version of the broker may have written others."""

_SCHEMA: Final = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS judgements (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_time ON judgements (kind, at);
CREATE TABLE IF NOT EXISTS counts (
    interval INTEGER, kind TEXT, code TEXT, number INTEGER NOT NULL,
    PRIMARY KEY (interval, kind, code)
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_PUT: Final = "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM judgements WHERE id = ?"
_COUNT: Final = "INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM counts WHERE interval < ?"
_TRIM: Final = (
    "DELETE FROM judgements WHERE kind = ?1 AND at < "
    "(SELECT at FROM judgements WHERE kind = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)"
)
_NEWEST: Final = "SELECT id, kind, at, body FROM judgements ORDER BY at DESC LIMIT ?"

_PRIMARY: Final = 0xFF  # mask of the primary result code, see "Result Codes", section 3
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""SQLITE_ERROR: the statements of this module are correct, so that tables are missing."""

_BUSY_SECONDS: Final = 2.0

Result = TypeVar("Result")
Default = TypeVar("Default")


class SqliteHistory:
    """Port `HistoryStore` in a SQLite file, used by one thread.

    Args:
        path: the file. Its directory is created if it is missing.
        events: records failures.
    """

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._events = events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._failing = False
        self._complete = True

    async def load(self) -> Stored | None:
        return await self._run(self._load, None)

    async def write(
        self,
        rows: Sequence[HistoryRow],
        deleted: Iterable[str],
        counts: Sequence[Count],
        oldest_interval: int,
    ) -> bool:
        complete = await self._run(
            lambda: self._write(rows, tuple(deleted), counts, oldest_interval), default=False
        )
        return complete or self._failing  # while it fails, the next batch tries again

    async def close(self) -> None:
        def close() -> None:
            if self._connection is not None:
                self._connection.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], Result], default: Default) -> Result | Default:
        """Call a function in the thread; return `default` if it fails, which is recorded."""
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, call)
        except (sqlite3.Error, OSError) as error:
            self._complete = False
            if not self._failing:
                reason = f"the history of appraisals is not stored: {_text(error)}; {self._path}"
                self._events.record(WarningStorage(reason=reason))
            self._failing = True
            return default
        self._failing = False
        return result

    def _load(self) -> Stored:
        def read(
            connection: sqlite3.Connection,
        ) -> tuple[list[HistoryRow], list[Count]]:
            rows = [HistoryRow(*row) for row in connection.execute(_NEWEST, (_KINDS * MAX_ROWS,))]
            counts = connection.execute("SELECT interval, kind, code, number FROM counts")
            return rows, [(int(i), str(k), str(c), int(n)) for i, k, c, n in counts]

        return self._using(read)

    def _write(
        self,
        rows: Sequence[HistoryRow],
        deleted: Sequence[str],
        counts: Sequence[Count],
        oldest_interval: int,
    ) -> bool:
        def write(connection: sqlite3.Connection) -> None:
            with connection:  # one transaction
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_DELETE, ((each,) for each in deleted))
                values = ((row.id, row.kind, row.at, row.body) for row in rows)
                connection.executemany(_PUT, values)
                connection.executemany(_COUNT, counts)
                connection.execute(_FORGET, (oldest_interval,))
                for kind in {row.kind for row in rows}:
                    connection.execute(_TRIM, (kind, MAX_ROWS))

        if self._connection is not None and self._file != _identity(self._path):
            self._disconnect()  # it was removed or replaced
            self._complete = False
        self._using(write)
        complete, self._complete = self._complete, True
        return complete

    def _using(self, call: Callable[[sqlite3.Connection], Result]) -> Result:
        """Call a function with the connection; with an empty file instead of a damaged one."""
        try:
            return call(self._connected())
        except sqlite3.Error as error:
            self._disconnect()
            if not _is_damaged(error):
                raise
        renamed = self._set_aside()
        reason = f"the history of appraisals was damaged and begins again; see {renamed}"
        self._events.record(WarningStorage(reason=reason))
        self._complete = False
        return call(self._connected())

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(self._path, flags, 0o600))
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _require_known_version(connection)
                connection.executescript(_SCHEMA)
                with closing(connection.execute("PRAGMA quick_check(1)")) as checked:
                    (result,) = checked.fetchone()
                if result != "ok":
                    raise _Damaged(result)
            except BaseException:
                connection.close()
                raise
            self._connection, self._file = connection, _identity(self._path)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self) -> Path:
        """Rename the damaged file, in place of the one before; remove what belongs to it."""
        renamed = self._path.with_name(self._path.name + ".damaged")
        self._path.replace(renamed)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return renamed


class _OtherVersion(sqlite3.DatabaseError):
    """A later version of the broker has written the file."""


def _require_known_version(connection: sqlite3.Connection) -> None:
    """Refuse tables that a later version of the broker has made: their meaning is not known."""
    with closing(connection.execute("PRAGMA user_version")) as asked:
        (version,) = asked.fetchone()
    if version > _VERSION:
        raise _OtherVersion(
            f"a later version of verdictd-py wrote it (version {version}, this one reads "
            f"{_VERSION}); run that version, or move the file away"
        )


class _Damaged(sqlite3.DatabaseError):
    """The check of the file found damage."""


def _is_damaged(error: sqlite3.Error) -> bool:
    if isinstance(error, _Damaged):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & _PRIMARY in _DAMAGED


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _text(error: sqlite3.Error | OSError) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else str(error)
