"""An event loop whose clock a test moves, so that no test waits for a limit of time to pass.

Every asynchronous test runs on a `SteppedLoop` (see `tests/conftest.py`). Its clock runs with real
time, and a test may move it forward. The limits of a broker that runs in the same process are
measured by this clock, so a test gives a broker its usual, long limits: a busy machine reaches none
of them, and the test reaches one without waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_CYCLES: Final = 10
"""Cycles of the loop after which everything is handled that one event of a socket causes."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved forward."""

    _forward = 0.0

    def time(self) -> float:
        return super().time() + self._forward

    def advance(self, seconds: float) -> None:
        """Move the clock forward. Timers that are due then fire in the loop's next cycle."""
        self._forward += seconds


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true that no event announces.

    A condition that never becomes true is ended by the limit of time of every test.
    """
    while not condition():  # noqa: ASYNC110  # there is no event
        await asyncio.sleep(0)


async def elapse(seconds: float) -> None:
    """Handle what is pending, then let `seconds` pass at once, and handle what is due."""
    await _handle_pending()
    _running().advance(seconds)
    await _handle_pending()


async def elapse_until(condition: Callable[[], object], *, step: float = 1.0) -> float:
    """Let time pass in steps until a condition is true.

    Returns:
        The seconds that passed by these steps.
    """
    passed = 0.0
    while not condition():
        await elapse(step)
        passed += step
    return passed


async def _handle_pending() -> None:
    for _ in range(_CYCLES):
        await asyncio.sleep(0)


def _running() -> SteppedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    return loop
