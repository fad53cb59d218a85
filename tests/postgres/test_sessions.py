"""Sessions of HTTP guests in a real PostgreSQL: brokers that share them, and what can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.sessions import END, NOW, name
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.postgres import TestDatabase, empty_database
from tests.support.rcar_guests import connected, session_id, tdx_guest, use_session_id
from verdictd_py.errors import StorageError
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.postgres.database import Database
from verdictd_py.postgres.sessions import PostgresSessionStore


@pytest.fixture
async def database() -> TestDatabase:
    return await empty_database()


@pytest.fixture
async def brokers(database: TestDatabase) -> AsyncIterator[list[PostgresSessionStore]]:
    """Return the stores of three brokers."""
    stores = [PostgresSessionStore(Database(database.address()), call_seconds=60) for _ in range(3)]
    yield stores
    for store in stores:
        await store.close()


async def test_a_challenge_is_taken_once_among_brokers_that_write_at_the_same_time(
    brokers: list[PostgresSessionStore],
) -> None:
    for number in range(20):
        await brokers[0].add_challenge(name(number), "c", now=NOW, expires=END)
    writing = [
        store.add_token(name(100 + number), "t", now=NOW, expires=END)
        for number in range(20)
        for store in brokers
    ]
    taking = [store.take_challenge(name(n), now=NOW) for n in range(20) for store in brokers]
    results = await asyncio.gather(*writing, *taking)
    assert results.count("c") == 20
    assert await brokers[1].fault() == ""
    assert brokers[1].counts == (0, 20)


async def test_a_crash_of_the_server_restores_no_challenge(
    brokers: list[PostgresSessionStore], database: TestDatabase
) -> None:
    """Tables that are not logged are emptied after a crash, and copied to no standby."""
    await brokers[0].add_challenge(name(1), "c", now=NOW, expires=END)
    persistence = database.execute(
        "SELECT relname, relpersistence::text FROM pg_class WHERE relname IN "
        "('sessions', 'session_totals') ORDER BY relname"
    )
    assert persistence == [("session_totals", "u"), ("sessions", "u")]
    database.execute("TRUNCATE verdictd.sessions, verdictd.session_totals")
    assert await brokers[0].take_challenge(name(1), now=NOW) is None
    await brokers[0].add_challenge(name(1), "c", now=NOW, expires=END)
    assert await brokers[1].take_challenge(name(1), now=NOW) == "c"


async def test_totals_that_another_client_changed_do_not_stop_guests(
    brokers: list[PostgresSessionStore], database: TestDatabase
) -> None:
    await brokers[0].add_token(name(1), "t", now=NOW, expires=END)
    database.execute("DELETE FROM verdictd.sessions")
    database.execute("UPDATE verdictd.session_totals SET number = 10000000, size = 10000000")
    await brokers[0].add_token(name(2), "t", now=NOW, expires=END)
    await brokers[0].add_token(name(3), "t", now=NOW, expires=END)
    assert await brokers[1].token(name(3), now=NOW) == "t"


async def test_a_missing_right_is_reported_with_the_cause(
    brokers: list[PostgresSessionStore], database: TestDatabase
) -> None:
    database.execute(f'REVOKE DELETE ON verdictd.sessions FROM "{database.role}"')
    with pytest.raises(StorageError, match="permission denied"):
        await brokers[0].take_challenge(name(1), now=NOW)


async def test_a_guest_attests_at_one_broker_and_fetches_at_the_other(
    tmp_path: Path, database: TestDatabase
) -> None:
    shared: dict[str, Any] = {
        "kbs_sessions": database.url,
        "store_password_file": database.password_file,
    }
    (tmp_path / "one" / "data" / "tokens").mkdir(parents=True, mode=0o700)
    (tmp_path / "two" / "data").mkdir(parents=True, mode=0o700)
    async with running_kbs(tmp_path / "one", **shared) as one:
        keys = (tmp_path / "one" / "data" / "tokens" / "keys").read_bytes()
        other = tmp_path / "two" / "data" / "tokens"
        other.mkdir(mode=0o700)
        (other / "keys").touch(mode=0o600)
        (other / "keys").write_bytes(keys)  # as with a shared directory, or --store
        async with running_kbs(tmp_path / "two", platform=one.platform, **shared) as two:
            guest = tdx_guest(one.platform)
            async with (
                connected(url_of(one), guest) as first,
                connected(url_of(two), guest) as second,
            ):
                body = await first.answer(await first.auth())
                use_session_id(second, session_id(first))
                results = await asyncio.gather(
                    *(each.attest(body) for each in (first, second)), return_exceptions=True
                )
                assert sum(isinstance(result, KbsRefused) for result in results) == 1
                for session in (first, second):
                    assert (await session.get(str(PATH))).reveal() == SECRET
