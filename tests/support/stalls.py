"""Measurement of stalls of an event loop: how long it works before it looks for events again."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any


def _now() -> float:
    return time.monotonic()  # window: it is what is measured, and decides no test


class LoopMeter:
    """Measures every round of an event loop, from one `select` to the next.

    All callbacks that are ready run in one round, and no event is handled meanwhile. The time of
    the thread's own processor does not depend on what else the machine does; it does not contain
    the time for which other threads hold the interpreter lock.

    Attributes:
        cpu_seconds: longest round in CPU time of the loop's thread.
        late_seconds: largest delay of a timer (`beat`), in wall time. It contains the time for
            which other threads hold the interpreter lock, and other programs the processor.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._selector: Any = loop._selector  # type: ignore[attr-defined]  # of asyncio's own loop
        self._select: Callable[[float | None], Any] = self._selector.select
        self._began: float | None = None
        self._round: float | None = None
        self.cpu_seconds = 0.0
        self.late_seconds = 0.0

    def start(self) -> None:
        """Measure from now on."""
        self._selector.select = self._measured_select

    def stop(self) -> None:
        """Measure no longer."""
        del self._selector.select

    def reset(self) -> None:
        """Forget what was measured, including the round in progress."""
        self._began = self._round = None
        self.cpu_seconds = self.late_seconds = 0.0

    async def beat(self, seconds: float = 0.002) -> None:
        """Measure the delay of a timer, until the task is cancelled."""
        while True:
            due = _now() + seconds
            await asyncio.sleep(seconds)
            self.late_seconds = max(self.late_seconds, _now() - due)

    def watch(self, seconds: float, report: Callable[[str], None]) -> None:
        """Report the stack of the loop's thread once in each round that is longer (wall time)."""
        thread = threading.get_ident()

        def sample() -> None:
            reported: float | None = None
            while True:
                time.sleep(seconds / 4)
                began = self._round
                if began is None or began == reported or _now() - began < seconds:
                    continue
                reported = began
                stack = traceback.format_stack(sys._current_frames()[thread], limit=-14)
                report("".join(stack[-9:]))

        threading.Thread(target=sample, daemon=True).start()

    def _measured_select(self, timeout: float | None) -> Any:  # as the selector
        if self._began is not None:
            self.cpu_seconds = max(self.cpu_seconds, time.thread_time() - self._began)
        self._round = None
        try:
            return self._select(timeout)
        finally:
            self._began, self._round = time.thread_time(), _now()
