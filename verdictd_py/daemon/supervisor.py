"""Runs the daemon's background work: records what fails, restarts it, or ends the daemon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from verdictd_py.domain.events import WarningTask
from verdictd_py.errors import VerdictdError
from verdictd_py.listeners.errors import report_bug
from verdictd_py.ports import Events

FIRST_BACK_OFF: Final = 1.0
"""Seconds before the first restart; doubled at each failure that follows soon."""

LONGEST_BACK_OFF: Final = 300.0
"""Seconds. Work that ran for longer than this counts as healthy: its back-off starts again."""


@dataclass(frozen=True, slots=True)
class Work:
    """Background work.

    Attributes:
        name: as events name it.
        run: starts the work from its beginning; called again after each failure. Work that
            returns is finished.
        essential: without it the daemon is of no use. A failure ends the daemon instead of
            restarting the work.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    essential: bool = False


class Supervisor:
    """Owns every background task of the daemon.

    A failure is recorded as `warning.bug` with the type of the exception and where it was
    raised (never its text), or as `warning.task` with the reason of a `VerdictdError`.

    Args:
        on_failure: called once essential work has failed; the daemon then stops.
        monotonic: seconds of a clock that is never set.
        sleep: waits so many seconds.

    Attributes:
        failed: whether essential work has failed.
    """

    def __init__(
        self,
        events: Events,
        *,
        on_failure: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._events = events
        self._on_failure = on_failure
        self._monotonic = monotonic
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed = False

    def start(self, work: Work) -> asyncio.Task[None]:
        """Start `work` and keep it running.

        Returns:
            A task that ends when the work is finished; cancel it to end the work earlier.
        """
        task = asyncio.create_task(self._supervise(work), name=work.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel all work, and wait until it has ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervise(self, work: Work) -> None:
        pause = FIRST_BACK_OFF
        while True:
            started = self._monotonic()
            error = await self._failure(work)
            if error is None:
                return
            if self._monotonic() - started > LONGEST_BACK_OFF:
                pause = FIRST_BACK_OFF
            self._report(work, error, pause)
            if work.essential:
                self.failed = True
                self._on_failure()
                return
            await self._sleep(pause)
            pause = min(pause * 2, LONGEST_BACK_OFF)

    async def _failure(self, work: Work) -> BaseException | None:
        """Run `work` to its end, and return the exception that ended it.

        Raises:
            CancelledError: this task is cancelled, which is no failure.
        """
        try:
            await work.run()
        except asyncio.CancelledError as error:
            # Not everything that raises CancelledError was cancelled by us: a future that the
            # work waited for may have been cancelled by others.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return error
        except Exception as error:  # noqa: BLE001  # recorded by the caller, whatever it is
            return error
        return None

    def _report(self, work: Work, error: BaseException, pause: float) -> None:
        if isinstance(error, VerdictdError):
            reason = str(error)
        else:
            reason = report_bug(self._events, error, doing=f"run {work.name}")
        self._events.record(
            WarningTask(
                task=work.name,
                error=type(error).__name__,
                reason=reason,
                restarts_in_seconds=None if work.essential else int(pause),
            )
        )
