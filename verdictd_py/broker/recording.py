"""Changes in three steps: record, then change, then answer.

Every use case that changes a store calls `record_and_change`. Therefore a change that cannot be
recorded is not made, and every change has a record, also if a later step fails or the caller
disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from verdictd_py.domain.callers import Caller
from verdictd_py.domain.events import ChangeFailed
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import StorageError, VerdictdError
from verdictd_py.ports import Events

Result = TypeVar("Result")


async def record_and_change(
    events: Events,
    caller: Caller,
    about: str,
    announced: tuple[Event, ...],
    change: Callable[[], Awaitable[Result]],
) -> Result:
    """Record a change, make it, and return its result.

    1. The events that announce the change are recorded, and the records are on disk. 2. The
    change is made. 3. If it fails, `change.failed` is recorded. All steps are completed even if
    the caller is cancelled meanwhile. If the process ends between steps 1 and 2, there is a
    record of a change that was not made.

    Args:
        about: name of the key, resource, document or set.
        announced: the first event names the change in `change.failed`.

    Raises:
        StorageError: the change was not recorded, so it was not made; or raised by `change`.
        Exception: raised by `change`.
    """

    async def run() -> Result:
        await events.commit(*announced)  # 1
        try:
            return await change()  # 2
        except (Exception, asyncio.CancelledError) as error:
            with suppress(StorageError):  # the trail counts it; the caller gets the first error
                await events.commit(_failed(caller, about, announced[0], error))  # 3
            raise

    return await _completed(run())


def _failed(caller: Caller, about: str, announced: Event, error: BaseException) -> ChangeFailed:
    """Return the event. The text of an internal error is withheld: it could contain a secret."""
    code, reason = "internal", type(error).__name__
    if isinstance(error, VerdictdError):
        code, reason = error.code, str(error)
    return ChangeFailed(
        caller=caller.name, change=announced.spec.name, object=about, code=code, reason=reason
    )


async def _completed(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`, and complete it even if this task is cancelled meanwhile.

    Raises:
        CancelledError: this task was cancelled; `work` has ended.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the caller is gone; this prevents a warning of asyncio
        raise
