"""One computation for all callers that want the same value at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from verdictd_py.errors import CollateralUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """Runs `work(key)` once for all callers that wait for the same key.

    Each computation is a task of its own, so it belongs to no caller: a caller that is
    cancelled (its guest disconnected, its time is up) leaves the computation to the others.
    An exception reaches every caller that waits; the next caller starts again.

    Args:
        work: computes the value of one key. It records its own failures: where nobody waits
            for it, its exception is not reported anywhere else.
        limit: computations at once, None for no bound.
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
        """Return the computation for `key`, and start it if it does not run.

        Raises:
            CollateralUnavailable: too many others run.
        """
        task = self._tasks.get(key)
        if task is None:
            if self._limit is not None and len(self._tasks) >= self._limit:
                raise CollateralUnavailable("too many platform types are being fetched; try again")
            task = asyncio.create_task(self._work(key))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def result(self, key: K) -> V:
        """Wait for the value of `key`.

        Raises:
            CollateralUnavailable: too many others run, or the broker stops.
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
        """Wait until everything that runs now has ended, however it ends."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Cancel everything that runs, and wait until it has ended."""
        for task in self._tasks.values():
            task.cancel()
        await self.wait()

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: `work` has recorded it
