"""The history survives restarts, kills and damage; no failure of its file stops the broker."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import elapse_until, until
from tests.support.events import RecordedEvents
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker import revisions
from verdictd_py.broker.history import History
from verdictd_py.broker.historykeeper import HistoryKeeper
from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.broker.revisions import MAX_REVISIONS, Revisions
from verdictd_py.broker.uses import MAX_PATHS, Use
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.errors import AttestationError, NotFound, PolicyRefused, Reason, ReasonKind
from verdictd_py.storage.sqlite_history import SqliteHistory

OPERATOR = Caller("operator", ROLES["operator"])
REFUSED = PolicyRefused(
    "refused by policy",
    reasons=(Reason("rtmr1", "ab", "cd", "rtmr1: ab, not cd", kind=ReasonKind.MEASUREMENT),),
)


def judged(number: int, refusal: AttestationError | None = None) -> Judgement:
    at = NOW + timedelta(seconds=number)
    appraisal = Appraisal(f"id{number}", at, "tdx", "t", VERIFIED, bound=True, refusal=refusal)
    return Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx"))


class Broker:
    """A history and its keeper, as a broker has them."""

    def __init__(self, path: Path, capacity: int = 500) -> None:
        self.events = RecordedEvents()
        self.history = History(capacity=capacity)
        self.texts = {"tdxPolicy.rego": "package a"}
        self.revisions = Revisions(self._read, lambda: self.now)
        self.now = NOW
        books = (self.history.uses, self.revisions)
        self.keeper = HistoryKeeper(self.history, SqliteHistory(path, self.events), books)

    async def _read(self) -> list[tuple[str, str]]:
        return list(self.texts.items())

    async def started(self) -> Broker:
        await self.keeper.load()
        return self

    def ids(self, verdict: Verdict = Verdict.ACCEPTED) -> list[str]:
        return [judgement.id for judgement in self.history.last(OPERATOR, verdict, 0)]

    @property
    def warnings(self) -> list[str]:
        return [str(event["reason"]) for event in self.events.named("warning.storage")]


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history" / "appraisals.sqlite"


async def test_everything_is_there_after_a_restart(path: Path) -> None:
    first = await Broker(path).started()
    for number in range(5):
        first.history.remember(judged(number))
    for number in range(10, 13):
        first.history.remember(judged(number, REFUSED))
    before = first.history.everything()
    await first.keeper.close()
    second = await Broker(path).started()
    assert second.history.everything() == before
    (refused,) = second.history.last(OPERATOR, Verdict.REFUSED, 0)
    assert (refused.times, refused.earlier) == (3, ("id10", "id11"))
    assert second.history.find(OPERATOR, "id10") == refused
    second.history.remember(judged(13, REFUSED))  # it continues the row
    assert second.history.last(OPERATOR, Verdict.REFUSED, 0)[0].times == 4
    await second.keeper.close()
    assert second.warnings == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_what_came_before_the_history_was_loaded_is_newer(path: Path) -> None:
    first = await Broker(path).started()
    first.history.remember(judged(1))
    await first.keeper.close()
    second = Broker(path)
    second.history.remember(judged(2))
    await second.keeper.load()
    assert second.ids() == ["id2", "id1"]
    until, counts = second.history.tallies(OPERATOR, NOW, 300, 1)
    assert [number for *_, number in counts] == [2]
    await second.keeper.close()
    third = await Broker(path).started()
    assert [number for *_, number in third.history.tallies(OPERATOR, NOW, 300, 1)[1]] == [2]
    assert until > NOW


async def test_what_is_evicted_is_deleted(path: Path) -> None:
    first = await Broker(path, capacity=2).started()
    for number in range(3):
        first.history.remember(judged(number))
        await first.keeper.flush()
    await first.keeper.close()
    second = await Broker(path).started()
    assert second.ids() == ["id2", "id1"]


async def test_a_damaged_file_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)
    first = await Broker(path).started()
    assert "was damaged and begins again" in first.warnings[0]
    first.history.remember(judged(1))
    await first.keeper.close()
    assert (await Broker(path).started()).ids() == ["id1"]
    assert path.with_name("appraisals.sqlite.damaged").read_bytes().startswith(b"this is no")


async def test_a_file_that_is_damaged_while_it_is_used_gets_everything_again(path: Path) -> None:
    first = await Broker(path).started()
    for number in range(3):
        first.history.remember(judged(number))
    await first.keeper.flush()
    store = first.keeper._store
    assert isinstance(store, SqliteHistory)
    store._disconnect()
    path.write_bytes(b"\0" * 100_000)
    first.history.remember(judged(3))
    await first.keeper.close()
    assert len(first.warnings) == 1
    assert (await Broker(path).started()).ids() == ["id3", "id2", "id1", "id0"]


async def test_a_file_that_was_removed_is_written_again(path: Path) -> None:
    first = await Broker(path).started()
    first.history.remember(judged(0))
    first.history.note_release(["keys/a"], NOW)
    await first.revisions.observe()
    await first.keeper.flush()
    for each in path.parent.iterdir():
        each.unlink()
    first.history.remember(judged(1))
    await first.keeper.close()
    second = await Broker(path).started()
    assert second.ids() == ["id1", "id0"]
    assert second.history.uses.of("keys/a") == Use(1, NOW)
    assert len(second.revisions.list_of(OPERATOR, "tdxPolicy.rego")) == 1


async def test_a_row_that_cannot_be_read_is_ignored_and_deleted(path: Path) -> None:
    first = await Broker(path).started()
    for number in range(3):
        first.history.remember(judged(number))
    await first.keeper.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE judgements SET body = '[' WHERE id = 'id0'")
    connection.execute("UPDATE judgements SET body = '{}' WHERE id = 'id1'")
    connection.commit()
    connection.close()
    second = await Broker(path).started()
    assert second.ids() == ["id2"]
    await second.keeper.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id FROM judgements").fetchall() == [("id2",)]
    connection.close()


async def test_a_failure_is_recorded_once_and_mended_later(path: Path) -> None:
    path.parent.parent.joinpath("history").write_text("a file in place of the directory")
    first = await Broker(path).started()
    first.history.remember(judged(0))
    await first.keeper.flush()
    first.history.remember(judged(1))
    await first.keeper.flush()
    assert len(first.warnings) == 1
    assert first.ids() == ["id1", "id0"]
    path.parent.unlink()
    first.history.remember(judged(2))
    await first.keeper.close()
    assert (await Broker(path).started()).ids() == ["id2", "id1", "id0"]


async def test_what_cannot_be_read_at_the_start_is_read_later(path: Path) -> None:
    first = await Broker(path).started()
    first.history.remember(judged(0))
    await first.keeper.close()
    away = path.parent.rename(path.parent.with_name("away"))
    path.parent.write_text("a file in place of the directory")
    second = Broker(path)
    keeping = asyncio.create_task(second.keeper.keep())
    await until(lambda: second.warnings)
    second.history.remember(judged(1))
    path.parent.unlink()
    away.rename(path.parent)
    await elapse_until(lambda: len(second.ids()) == 2)
    await stop(keeping)
    await second.keeper.close()
    third = await Broker(path).started()
    assert third.ids() == ["id1", "id0"]
    assert [number for *_, number in third.history.tallies(OPERATOR, NOW, 300, 1)[1]] == [2]


async def test_a_broker_that_stops_before_it_has_loaded_loses_nothing(path: Path) -> None:
    first = Broker(path)
    first.history.remember(judged(0))
    await first.keeper.close()
    assert (await Broker(path).started()).ids() == ["id0"]


class StoppedHistory(SqliteHistory):
    """A store whose first write does not end."""

    def __init__(self, path: Path, events: RecordedEvents) -> None:
        super().__init__(path, events)
        self.writing = asyncio.Event()

    async def write(self, *args: Any) -> bool:
        if not self.writing.is_set():
            self.writing.set()
            await asyncio.Event().wait()
        return await super().write(*args)


async def test_a_write_that_the_end_of_the_broker_interrupts_is_done_again(path: Path) -> None:
    history, store = History(), StoppedHistory(path, RecordedEvents())
    keeper = HistoryKeeper(history, store)
    keeping = asyncio.create_task(keeper.keep())
    history.remember(judged(0))
    await store.writing.wait()
    await stop(keeping)
    await keeper.close()
    assert (await Broker(path).started()).ids() == ["id0"]


async def test_nothing_is_written_without_a_change(path: Path) -> None:
    first = await Broker(path).started()
    await first.keeper.flush()
    await first.keeper.close()
    assert (await Broker(path).started()).ids() == []


async def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    target = tmp_path / "target"
    target.write_bytes(b"")  # SQLite would begin a database in it
    path.symlink_to(target)
    first = await Broker(path).started()
    first.history.remember(judged(0))
    await first.keeper.close()
    assert target.read_bytes() == b""
    assert len(first.warnings) == 1


_WRITER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.storage.test_sqlite_history import Broker, judged

async def main():
    broker = await Broker(Path(sys.argv[1])).started()
    number = len(broker.ids())
    while True:
        number += 1
        broker.history.remember(judged(number))
        await broker.keeper.flush()
        print(number, flush=True)

asyncio.run(main())
"""


