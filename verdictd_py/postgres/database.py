"""Connections to PostgreSQL: a pool, transactions, and errors in the project's terms.

No text of the server is repeated to clients: it may name hosts, users and values. Operators find
the cause in `Database.problem`, which readiness reports.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from verdictd_py.errors import StoreUnavailable
from verdictd_py.postgres.address import Address
from verdictd_py.secretfiles import SecretFileUnusable

CONNECTIONS: Final = 4
"""Maximum number of connections of a process, next to the one that receives notifications."""

WAIT_SECONDS: Final = 5.0
"""Maximum time that a transaction waits for a connection."""

AGAIN_SECONDS: Final = 1.0
"""The same while the database does not answer, so that clients get the cause soon."""

RETRY_SECONDS: Final = 2.0
"""Time for which the pool tries to connect again by itself, with growing pauses. Later, each
transaction makes it try again."""

ANSWER_SECONDS: Final = 15.0
"""Time limit of a transaction, longer than the server's own limit of a statement. It is for a
server that has stopped, or that cannot be reached any more: it refuses nothing and ends nothing."""

TRIAL_SECONDS: Final = 5.0
"""Time limit of the empty query that tries an idle connection. It ends before a broker that can no
longer reach the database refuses everything (`objects.BOUND_SECONDS`)."""

CLOSE_SECONDS: Final = 0.1
"""Time for which the work of the pool is waited for when it is closed."""

_MAX_WAITING: Final = 256
_MAX_TEXT: Final = 200

Row = tuple[Any, ...]
Connection = AsyncConnection[Row]


class DatabaseUnavailable(StoreUnavailable):
    """PostgreSQL does not answer, or refuses what the broker requests. It says nothing more."""

    code = "database-unavailable"


class SchemaUnusable(DatabaseUnavailable):
    """The schema is missing, too old, too new, or this role may not use it; a person must act."""


class Raced(Exception):  # it never leaves this package
    """Another transaction changed what this one depends on; try again."""


class CommitUnknown(DatabaseUnavailable):
    """The connection ended during the commit, so that it is not known whether it happened."""


for _name in ("psycopg", "psycopg.pool"):  # they would write to standard error
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


class Database:
    """Pool of connections. It connects when it is first used, and again after each failure.

    Attributes:
        problem: why the last transaction failed, for operators; empty after one that did not.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.problem = ""
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._closed = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Begin a transaction that reads one state of the database.

        Raises:
            DatabaseUnavailable: see the class.
        """
        async with self._transaction("REPEATABLE READ, READ ONLY") as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """Begin a serialisable transaction.

        Raises:
            Raced: it collided with another one, and nothing is stored.
            CommitUnknown, DatabaseUnavailable: see the classes.
        """
        async with self._transaction("SERIALIZABLE") as connection:
            yield connection

    @asynccontextmanager
    async def appending(self) -> AsyncIterator[Connection]:
        """Begin a transaction that writes what no other one depends on.

        Raises:
            Raced, CommitUnknown, DatabaseUnavailable: see the classes.
        """
        async with self._transaction("READ COMMITTED") as connection:
            yield connection

    async def call(self, statement: LiteralString, *values: object) -> Row | None:
        """Run one statement, a transaction of its own; return its first row, if it has one.

        Raises:
            Raced, DatabaseUnavailable: see the classes.
        """
        with self._translated():
            pool = await self._opened()
            seconds = AGAIN_SECONDS if self.problem else WAIT_SECONDS
            async with pool.connection(seconds) as connection, _bounded(connection):
                cursor = await connection.execute(statement, values)
                row = None if cursor.description is None else await cursor.fetchone()
        self.problem = ""
        return row

    async def connect(self) -> Connection:
        """Open a connection outside the pool, which commits each statement.

        Raises:
            DatabaseUnavailable: see the class.
        """
        with self._translated():
            return await _Connection.of(self.address).connect(
                "", autocommit=True, **self.address.parameters
            )

    async def listen(
        self, connection: Connection, channel: LiteralString, notify: Callable[[], object]
    ) -> None:
        """Call a function for each notification, and once at the beginning, until it fails.

        Raises:
            DatabaseUnavailable: the connection has ended.
        """
        with self._translated():
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            notify()  # for changes before
            async for _ in connection.notifies():
                notify()

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=CLOSE_SECONDS)

    @asynccontextmanager
    async def _transaction(self, isolation: str) -> AsyncIterator[Connection]:
        with self._translated():
            pool = await self._opened()
            seconds = AGAIN_SECONDS if self.problem else WAIT_SECONDS
            async with pool.connection(seconds) as connection, _bounded(connection):
                await connection.execute(f"BEGIN ISOLATION LEVEL {isolation}")
                try:
                    yield connection
                except BaseException:
                    if not connection.closed:
                        await connection.rollback()
                    raise
                await self._commit(connection)

    async def _commit(self, connection: Connection) -> None:
        try:
            await connection.commit()
        except (errors.SerializationFailure, errors.DeadlockDetected):
            raise
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.problem = described(error)
            raise CommitUnknown(
                "the connection to the database ended during a change, and it is not known "
                "whether it is stored; read it again"
            ) from None

    async def _opened(self) -> AsyncConnectionPool[Connection]:
        if self._closed:
            raise DatabaseUnavailable("the connections to the database are closed")
        if self._pool is None:
            pool = self._pool = AsyncConnectionPool(
                "",
                connection_class=_Connection.of(self.address),
                kwargs={**self.address.parameters, "autocommit": True},
                min_size=1,
                max_size=CONNECTIONS,
                open=False,
                timeout=WAIT_SECONDS,
                max_waiting=_MAX_WAITING,
                reconnect_timeout=RETRY_SECONDS,
                check=_check,
                name="store",
            )
            await pool.open()
        return self._pool

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn errors of psycopg into the project's."""
        try:
            yield
        except (errors.SerializationFailure, errors.DeadlockDetected):
            raise Raced from None
        except (PoolTimeout, TooManyRequests):
            # The pool's own text has no cause; that of the last connection is in `problem`.
            cause = _Connection.problems.get(self.address.text, "")
            self.problem = cause or f"{self.address.text} gives no connection"
            raise DatabaseUnavailable("the database does not answer; try again later") from None
        except SecretFileUnusable as error:
            self.problem = str(error)
            raise DatabaseUnavailable("the database cannot be used; see readiness") from None
        except _UNUSABLE as error:
            self.problem = f"{described(error)}; run 'verdictd-py store migrate' and 'store schema'"
            raise SchemaUnusable(self.problem) from None
        except psycopg.Error as error:
            self.problem = described(error)
            raise DatabaseUnavailable(
                f"the database does not answer ({type(error).__name__}); try again later"
            ) from None


