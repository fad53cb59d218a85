"""Port `SessionStore` in PostgreSQL, for brokers on several machines.

Each call is one statement, which calls a function of the schema (`sessionschema`): a challenge is
deleted and returned at once, so that only one broker gets it. The broker's clock decides what has
expired.

Source: port `SessionStore`; PostgreSQL 15, "CREATE TABLE", UNLOGGED.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final, LiteralString

from verdictd_py.errors import StorageError
from verdictd_py.ports.sessions import DEFAULT_LIMITS, MAX_AHEAD, SessionLimits
from verdictd_py.postgres.database import CONNECTIONS, Database, Raced, Row
from verdictd_py.postgres.values import number

CALL_SECONDS: Final = 5.0
"""Time limit of a call; requests of guests wait for it."""


class PostgresSessionStore:
    """Port `SessionStore` in a database with the schema of brokers.

    Args:
        call_seconds: time limit of a call, with the wait for a connection.

    Attributes:
        counts: numbers of challenges and of tokens, as `fault` has found them.
    """

    def __init__(
        self,
        database: Database,
        limits: SessionLimits = DEFAULT_LIMITS,
        *,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._database = database
        self._call_seconds = call_seconds
        self._free = asyncio.Semaphore(2 * CONNECTIONS)
        self._limits = limits
        self.counts = (0, 0)

    async def add_challenge(
        self, name: str, challenge: str, *, now: datetime, expires: datetime
    ) -> None:
        await self._put("challenge", name, challenge, now, expires)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        return await self._text(
            "SELECT verdictd.take_challenge(%s, %s)", _storable(name), now.timestamp()
        )

    async def add_token(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        await self._put("token", name, token, now, expires)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return await self._get("token", name, now)

    async def add_claims(
        self, digest: str, claims: str, *, now: datetime, expires: datetime
    ) -> None:
        await self._row(
            "SELECT verdictd.put_claims(%s, %s, %s, %s, %s, %s)",
            *(_storable(digest), _storable(claims), *_times(now, expires)),
            self._limits.claims_bytes,
        )

    async def claims(self, digest: str, *, now: datetime) -> str | None:
        return await self._get("claims", digest, now)

    async def fault(self) -> str:
        """Return why the sessions cannot be used now; empty if they can."""
        try:
            rows = await self._row(
                "SELECT coalesce(sum(number) FILTER (WHERE kind = 'challenge'), 0)::bigint,"
                " coalesce(sum(number) FILTER (WHERE kind = 'token'), 0)::bigint"
                " FROM verdictd.session_totals"
            )
            self.counts = (0, 0) if rows is None else (number(rows[0]), number(rows[1]))
        except StorageError as error:
            return self._database.problem or str(error)
        return ""

    async def close(self) -> None:
        """Close all connections; later calls fail."""
        await self._database.close()

    async def _put(
        self, kind: str, name: str, content: str, now: datetime, expires: datetime
    ) -> None:
        limits = self._limits
        await self._row(
            "SELECT verdictd.put_session(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            *(kind, _storable(name), _storable(content), *_times(now, expires)),
            *(limits.challenges, limits.sessions, limits.token_bytes),
        )

    async def _get(self, kind: str, name: str, now: datetime) -> str | None:
        return await self._text(
            "SELECT content FROM verdictd.sessions WHERE kind = %s AND name = %s AND expires > %s",
            *(kind, _storable(name), now.timestamp()),
        )

    async def _text(self, statement: LiteralString, *values: object) -> str | None:
        row = await self._row(statement, *values)
        return None if row is None or row[0] is None else str(row[0])

    async def _row(self, statement: LiteralString, *values: object) -> Row | None:
        """Run a statement.

        Raises:
            StorageError: the database does not answer, or refuses.
        """
        try:
            async with asyncio.timeout(self._call_seconds), self._free:
                return await self._database.call(statement, *values)
        except TimeoutError:
            raise StorageError(
                f"the sessions cannot be used: no answer within {self._call_seconds:g} s"
            ) from None
        except Raced:
            raise StorageError("the sessions cannot be used: the database is too busy") from None
        except StorageError as error:
            raise StorageError(
                f"the sessions cannot be used: {self._database.problem or error}"
            ) from error


def _times(now: datetime, expires: datetime) -> tuple[float, float, float]:
    """Return now, expiry, and the latest expiry of other entries."""
    return now.timestamp(), expires.timestamp(), (expires + MAX_AHEAD).timestamp()


def _storable(text: str) -> str:
    """Return text that PostgreSQL can store: without NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
