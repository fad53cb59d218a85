"""One computation for all callers that need the same value at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from verdictd_py.errors import CollateralUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runner of `work(key)`, once for all callers that wait for the same key.

    Each computation is a separate task, so it continues for the other callers if one of them
    is cancelled (its guest disconnected, or it timed out). An exception is raised in every
    waiting caller; the next caller starts the computation again.

    Args:
        work: computes the value of a key. It records its own failures: its exception is not
            reported elsewhere if no caller waits for it.
        limit: maximum number of computations at once, None for no limit.
    """

    def __init__(
        self, work: Callable[[K], Coroutine[Any, Any, V]], *, limit: int | None = None
    ) -> None:
        self._work = work
        self._limit = limit
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, key: K) -> asyncio.Task[V]:
        """Return the computation for `key`; start it if it is not running.

        Raises:
            CollateralUnavailable: too many other computations are running.
        """
        task = self._tasks.get(key)
        if task is None or task.done():
            if self._limit is not None and len(self._tasks) >= self._limit:
                raise CollateralUnavailable("too many platform types are being fetched; try again")
            task = asyncio.create_task(self._work(key))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def result(self, key: K) -> V:
        """Wait for the value of `key`.

        Raises:
            CollateralUnavailable: too many other computations are running, or the broker stops.
            Exception: whatever `work` raises.
        """
        task = self.start(key)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if task.cancelled() and waiter is not None and not waiter.cancelling():
                raise CollateralUnavailable("the broker is stopping") from None
            raise

    async def wait(self) -> None:
        """Wait until all computations that are running now have ended or failed."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Cancel all computations, and wait until they have ended."""
        for task in self._tasks.values():
            task.cancel()
        await self.wait()

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: `work` has recorded it
