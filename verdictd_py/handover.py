"""Result that one task waits for, and that reaches it without a further round of the event loop.

A future of asyncio wakes its task in the next round: a system call and two callbacks, for a result
that a callback of the event loop has already. `Handover` continues the task within the call that
sets the result. It implements what asyncio requires of objects that tasks wait for (see
`asyncio.isfuture`), and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


class Handover(Generic[Result]):
    """One result for one task: await it once, set it once.

    Args:
        loop: the event loop of the task.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_error",
        "_is_done",
        "_loop",
        "_result",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._is_done = False
        self._result: Result | None = None
        self._error: BaseException | None = None

    def set_result(self, result: Result) -> None:
        """Hand the result over. The task continues within this call, until it waits again.

        Call it in a callback of the event loop. If a task is running, the waiting one continues in
        the next round.
        """
        self._finish(result, None)

    def set_exception(self, error: BaseException) -> None:
        """Raise an error in the task, see `set_result`."""
        self._finish(None, error)

    def done(self) -> bool:
        """Return whether there is a result, an error or a cancellation."""
        return self._is_done

    def result(self) -> Result:
        """Return the result, or raise the error. Called by the task."""
        if self._error is not None:
            error = self._error  # not stored any more: its traceback refers to this object
            self._error = asyncio.InvalidStateError("the error was raised already")
            raise error
        return cast("Result", self._result)

    def cancel(self, msg: object = None) -> bool:
        """Raise `CancelledError` in the task, in the next round. Called by the task's `cancel`."""
        if self._is_done:
            return False
        self._is_done = True
        self._error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the task."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Note how the task continues. Called by asyncio."""
        self._callback, self._context = callback, context

    def __await__(self) -> Generator[Any, None, Result]:
        if not self._is_done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def _finish(self, result: Result | None, error: BaseException | None) -> None:
        if self._is_done:
            raise asyncio.InvalidStateError("the result is handed over already")
        self._is_done, self._result, self._error = True, result, error
        callback, context = self._callback, self._context
        if callback is None:
            return  # the task has not begun to wait: it takes the result when it does
        if context is None or asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(callback, self, context=context)
        else:
            context.run(callback, self)
