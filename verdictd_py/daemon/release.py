"""End of a process: its listeners stop together, with one deadline, and then the rest closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

from verdictd_py.daemon.supervisor import Supervisor
from verdictd_py.listeners.errors import report_bug
from verdictd_py.ports import Events

SLACK_SECONDS: Final = 1.0
"""Additional time for a listener to close unfinished requests, after the drain timeout."""

CLOSE_SECONDS: Final = 0.5
"""Time for background work to end, and for the other parts to close, all at the same time."""


class Stoppable(Protocol):
    """Something that finishes requests when it stops: a listener, or all guest workers."""

    @property
    def name(self) -> str: ...

    async def stop(self, seconds: float) -> None:
        """Stop, after at most these seconds for requests in flight."""
        ...


async def release(
    supervisor: Supervisor,
    serving: Sequence[Stoppable],
    closing: Sequence[Callable[[], Awaitable[None]]],
    events: Events,
    *,
    seconds: float,
    slack: float = SLACK_SECONDS,
) -> None:
    """Stop background work, then everything that serves at the same time, then close the rest.

    If a part fails to stop, the failure is recorded, and the others are stopped all the same.

    Args:
        seconds: time limit for requests in flight.
        slack: additional time for everything that serves.
    """
    attempt = partial(_attempt, events)
    await attempt("stop background work", supervisor.stop, CLOSE_SECONDS)
    await asyncio.gather(
        *(
            attempt(f"stop {each.name}", partial(each.stop, seconds), seconds + slack)
            for each in serving
        )
    )
    await asyncio.gather(*(attempt("close", close, CLOSE_SECONDS) for close in closing))


async def _attempt(
    events: Events, doing: str, ending: Callable[[], Awaitable[None]], seconds: float
) -> None:
    try:
        async with asyncio.timeout(seconds):
            await ending()
    except Exception as error:  # noqa: BLE001  # recorded; the other parts stop as well
        report_bug(events, error, doing=doing)
