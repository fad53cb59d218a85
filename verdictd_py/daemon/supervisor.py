"""Supervisor of the daemon's background work: it records failures, and restarts the work."""

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
"""Seconds before the first restart; doubled at each further failure."""

LONGEST_BACK_OFF: Final = 300.0
"""Maximum of these seconds. For work that ran longer than this, the back-off starts again."""


@dataclass(frozen=True, slots=True)
class Work:
    """Background work.

    Attributes:
        name: name of the work in events.
        run: does the work; called again after each failure. If it returns, the work is finished.
        essential: whether the daemon is useless without it. A failure then stops the daemon
            instead of restarting the work.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    essential: bool = False


class Supervisor:
    """Owner of all background tasks of the daemon.

    Each failure is recorded as `warning.task`, with the text of a `VerdictdError`. Any other
    exception is also recorded as `warning.bug`, with its type and place (never its text).

    Args:
        on_failure: called when essential work has failed; the daemon then stops.
        monotonic: monotonic clock, in seconds.
        sleep: asynchronous sleep, in seconds.

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
        """Run `work`; return the exception that ended it, None if it finished.

        Raises:
            CancelledError: this task was cancelled, which is not a failure.
        """
        try:
            await work.run()
        except asyncio.CancelledError as error:
            # If this task was not cancelled, a future was that the work waited for: a failure.
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
