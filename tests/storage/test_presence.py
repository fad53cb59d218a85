"""Other daemons on the same data directory are reported, and never refused."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.clock import elapse_until
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import WarningOtherDaemon
from verdictd_py.storage import pools, presence
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.presence import DAEMONS_FILE, LOCK_SECONDS, Presence

REPOSITORY = Path(__file__).parents[2]
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)

PROCESS = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from tests.support.events import RecordedEvents
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.presence import Presence
presence = Presence(Directory.open(Path(sys.argv[1])), lambda: datetime(2026, 1, 2, tzinfo=UTC))
asyncio.run(presence.announce(RecordedEvents()))
print(flush=True)
sys.stdin.read()
"""


class Daemons:
    """Presences of this process on one data directory, closed at the end of the test."""

    def __init__(self, data: Path) -> None:
        self.directory = Directory.open(data)
        self.presences: list[Presence] = []
        self.events = RecordedEvents()

    async def start(self) -> Presence:
        made = Presence(self.directory, lambda: NOW)
        self.presences.append(made)
        await made.announce(self.events)
        return made

    @property
    def reported(self) -> list[int]:
        return [event.pid for event in self.events.of(WarningOtherDaemon)]


@pytest.fixture
async def daemons(data: Path) -> AsyncIterator[Daemons]:
    daemons = Daemons(data)
    yield daemons
    for each in daemons.presences:
        await each.close()


@pytest.fixture
def other(data: Path) -> Callable[[], subprocess.Popen[bytes]]:
    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(data)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    return start


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(number)
    with process:
        process.wait()


async def test_a_daemon_reports_another_process(
    daemons: Daemons, other: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = other()
    own = await daemons.start()
    assert daemons.reported == [process.pid]
    (found,) = await own.others()
    assert (found.pid, found.host) == (process.pid, os.uname().nodename[:64])
    assert str(found) == (
        f"another daemon uses this data directory: process {process.pid} on {found.host}, started "
        "2026-01-02T00:00:00+00:00; stop it if it is not meant to share the directory"
    )
    end(process)


async def test_a_killed_daemon_leaves_nothing_that_is_reported(
    daemons: Daemons, other: Callable[[], subprocess.Popen[bytes]], data: Path
) -> None:
    process = other()
    end(process)
    written = (data / DAEMONS_FILE).read_bytes()
    assert str(process.pid).encode() in written
    await daemons.start()
    assert daemons.reported == []


async def test_a_number_of_a_process_that_is_used_again_proves_nothing(
    daemons: Daemons, other: Callable[[], subprocess.Popen[bytes]], data: Path
) -> None:
    """A record names a process that runs, and nothing holds its lock."""
    process = other()
    end(process)
    file = data / DAEMONS_FILE
    alive = str(os.getppid()).ljust(len(str(process.pid)))[: len(str(process.pid))]
    file.write_bytes(file.read_bytes().replace(str(process.pid).encode(), alive.encode()))
    await daemons.start()
    assert daemons.reported == []


async def test_each_daemon_knows_all_others(daemons: Daemons) -> None:
    started = [await daemons.start() for _ in range(4)]
    assert len(daemons.reported) == 0 + 1 + 2 + 3
    for presence_ in started:
        assert len(await presence_.others()) == 3
    await started[1].close()
    assert [len(await started[number].others()) for number in (0, 2, 3)] == [2, 2, 2]
    await daemons.start()  # in the place that is free now
    assert len(await started[0].others()) == 3


async def test_a_file_that_cannot_be_used_is_no_failure(daemons: Daemons, data: Path) -> None:
    (data / DAEMONS_FILE).mkdir()
    await daemons.start()
    assert daemons.reported == []


@pytest.mark.parametrize("number", ["EINVAL", "ENOLCK", "EOPNOTSUPP"])
async def test_a_file_system_without_locks_reports_nothing(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    def refuse(*_: object) -> tuple[int, int]:
        raise OSError(getattr(errno, number), "refused")

    monkeypatch.setattr(presence, "_lock", refuse)
    await daemons.start()
    await daemons.start()
    assert daemons.reported == []


async def test_a_lock_service_that_does_not_answer_delays_nothing(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def wait(*_: object) -> tuple[int, int]:
        answered.wait()
        raise OSError

    monkeypatch.setattr(presence, "_lock", wait)
    try:
        starting = asyncio.create_task(daemons.start())
        await elapse_until(starting.done, step=LOCK_SECONDS)
        assert await (await starting).others() == ()
    finally:
        answered.set()
        await pools.walk(int)


async def test_a_descriptor_is_not_inherited(daemons: Daemons) -> None:
    """A program that the daemon starts must not be taken for the daemon."""
    own = await daemons.start()
    assert own._descriptor is not None
    assert not os.get_inheritable(own._descriptor)