def test_a_kill_loses_nothing_that_was_stored(path: Path) -> None:
    root = str(Path(__file__).parents[2])
    written = 0
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER.format(root=root), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(3 + kill):
            written = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    (number,) = connection.execute("SELECT count(*) FROM judgements").fetchone()
    connection.close()
    assert number >= written


async def test_a_file_of_a_later_version_is_left_as_it_is(path: Path) -> None:
    first = await Broker(path).started()
    first.history.remember(judged(0))
    await first.keeper.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    before = path.read_bytes()
    second = await Broker(path).started()
    assert second.ids() == []
    second.history.remember(judged(1))
    await second.keeper.flush()
    await second.keeper.close()
    (warning,) = second.warnings
    assert "a later version of verdictd-py wrote it" in warning
    assert path.read_bytes() == before


async def test_uses_of_secrets_are_there_after_a_restart(path: Path) -> None:
    first = await Broker(path).started()
    first.history.note_release(["keys/a", "b/c/d"], NOW)
    first.history.note_release(["keys/a"], NOW + timedelta(hours=1))
    await first.keeper.close()
    second = Broker(path)
    second.history.note_release(["keys/a"], NOW + timedelta(hours=2))
    await second.started()
    uses = second.history.uses
    assert uses.of("keys/a") == Use(3, NOW + timedelta(hours=2))
    assert uses.of("b/c/d") == Use(1, NOW)
    assert uses.of("keys/other") is None
    await second.keeper.close()
    third = await Broker(path).started()
    assert third.history.uses.of("keys/a") == Use(3, NOW + timedelta(hours=2))


