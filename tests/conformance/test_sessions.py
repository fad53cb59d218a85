"""Conformance of the port `SessionStore`; the suite is in `sessions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conformance.sessions import SessionStoreConformance
from tests.support.events import RecordedEvents
from tests.support.postgres import empty_database
from tests.support.valkey import ValkeyServer, needs_valkey, running_valkey
from verdictd_py.engineurls import EngineUrl
from verdictd_py.ports import SessionStore
from verdictd_py.ports.sessions import SessionLimits
from verdictd_py.postgres.database import Database
from verdictd_py.postgres.sessions import PostgresSessionStore
from verdictd_py.storage import sharedsessions
from verdictd_py.storage.sessions import MemorySessionStore
from verdictd_py.storage.sharedsessions import SharedSessionStore
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore
from verdictd_py.valkey.sessions import ValkeySessionStore


class TestMemory(SessionStoreConformance):
    async def opened(self, directory: Path, limits: SessionLimits) -> SessionStore:
        return MemorySessionStore(limits)


class TestSqlite(SessionStoreConformance):
    @pytest.fixture(autouse=True)
    def _closed(self) -> Iterator[None]:
        self.stores: list[SqliteSessionStore] = []
        yield
        for store in self.stores:
            store.close()

    async def opened(self, directory: Path, limits: SessionLimits) -> SessionStore:
        self.stores.append(
            SqliteSessionStore.open(directory / "sessions", limits, events=RecordedEvents())
        )
        return self.stores[-1]


class TestShared(SessionStoreConformance):
    """The first of two workers; the other one stores nothing."""

    @pytest.fixture(autouse=True)
    def _closed(self) -> Iterator[None]:
        self.stores: list[SharedSessionStore] = []
        yield
        for store in self.stores:
            store.close()
        self.stores.clear()  # pytest keeps this object, and each mapping has a descriptor

    async def opened(self, directory: Path, limits: SessionLimits) -> SessionStore:
        self.stores.append(SharedSessionStore(sharedsessions.create(2, limits), 0, limits))
        return self.stores[-1]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@needs_valkey
class TestValkey(SessionStoreConformance):
    @pytest.fixture(autouse=True)
    async def _closed(self, valkey: ValkeyServer) -> AsyncIterator[None]:
        valkey.command("FLUSHALL")
        self.url = EngineUrl.parse(valkey.url)
        self.stores: list[ValkeySessionStore] = []
        yield
        for store in self.stores:
            await store.close()

    async def opened(self, directory: Path, limits: SessionLimits) -> SessionStore:
        # The server may be slow on a busy machine, and a test sends it 500 calls at once.
        self.stores.append(ValkeySessionStore.open(self.url, limits, call_seconds=60))
        return self.stores[-1]


class TestPostgres(SessionStoreConformance):
    @pytest.fixture(autouse=True)
    async def _closed(self) -> AsyncIterator[None]:
        self.database = await empty_database()
        self.stores: list[PostgresSessionStore] = []
        yield
        for store in self.stores:
            await store.close()

    async def opened(self, directory: Path, limits: SessionLimits) -> SessionStore:
        database = Database(self.database.address())
        self.stores.append(PostgresSessionStore(database, limits, call_seconds=60))
        return self.stores[-1]
