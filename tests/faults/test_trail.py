"""Faults of the audit trail: its file is removed, rotated or full, and fsync fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.clock import elapse_until
from tests.support.command import environment
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import AuditClosed, AuditNotKept, KeyCreated, SecretReleased
from verdictd_py.errors import StorageError
from verdictd_py.events import audit
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.chain import verify
from verdictd_py.guest.connection import BrokerRefused

OWN = 2
"""Records that the trail writes about itself at the beginning of a file: `audit.began`, a head."""


def created(number: int) -> KeyCreated:
    return KeyCreated(caller="uid 0", kid=f"key-{number}")


def files(directory: Path) -> list[Path]:
    """Return the files of the trail, the oldest first."""
    found = list(directory.glob("*.jsonl"))
    return sorted(found, key=lambda path: path.read_bytes().partition(b'"time":')[2][:40])


def records(*paths: Path) -> list[dict[str, Any]]:
    """Return the records of events that others cause, and of what happened to the files."""
    decoded = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
    return [record for record in decoded if record["event"] not in ("audit.began", "audit.head")]


@pytest.fixture
def log() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def trail(tmp_path: Path, log: RecordedEvents) -> Iterator[AuditTrail]:
    trail = AuditTrail(tmp_path, log)
    trail.open()
    yield trail
    trail.close()


def damage(file: Path, how: str) -> None:
    match how:
        case "remove":
            file.unlink()
        case "rename":  # logrotate
            file.rename(file.with_suffix(".1"))
        case "replace":  # logrotate with `create`
            file.rename(file.with_suffix(".1"))
            file.write_bytes(b"")
        case "truncate":  # logrotate with `copytruncate`
            shutil.copy(file, file.with_suffix(".1"))
            os.truncate(file, 0)
        case "append":
            with file.open("ab") as other:
                other.write(b"{}\n")


@pytest.mark.parametrize("how", ["remove", "rename", "replace", "truncate", "append"])
async def test_the_trail_continues_in_a_new_file(
    trail: AuditTrail, log: RecordedEvents, tmp_path: Path, how: str
) -> None:
    """The new file names the one before it, and each of them verifies by itself."""
    for number in range(3):
        await trail.commit(created(number))
    (first,) = files(tmp_path)
    before = first.read_bytes()
    damage(first, how)
    await trail.commit(created(3), created(4))
    (second,) = [file for file in files(tmp_path) if file != first]
    assert [record["event"] for record in records(second)] == ["audit.continued"] + [
        "key.created"
    ] * 2
    fields = records(second)[0]["fields"]
    assert (fields["file"], fields["records"]) == (f"audit/{first.name}", OWN + 3)
    assert fields["digest"] == verify(iter(before.splitlines(keepends=True)))[1]
    if how in ("rename", "replace", "truncate"):
        assert first.with_suffix(".1").read_bytes() == before
    assert verify(iter(second.read_bytes().splitlines(keepends=True)))[0] == OWN + 3
    assert [event.spec.name for event in log.events[-5:]] == [
        "audit.continued",
        "audit.opened",
        "audit.head",
        "key.created",
        "key.created",
    ]
    await trail.commit(created(5))
    assert verify(iter(second.read_bytes().splitlines(keepends=True)))[0] == OWN + 4


async def test_nothing_is_released_without_a_directory_for_the_trail(
    broker: RunningBroker,
) -> None:
    directory, away = broker.data / "audit", broker.data / "away"
    async with broker.guest() as guest:
        await guest.version()  # it is accepted
        directory.rename(away)
        with pytest.raises(BrokerRefused, match="audit trail cannot be written"):
            await guest.keks([KID])
        assert not broker.events.of(SecretReleased)
        away.rename(directory)
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    (first,) = files(directory)
    assert records(first)[-1]["event"] == "secret.released"


async def test_a_removed_trail_is_noticed_before_the_next_release(broker: RunningBroker) -> None:
    """Nobody could read a record in a file without a name."""
    async with broker.guest() as guest:
        await guest.keks([KID])
        (first,) = files(broker.data / "audit")
        first.unlink()
        assert (await guest.keks([KID]))[KID].reveal() == KEY
        (second,) = files(broker.data / "audit")
    assert [record["event"] for record in records(second)][:2] == [
        "audit.continued",
        "secret.released",
    ]


async def test_a_file_that_is_removed_while_it_is_written_prevents_the_release(
    trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def removing(descriptor: int) -> None:
        fsync(descriptor)
        for file in files(tmp_path):
            file.unlink()

    monkeypatch.setattr(os, "fsync", removing)
    with pytest.raises(StorageError):
        await trail.commit(created(0))
    monkeypatch.undo()
    await trail.commit(created(1))
    assert [record["event"] for record in records(*files(tmp_path))] == [
        "audit.continued",
        "key.created",
    ]


class HeldDisk:
    """A disk whose fsync waits until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.released, self.calls = threading.Event(), threading.Event(), 0
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.calls += 1
        self.began.set()
        assert self.released.wait(60)
        self._fsync(descriptor)


