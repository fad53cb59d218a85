"""Background work that fails is recorded and restarted, or ends the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.events import RecordedEvents
from verdictd_py.daemon.supervisor import FIRST_BACK_OFF, LONGEST_BACK_OFF, Supervisor, Work
from verdictd_py.errors import StorageError


class Time:
    """Monotonic clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def supervisor(time: Time, events: RecordedEvents) -> Supervisor:
    return Supervisor(events, monotonic=time, sleep=time.sleep)


def failing(times: int, *, error: BaseException | None = None) -> Callable[[], Awaitable[None]]:
    """Work that raises an error several times, and then returns."""
    left = times

    async def run() -> None:
        nonlocal left
        if left:
            left -= 1
            raise error or RuntimeError("a secret of the guest's")

    return run


async def test_a_failure_is_recorded_by_type_and_without_its_text(
    supervisor: Supervisor, events: RecordedEvents
) -> None:
    await supervisor.start(Work("renew", failing(1)))
    (bug,) = events.named("warning.bug")
    (task,) = events.named("warning.task")
    assert (bug["doing"], bug["error"]) == ("run renew", "RuntimeError")
    assert (task["task"], task["error"]) == ("renew", "RuntimeError")
    assert task["restarts_in_seconds"] == FIRST_BACK_OFF
    assert str(bug["incident"]) in str(task["reason"])
    assert "secret" not in events.text


async def test_the_text_of_a_verdictd_error_is_recorded(
    supervisor: Supervisor, events: RecordedEvents
) -> None:
    await supervisor.start(Work("renew", failing(1, error=StorageError("the disk is full"))))
    (task,) = events.named("warning.task")
    assert (task["error"], task["reason"]) == ("StorageError", "the disk is full")
    assert not events.named("warning.bug")


async def test_work_that_keeps_failing_is_restarted_with_back_off(
    supervisor: Supervisor, time: Time
) -> None:
    await supervisor.start(Work("renew", failing(11)))
    assert time.pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_work_that_ran_for_long_is_restarted_soon(supervisor: Supervisor, time: Time) -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 4:  # fails late, after it has failed early three times
            time.now += LONGEST_BACK_OFF + 1
        if runs < 6:
            raise RuntimeError

    await supervisor.start(Work("renew", run))
    assert time.pauses == [1, 2, 4, 1, 2]


async def test_essential_work_that_fails_is_not_restarted_and_ends_the_daemon(
    time: Time, events: RecordedEvents
) -> None:
    failed = asyncio.Event()
    supervisor = Supervisor(events, on_failure=failed.set, monotonic=time, sleep=time.sleep)
    await supervisor.start(Work("accept", failing(1), essential=True))
    assert failed.is_set()
    assert supervisor.failed
    assert not time.pauses
    assert events.named("warning.task")[0]["restarts_in_seconds"] is None


async def test_other_work_does_not_end_the_daemon(supervisor: Supervisor) -> None:
    await supervisor.start(Work("renew", failing(3)))
    assert not supervisor.failed


async def test_an_unrequested_cancellation_is_a_failure(
    supervisor: Supervisor, events: RecordedEvents
) -> None:
    """A future that the work waits for was cancelled: the work must not end permanently."""
    await supervisor.start(Work("renew", failing(1, error=asyncio.CancelledError())))
    assert events.named("warning.task")[0]["error"] == "CancelledError"


async def test_stopping_cancels_work_and_waits_for_its_end(
    supervisor: Supervisor, events: RecordedEvents
) -> None:
    running, cleaned_up = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.set()

    task = supervisor.start(Work("renew", run))
    await running.wait()
    await supervisor.stop()
    assert cleaned_up.is_set()
    assert task.cancelled()
    assert not events.events


async def test_stopping_ends_the_wait_for_a_restart(events: RecordedEvents) -> None:
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    supervisor = Supervisor(events, sleep=sleep)
    task = supervisor.start(Work("renew", failing(1)))
    await waiting.wait()
    await supervisor.stop()
    assert task.cancelled()
