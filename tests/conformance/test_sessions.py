"""Conformance of the port `SessionStore`; the suite is in `sessions`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.sessions import SessionStoreConformance
from tests.support.events import RecordedEvents
from verdictd_py.ports import SessionStore
from verdictd_py.storage import sharedsessions
from verdictd_py.storage.sessions import MemorySessionStore, SessionLimits
from verdictd_py.storage.sharedsessions import SharedSessionStore
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore


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
