"""A server that stops during a transaction, and never answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from tests.support.clock import elapse_until, until
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Database, DatabaseUnavailable, _check
from verdictd_py.postgres.objects import BOUND_SECONDS, POLL_SECONDS


def _message(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


_IDLE = _message(b"Z", b"I")
_READY = (
    _message(b"R", bytes(4))
    + _message(b"S", b"server_version\0" + b"15.0\0")
    + _message(b"S", b"default_transaction_read_only\0off\0")
    + _message(b"S", b"in_hot_standby\0off\0")
    + _IDLE
)
"""AuthenticationOk, ParameterStatus and ReadyForQuery (PostgreSQL 15, "Message Formats")."""
_EMPTY = _message(b"I", b"") + _IDLE
"""EmptyQueryResponse and ReadyForQuery."""


class _Stopped(asyncio.Protocol):
    transport: asyncio.Transport
    is_ready = False

    def __init__(
        self,
        connections: set[asyncio.Transport],
        asked: asyncio.Event,
        *,
        answers_trials: bool = True,
    ) -> None:
        self.connections = connections
        self.asked = asked
        self.answers_trials = answers_trials

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if not self.is_ready:
            self.is_ready = True
            self.transport.write(_READY)
        elif self.answers_trials and data.startswith(b"Q\0\0\0\x05"):  # the empty query
            self.transport.write(_EMPTY)
        else:
            self.asked.set()


async def test_a_transaction_ends_although_the_server_has_stopped(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Transport] = set()
    asked = asyncio.Event()
    server = await loop.create_unix_server(
        lambda: _Stopped(connections, asked), tmp_path / ".s.PGSQL.5432"
    )
    database = Database(Address.parse(f"postgresql://broker@/site?host={tmp_path}"))

    async def read() -> None:
        async with database.reading() as connection:
            await connection.execute("SELECT 1")

    async with server:
        reading = asyncio.create_task(read())
        await asked.wait()
        await elapse_until(reading.done)
        with pytest.raises(DatabaseUnavailable):
            await reading
        assert database.problem
        await database.close()
        for connection in tuple(connections):
            connection.abort()
        await until(lambda: not connections)


async def test_an_idle_connection_is_given_up_before_everything_is_refused(tmp_path: Path) -> None:
    """So readiness reports a server that cannot be reached before the broker refuses guests."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.Transport] = set()
    asked = asyncio.Event()
    server = await loop.create_unix_server(
        lambda: _Stopped(connections, asked, answers_trials=False), tmp_path / ".s.PGSQL.5432"
    )
    database = Database(Address.parse(f"postgresql://broker@/site?host={tmp_path}"))
    async with server:
        connection = await database.connect()
        trial = asyncio.create_task(_check(connection))
        await asked.wait()
        assert POLL_SECONDS + await elapse_until(trial.done) < BOUND_SECONDS
        with pytest.raises(psycopg.OperationalError):
            await trial
        await connection.close()
        for each in tuple(connections):
            each.abort()
        await until(lambda: not connections)