async def test_the_number_of_paths_whose_uses_are_counted_is_limited(path: Path) -> None:
    first = await Broker(path).started()
    first.history.note_release(["keys/first"], NOW)
    await first.keeper.flush()
    first.history.note_release([f"keys/{n}" for n in range(MAX_PATHS)], NOW)
    assert first.history.uses.of("keys/first") is None
    await first.keeper.close()
    second = await Broker(path).started()
    assert second.history.uses.of("keys/first") is None
    assert second.history.uses.of("keys/0") is not None


async def test_earlier_texts_of_documents_are_there_after_a_restart(path: Path) -> None:
    first = await Broker(path).started()
    await first.revisions.observe()
    first.texts["tdxPolicy.rego"] = "package b"
    first.now = NOW + timedelta(hours=1)
    await first.revisions.observe()
    await first.keeper.close()
    second = await Broker(path).started()
    texts = [each.text for each in second.revisions.list_of(OPERATOR, "tdxPolicy.rego")]
    assert texts == ["package b", "package a"]
    assert second.revisions.list_of(OPERATOR, "other") == []
    newest = second.revisions.list_of(OPERATOR, "tdxPolicy.rego")[0]
    assert newest.since == first.now
    assert second.revisions.get(OPERATOR, newest.sha256) == newest
    with pytest.raises(NotFound):
        second.revisions.get(OPERATOR, "00" * 32)


async def test_the_number_of_texts_of_a_document_is_limited(path: Path) -> None:
    first = await Broker(path).started()
    for number in range(MAX_REVISIONS + 2):
        first.texts["tdxPolicy.rego"] = f"package a{number}"
        await first.revisions.observe()
        await first.keeper.flush()
    listed = first.revisions.list_of(OPERATOR, "tdxPolicy.rego")
    assert len(listed) == MAX_REVISIONS
    assert [first.revisions.is_current(each) for each in listed].count(True) == 1
    await first.keeper.close()
    second = await Broker(path).started()
    assert len(second.revisions.list_of(OPERATOR, "tdxPolicy.rego")) == MAX_REVISIONS


async def test_the_size_of_all_texts_is_limited(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "MAX_BYTES", 1000)
    broker = await Broker(path).started()
    for number in range(4):
        broker.texts["tdxPolicy.rego"] = f"package a{number}".ljust(400)
        await broker.revisions.observe()
    listed = broker.revisions.list_of(OPERATOR, "tdxPolicy.rego")
    assert len(listed) == 2
    assert [broker.revisions.is_current(each) for each in listed].count(True) == 1
    await broker.keeper.close()
