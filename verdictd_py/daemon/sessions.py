"""Choice of the store of HTTP guests' sessions, and what the daemon needs of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.database import open_database
from verdictd_py.ports import Events, SessionStore
from verdictd_py.storage.sessions import MemorySessionStore
from verdictd_py.storage.sharedsessions import SharedSessionStore
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore
from verdictd_py.valkey.sessions import ValkeySessionStore


@dataclass(frozen=True, slots=True)
class OpenedSessions:
    """An open store of sessions.

    Attributes:
        store: the port.
        fault: returns why sessions cannot be used now; empty if they can.
        release: releases the memory of what has expired, for stores in memory.
        close: closes the store.
        counts: returns the numbers of challenges and tokens, as `fault` has found them if they
            are not in memory.
    """

    store: SessionStore
    fault: Callable[[], Awaitable[str]]
    release: Callable[[datetime], None]
    close: Callable[[], Awaitable[None]]
    counts: Callable[[], tuple[int, int]]


def open_sessions(
    settings: Settings, unsafe: Unsafe, events: Events, shared: SharedSessionStore | None
) -> OpenedSessions:
    """Open the store that the settings name.

    Args:
        shared: sessions of all workers, if the settings name no other store; None for one process.

    Raises:
        ConfigError: the store cannot be used; the message has the cause and the remedy.
    """
    if (url := settings.kbs_sessions_url) is not None:
        engine = ValkeySessionStore.open(url)
        return OpenedSessions(engine, engine.fault, _nothing, engine.close, lambda: engine.counts)
    if (database := settings.kbs_sessions_database) is not None:
        opened = open_database(settings, unsafe, database)
        from verdictd_py.postgres.sessions import (  # noqa: PLC0415  # an optional extra
            PostgresSessionStore,
        )

        rows = PostgresSessionStore(opened)
        return OpenedSessions(rows, rows.fault, _nothing, rows.close, lambda: rows.counts)
    if (file := settings.kbs_sessions_file) is not None:
        sqlite = SqliteSessionStore.open(file, events=events)
        return OpenedSessions(
            sqlite, sqlite.fault, _nothing, _closing(sqlite.close), lambda: sqlite.counts
        )
    memory = MemorySessionStore() if shared is None else shared
    return OpenedSessions(
        memory, _usable, memory.release, _closing(memory.close), lambda: memory.counts
    )


def _nothing(now: datetime) -> None:
    """Do nothing: the store releases by itself what has expired."""
    del now


async def _usable() -> str:
    return ""


def _closing(close: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def closing() -> None:
        close()

    return closing
