"""History of appraisals in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.events import RecordedEvents
from tests.support.memory import NOW
from tests.support.postgres import TestDatabase, objects_of
from verdictd_py.broker.uses import Uses
from verdictd_py.domain.events import WarningStorage
from verdictd_py.ports.history import HistoryRow
from verdictd_py.postgres import history as tested
from verdictd_py.postgres.history import PostgresHistory
from verdictd_py.postgres.objects import Objects

ROW = HistoryRow("a1", "accepted", 1_800_000_000.125, '{"id":"a1"}')
COUNT = (7, "accepted", "ok", 3)
ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest_asyncio.fixture
async def objects(database: TestDatabase) -> AsyncIterator[Objects]:
    opened = objects_of(database)
    yield opened
    await opened.close()


async def test_judgements_are_shared_and_counts_are_not(objects: Objects) -> None:
    events = RecordedEvents()
    one, two = (PostgresHistory(objects, writer, events) for writer in (ONE, TWO))
    assert await one.write([ROW], (), [COUNT], 0)
    assert await one.load() == ([ROW], [COUNT])
    assert await two.load() == ([ROW], [])
    assert await two.write([], ["a1"], [], 8)
    assert await one.load() == ([], [])
    assert not events.events


async def test_each_broker_counts_its_own_releases(objects: Objects) -> None:
    one, two = (PostgresHistory(objects, writer, RecordedEvents()) for writer in (ONE, TWO))
    rows: list[HistoryRow] = []
    for history, releases in ((one, 5), (two, 3)):
        uses = Uses()
        for _ in range(releases):
            uses.note(["keys/a"], NOW)
        rows += uses.changes()[0]
        assert await history.write(rows[-1:], (), [], 0)
    assert await one.load() == (rows[:1], [])
    assert await two.load() == (rows[1:], [])
    assert await two.write([], [rows[1].id], [], 0)
    assert await one.load() == (rows[:1], [])
    assert await two.load() == ([], [])


async def test_the_oldest_row_of_each_kind_is_loaded(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy guests leave the text of a policy that has been in force for months."""
    monkeypatch.setattr(tested, "MAX_ROWS", 3)
    history = PostgresHistory(objects, ONE, RecordedEvents())
    kinds = ("refused", "unverified", "accepted", "use", "revision")
    rows = [
        HistoryRow(f"{kind}{n}", kind, 1e9 - at, "{}")
        for at, kind in enumerate(kinds)
        for n in "abc"
    ]
    assert await history.write(rows, (), [], 0)
    stored = await history.load()
    assert stored is not None
    assert {row.id for row in stored[0]} == {row.id for row in rows}


async def test_a_forged_judgement_is_ignored(database: TestDatabase, objects: Objects) -> None:
    history = PostgresHistory(objects, ONE, RecordedEvents())
    await history.write([ROW], (), [], 0)
    database.execute(
        "INSERT INTO verdictd.judgements SELECT 'a2', kind, at, body, tag FROM verdictd.judgements"
    )
    assert await history.load() == ([ROW], [])
    database.execute("UPDATE verdictd.judgements SET body = '{}'")
    assert await history.load() == ([], [])


async def test_a_failure_is_reported_once_and_everything_is_written_again(
    database: TestDatabase, objects: Objects
) -> None:
    events = RecordedEvents()
    history = PostgresHistory(objects, ONE, events)
    await objects.confirm()
    database.stop()
    try:
        for _ in range(2):
            assert await history.write([ROW], (), [], 0)  # the next batch tries again
        assert await history.load() is None
    finally:
        database.resume()
    assert len(events.of(WarningStorage)) == 1
    for _ in range(100):  # the pool connects again with growing pauses
        if not await history.write([], (), [], 0):
            break  # the caller writes everything again
    else:
        pytest.fail("the caller never learns that rows are missing")
    assert await history.write([ROW], (), [], 0)
    assert await history.load() == ([ROW], [])