async def test_an_answer_waits_until_its_record_is_on_disk(
    trail: AuditTrail, log: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldDisk(monkeypatch)
    waiting = asyncio.ensure_future(trail.commit(created(0)))
    await asyncio.to_thread(disk.began.wait, 60)
    for _ in range(100):  # the event loop is not blocked
        await asyncio.sleep(0)
    assert not waiting.done()
    assert not log.of(KeyCreated)
    disk.released.set()
    await waiting
    assert log.of(KeyCreated) == [created(0)]


async def test_all_that_wait_share_one_fsync(
    trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldDisk(monkeypatch)
    first = asyncio.ensure_future(trail.commit(created(0)))
    await asyncio.to_thread(disk.began.wait, 60)
    others = [asyncio.ensure_future(trail.commit(created(number))) for number in range(1, 101)]
    await asyncio.sleep(0)
    disk.released.set()
    await asyncio.gather(first, *others)
    assert disk.calls == 2
    assert [record["fields"]["kid"] for record in records(*files(tmp_path))] == [
        f"key-{number}" for number in range(101)
    ]


async def test_all_that_wait_are_woken_by_one_call(
    trail: AuditTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldDisk(monkeypatch)
    first = asyncio.ensure_future(trail.commit(created(0)))
    await asyncio.to_thread(disk.began.wait, 60)
    others = [asyncio.ensure_future(trail.commit(created(number))) for number in range(1, 101)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    calls: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(callback: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(callback)
        return wake(callback, *arguments, **more)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    disk.released.set()
    await asyncio.gather(first, *others)
    assert len(calls) == 2


def test_files_of_earlier_runs_are_not_read(tmp_path: Path, log: RecordedEvents) -> None:
    """A terabyte, which takes hours to read."""
    earlier = tmp_path / "20261126T000000Z-00000000.jsonl"
    earlier.touch()
    os.truncate(earlier, 2**40)
    trail = AuditTrail(tmp_path, log)
    trail.open()
    trail.record(created(0))
    trail.close()
    assert [event.records for event in log.of(AuditClosed)] == [OWN + 2]


async def test_a_caller_that_disconnects_does_not_prevent_its_record(
    trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a guest could leave after its evidence was refused, without a record."""
    disk = HeldDisk(monkeypatch)
    first = asyncio.ensure_future(trail.commit(created(0)))
    await asyncio.to_thread(disk.began.wait, 60)
    second = asyncio.ensure_future(trail.commit(created(1)))
    await asyncio.sleep(0)
    for waiting in (first, second):
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    disk.released.set()
    await trail.commit(created(2))
    assert len(records(*files(tmp_path))) == 3


async def test_after_a_failed_fsync_the_trail_continues_in_a_new_file(
    trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports such an error once, and may have discarded the data."""
    await trail.commit(created(0))

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError):
        await trail.commit(created(1))
    monkeypatch.undo()
    await trail.commit(created(2))
    first, second = files(tmp_path)
    assert [record["fields"]["kid"] for record in records(first)] == ["key-0"]
    assert [record["event"] for record in records(second)] == ["audit.continued", "key.created"]
    assert "could not be written" in records(second)[0]["fields"]["reason"]


async def test_the_events_that_are_not_recorded_are_counted_each_minute_and_at_stop(
    broker: RunningBroker,
) -> None:
    directory, away = broker.data / "audit", broker.data / "away"
    async with broker.guest() as guest:
        await guest.keks([KID])
        for expected in (2, 1):
            directory.rename(away)
            for _ in range(expected):
                with pytest.raises(BrokerRefused):
                    await guest.keks([KID])
            away.rename(directory)
            if expected == 2:
                await elapse_until(lambda: broker.events.of(AuditNotKept))
    await broker.daemon.stop()
    (file,) = files(directory)
    counts = [line["fields"] for line in records(file) if line["event"] == "audit.not-kept"]
    assert counts == [{"refusals": 0, "failed": 2}, {"refusals": 0, "failed": 1}]
    (closed,) = broker.events.of(AuditClosed)
    assert verify(iter(file.read_bytes().splitlines(keepends=True))) == (
        closed.records,
        closed.digest,
    )


async def test_a_broker_without_a_trail_stops_and_logs_the_count(broker: RunningBroker) -> None:
    directory = broker.data / "audit"
    directory.rename(broker.data / "away")
    await broker.daemon.stop()
    assert broker.events.of(AuditNotKept) == [AuditNotKept(refusals=0, failed=1)]
    assert broker.events.names[-1] == "audit.closed"


async def test_a_disk_that_does_not_answer_does_not_keep_the_trail_from_closing(
    trail: AuditTrail, log: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BLOCKING_SECONDS", 0.01)  # window: the disk never answers
    disk = HeldDisk(monkeypatch)
    with pytest.raises(StorageError, match="does not answer"):
        trail.record(created(0))
    trail.close()
    assert log.names[-1] == "warning.audit"
    disk.released.set()


async def test_a_count_that_cannot_be_recorded_is_counted_again(
    trail: AuditTrail, log: RecordedEvents, tmp_path: Path
) -> None:
    """The log has it meanwhile."""
    away = tmp_path / "away"
    away.mkdir()
    (file,) = files(tmp_path)
    making = trail._files.making
    trail._files.making = replace(making, directory=away / "none")
    file.rename(away / file.name)
    with pytest.raises(StorageError):
        await trail.commit(created(0))
    trail.record_omitted()
    trail.record_omitted()
    assert log.of(AuditNotKept) == [AuditNotKept(refusals=0, failed=1)] * 2
    trail._files.making = making
    trail.record_omitted()
    trail.record_omitted()
    (continued,) = files(tmp_path)
    assert [line["fields"] for line in records(continued)[1:]] == [{"refusals": 0, "failed": 1}]


async def test_a_trail_that_is_closed_prevents_what_must_be_recorded(
    trail: AuditTrail, log: RecordedEvents
) -> None:
    trail.close()
    with pytest.raises(StorageError, match="not open"):
        await trail.commit(created(0))
    assert not log.of(KeyCreated)


def test_on_a_full_disk_no_change_happens_without_a_record(tmp_path: Path) -> None:
    """A real process, whose files must not grow beyond a limit."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.full_disk", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report = json.loads(done.stdout)
    assert report["failed"] >= 1
    stored = {path.name for path in (tmp_path / "keys").iterdir()}
    assert stored == set(report["created"])
    (file,) = files(tmp_path / "audit")
    assert {
        line["fields"]["kid"] for line in records(file) if line["event"] == "key.created"
    } == stored
    assert records(file)[-1]["fields"] == {"refusals": 0, "failed": report["failed"]}
    verify(iter(file.read_bytes().splitlines(keepends=True)))
