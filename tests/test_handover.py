"""Results that reach their task without a further round of the event loop."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from verdictd_py.handover import Handover

NAME: ContextVar[str] = ContextVar("NAME", default="none")


async def _started(waiting: Handover[int], log: list[object]) -> asyncio.Task[None]:
    """Start a task that waits, and return it once it does."""

    async def wait() -> None:
        NAME.set("waiting")
        try:
            log.append(await waiting)
        except Exception as error:  # noqa: BLE001  # the test looks at it
            log.append(error)
        log.append(NAME.get())

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return task


async def _in_a_callback(call: object, *arguments: object) -> None:
    """Call something as the event loop does: while no task runs."""
    done = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            call(*arguments)  # type: ignore[operator]
        finally:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(run)
    await done


async def test_the_task_continues_within_the_call() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    log: list[object] = []
    task = await _started(waiting, log)

    def hand_over() -> None:
        waiting.set_result(1)
        log.append("after the call")

    await _in_a_callback(hand_over)
    assert log == [1, "waiting", "after the call"]
    await task


async def test_an_error_is_raised_in_the_task() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    log: list[object] = []
    task = await _started(waiting, log)
    error = OSError("failed")
    await _in_a_callback(waiting.set_exception, error)
    assert log == [error, "waiting"]
    await task


async def test_a_result_before_the_task_waits() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    waiting.set_result(1)
    assert waiting.done()
    assert await waiting == 1


async def test_a_task_that_runs_is_not_interrupted() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    log: list[object] = []
    task = await _started(waiting, log)
    waiting.set_result(1)
    assert log == []
    await task
    assert log == [1, "waiting"]


async def test_a_cancelled_task_gets_no_result() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    log: list[object] = []
    task = await _started(waiting, log)
    task.cancel()
    assert waiting.done()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == []
    assert not waiting.cancel()


async def test_a_time_limit_ends_the_wait() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await waiting


async def test_a_second_result_is_an_error() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    waiting.set_result(1)
    with pytest.raises(asyncio.InvalidStateError):
        waiting.set_result(2)
    assert await waiting == 1


async def test_an_error_is_never_followed_by_a_result() -> None:
    waiting: Handover[int] = Handover(asyncio.get_running_loop())
    waiting.set_exception(OSError("connection lost"))
    with pytest.raises(OSError, match="connection lost"):
        await waiting
    with pytest.raises(asyncio.InvalidStateError):
        await waiting


async def test_tasks_of_python_wait_for_it_as_well() -> None:
    """`asyncio` has its tasks in C and in Python; a debugger may use the latter."""
    loop = asyncio.get_running_loop()
    waiting: Handover[int] = Handover(loop)
    log: list[object] = []

    async def wait() -> None:
        log.append(await waiting)

    python_task = asyncio.tasks._PyTask  # type: ignore[attr-defined]
    task = python_task(wait(), loop=loop)
    await asyncio.sleep(0)
    await _in_a_callback(waiting.set_result, 1)
    assert log == [1]
    await task
