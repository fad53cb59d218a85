"""Sessions of HTTP guests: in memory, or in a file that several brokers of one host share.

Source: port `SessionStore`; wire-rcar.md, "Handshake".
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from verdictd_py.errors import ConfigError, StorageError

MAX_CHALLENGES: Final = 20_000
"""Unanswered ones, some 300 bytes each. Strangers can make them; a guest answers in a second,
so they would have to make that many in this second to keep it out."""

MAX_SESSIONS: Final = 50_000
"""Both kinds together; one with a token takes some 8 KiB."""

_BUSY_SECONDS: Final = 5.0
_NAME: Final = "sessions"

Result = TypeVar("Result")


class MemorySessionStore:
    """Port `SessionStore` in this process."""

    def __init__(
        self, *, max_challenges: int = MAX_CHALLENGES, max_sessions: int = MAX_SESSIONS
    ) -> None:
        self._max_challenges = max_challenges
        self._max_sessions = max_sessions
        # In the order of their age, which is that of their ends: all live equally long.
        self._challenges: OrderedDict[str, tuple[str, datetime]] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[str, datetime]] = OrderedDict()

    async def begin(self, name: str, challenge: str, *, expires: datetime) -> None:
        self._challenges[name] = (challenge, expires)
        while len(self._challenges) > self._max_challenges:
            self._challenges.popitem(last=False)
        self._bound()

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        return _current(self._challenges.pop(name, None), now)

    async def attested(self, name: str, token: str, *, expires: datetime) -> None:
        self._tokens[name] = (token, expires)
        self._bound()

    async def token(self, name: str, *, now: datetime) -> str | None:
        found = _current(self._tokens.get(name), now)
        if found is None:
            self._tokens.pop(name, None)
        return found

    def _bound(self) -> None:
        while len(self._challenges) + len(self._tokens) > self._max_sessions:
            (self._challenges or self._tokens).popitem(last=False)


def _current(found: tuple[str, datetime] | None, now: datetime) -> str | None:
    if found is None or found[1] <= now:
        return None
    return found[0]


class SqliteSessionStore:
    """Port `SessionStore` in a SQLite file: several brokers, one host.

    Each call is a transaction of its own, in the store's thread. Deleting what has ended is part of
    every `begin`.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, max_challenges: int, max_sessions: int
    ) -> None:
        self._connection = connection
        # Of its own: a file that somebody holds must not keep threads from the rest.
        self._thread = ThreadPoolExecutor(1, "sessions")
        self._max_challenges = max_challenges
        self._max_sessions = max_sessions

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_challenges: int = MAX_CHALLENGES,
        max_sessions: int = MAX_SESSIONS,
    ) -> Self:
        """Opens the file, or makes it, readable for its owner alone.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        try:
            path.touch(mode=0o600, exist_ok=True)
            connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # a crash of the host ends sessions
            connection.execute(
                "CREATE TABLE IF NOT EXISTS sessions ("
                "name TEXT PRIMARY KEY, challenge TEXT, token TEXT, expires REAL NOT NULL)"
            )
            connection.execute("CREATE INDEX IF NOT EXISTS by_end ON sessions (expires)")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot keep sessions in {path}: {_why(error)}; choose another --kbs-sessions, or "
                "make its directory writable for this user"
            ) from error
        return cls(connection, max_challenges=max_challenges, max_sessions=max_sessions)

    async def begin(self, name: str, challenge: str, *, expires: datetime) -> None:
        await self._run(lambda: self._begin(name, challenge, expires.timestamp()))

    def _begin(self, name: str, challenge: str, expires: float) -> None:
        self._connection.execute(
            "INSERT INTO sessions (name, challenge, expires) VALUES (?, ?, ?)",
            (name, challenge, expires),
        )
        self._forget("challenge IS NOT NULL", self._max_challenges)
        self._bound()

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        def take() -> str | None:
            # One statement, so that of two brokers only one gets it.
            found = self._connection.execute(
                "DELETE FROM sessions WHERE name = ? AND challenge IS NOT NULL "
                "RETURNING challenge, expires",
                (name,),
            ).fetchone()
            return found[0] if found is not None and found[1] > now.timestamp() else None

        return await self._run(take)

    async def attested(self, name: str, token: str, *, expires: datetime) -> None:
        def store() -> None:
            self._connection.execute(
                "INSERT OR REPLACE INTO sessions (name, token, expires) VALUES (?, ?, ?)",
                (name, token, expires.timestamp()),
            )
            self._bound()

        await self._run(store)

    async def token(self, name: str, *, now: datetime) -> str | None:
        def look() -> str | None:
            found = self._connection.execute(
                "SELECT token FROM sessions WHERE name = ? AND token IS NOT NULL AND expires > ?",
                (name, now.timestamp()),
            ).fetchone()
            return None if found is None else str(found[0])

        return await self._run(look)

    def _bound(self) -> None:
        """Unanswered challenges go first."""
        excess = self._count("TRUE") - self._max_sessions
        if excess > 0:
            self._forget(
                "challenge IS NOT NULL", max(self._count("challenge IS NOT NULL") - excess, 0)
            )
            self._forget("TRUE", self._max_sessions)

    def _count(self, which: str) -> int:
        found = self._connection.execute(
            f"SELECT count(*) FROM sessions WHERE {which}"  # noqa: S608  # our own two texts
        ).fetchone()
        return int(found[0])

    def _forget(self, which: str, kept: int) -> None:
        """Deletes the oldest of these rows, so that `kept` stay."""
        excess = self._count(which) - kept
        if excess > 0:
            self._connection.execute(
                "DELETE FROM sessions WHERE name IN (SELECT name FROM sessions "  # noqa: S608
                f"WHERE {which} ORDER BY expires LIMIT ?)",
                (excess,),
            )

    async def _run(self, work: Callable[[], Result]) -> Result:
        def transaction() -> Result:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work()
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except sqlite3.Error as error:
            raise StorageError(f"the {_NAME} cannot be used: {_why(error)}") from error

    def close(self) -> None:
        """Closes the file; calls that wait for their turn are given up."""
        self._thread.shutdown(cancel_futures=True)
        self._connection.close()


def _why(error: OSError | sqlite3.Error) -> str:
    return str(getattr(error, "strerror", None) or error)
