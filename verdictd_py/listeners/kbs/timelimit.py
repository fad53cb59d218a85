"""Time limit for a coroutine that usually ends without waiting.

A timer costs several microseconds, more than such a coroutine.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`; set a timer only if it has to wait.

    Args:
        seconds: time limit, from the moment when `work` waits for the first time.

    Raises:
        TimeoutError: `work` takes longer; it is cancelled.
    """
    try:
        first = work.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    async with asyncio.timeout(seconds):
        return await _rest(work, first)


@types.coroutine
def _rest(
    work: Coroutine[Any, Any, Result], waited_for: object
) -> Generator[object, object, Result]:
    """Await a coroutine that has been started, as `await` does.

    Args:
        waited_for: the future that it waits for.
    """
    try:
        while True:
            try:
                sent = yield waited_for
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001  # cancellation included
                waited_for = work.throw(error)
            else:
                waited_for = work.send(sent)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    finally:
        work.close()
