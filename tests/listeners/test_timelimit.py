"""Time limit that costs a timer only if the coroutine has to wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.clock import elapse
from verdictd_py.listeners.kbs.timelimit import within

SECONDS = 30.0


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times for which a timer of the loop was set."""
    seen: list[float] = []
    original = asyncio.SelectorEventLoop.call_at

    def counted(self: Any, when: float, *args: Any, **more: Any) -> Any:
        seen.append(when)
        return original(self, when, *args, **more)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "call_at", counted)
    return seen


async def result(value: str) -> str:
    return value


async def failure() -> None:
    raise KeyError("x")


async def test_work_that_does_not_wait_sets_no_timer(timers: list[float]) -> None:
    assert await within(SECONDS, result("x")) == "x"
    with pytest.raises(KeyError):
        await within(SECONDS, failure())
    assert not timers


async def test_work_that_waits_has_its_result(timers: list[float]) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> list[Any]:
        await asyncio.sleep(0)
        first = await future
        with pytest.raises(KeyError):
            await failure()
        return [first, asyncio.current_task(), await result("last")]

    task = asyncio.create_task(within(SECONDS, work()))
    await elapse(SECONDS / 2)
    assert len(timers) == 1
    future.set_result("first")
    assert await task == ["first", task, "last"]


async def test_an_error_that_work_waits_for_reaches_it() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            return await future
        except KeyError:
            await asyncio.sleep(0)
            return "handled"

    task = asyncio.create_task(within(SECONDS, work()))
    await elapse(0)
    future.set_exception(KeyError("x"))
    assert await task == "handled"


async def test_work_that_takes_too_long_is_cancelled() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(within(SECONDS, work()))
    await elapse(SECONDS - 1)
    assert not task.done()
    await elapse(2)
    with pytest.raises(TimeoutError):
        await task
    assert seen == ["cancelled"]


async def test_a_cancelled_caller_cancels_the_work_and_is_no_timeout() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("work")

    task = asyncio.create_task(within(SECONDS, work()))
    await elapse(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


async def test_work_that_waits_several_times_has_one_limit() -> None:
    async def work() -> None:
        while True:  # noqa: ASYNC110  # it only has to wait
            await asyncio.sleep(SECONDS / 4)

    task = asyncio.create_task(within(SECONDS, work()))
    for _ in range(5):
        await elapse(SECONDS / 4)
    with pytest.raises(TimeoutError):
        await task