_UNUSABLE: Final = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.InvalidSchemaName,
    errors.InsufficientPrivilege,
    errors.InvalidCatalogName,
)


class _Connection(AsyncConnection[Row]):
    """Connection whose password is read when it connects, so that a new one takes effect."""

    _address: Address
    problems: dict[str, str] = {}  # noqa: RUF012  # shared by all, by address

    @classmethod
    def of(cls, address: Address) -> type[Self]:
        """Return the class of connections to an address."""
        return type("_Connection", (cls,), {"_address": address})

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:  # noqa: ANN401  # libpq's
        try:
            password = await asyncio.to_thread(cls._address.password)
            if password is not None:
                kwargs["password"] = password
            connection = await super().connect(conninfo, **kwargs)
        except SecretFileUnusable as error:
            cls.problems[cls._address.text] = str(error)
            raise
        except psycopg.Error as error:
            cls.problems[cls._address.text] = described(error)
            raise
        cls.problems.pop(cls._address.text, None)
        return connection


@asynccontextmanager
async def _bounded(connection: Connection, seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    """Disconnect a connection on which work takes longer than `seconds`.

    The work then fails as if the server had disconnected, so that a commit ends as `CommitUnknown`.
    To cancel the work would send a request to the server, and wait for its answer.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _disconnect, connection)
    try:
        yield
    finally:
        timer.cancel()


def _disconnect(connection: Connection) -> None:
    if not connection.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as shared:
            shared.shutdown(socket.SHUT_RDWR)


async def _check(connection: Connection) -> None:
    async with _bounded(connection, TRIAL_SECONDS):
        await AsyncConnectionPool.check_connection(connection)


def described(error: psycopg.Error) -> str:
    """Return one line about an error, for operators: the server's text, never a statement."""
    text = error.diag.message_primary or str(error)
    return " ".join(text.split())[:_MAX_TEXT] or type(error).__name__
