"""Measurements of a process at regular intervals: delay of its event loop, queues, CPU, memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.metrics import families
from verdictd_py.metrics.memory import Numbers

SAMPLE_SECONDS: Final = 0.5
"""Pause between two measurements of the delay of the event loop."""

_SAMPLES: Final = 10
"""Number of pauses between two measurements of everything but the event loop."""

_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGESIZE")

Length = Callable[[], int]
"""Returns the length of a queue."""


class Sampler:
    """Measures a process, and enters the results into its numbers.

    Args:
        process: `operator` or `worker`.
        queues: queues by name.

    Attributes:
        queues: as above; parts that are built later may be added.
        sessions: returns the stored challenges and tokens; None for a process without sessions.
    """

    def __init__(
        self,
        numbers: Numbers,
        process: str,
        queues: Mapping[str, Length],
    ) -> None:
        self._numbers = numbers
        self._process = (process,)
        self.queues = dict(queues)
        self.sessions: Callable[[], tuple[int, int]] | None = None
        # A worker counts on where the one before it ended.
        self._cpu_before = numbers.get(families.CPU, self._process)

    async def keep_sampling(self) -> None:
        """Measure again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.sample()
            for _ in range(_SAMPLES):
                began = loop.time()
                await asyncio.sleep(SAMPLE_SECONDS)
                late = loop.time() - began - SAMPLE_SECONDS
                self._numbers.observe(families.LOOP_DELAY, self._process, seconds=max(late, 0.0))

    def sample(self) -> None:
        """Measure everything but the event loop."""
        numbers, process = self._numbers, self._process
        for name, length in self.queues.items():
            numbers.set(families.QUEUES, process, (name,), value=length())
        cpu = self._cpu_before + time.process_time()
        numbers.set(families.CPU, process, value=cpu)
        with suppress(OSError, IndexError, ValueError):  # there is no /proc
            pages = int(_STATM.read_text().split()[1])
            numbers.set(families.MEMORY, process, value=pages * _PAGE)
        if self.sessions is not None:
            challenges, tokens = self.sessions()
            numbers.set(families.STORED_SESSIONS, ("challenge",), value=challenges)
            numbers.set(families.STORED_SESSIONS, ("token",), value=tokens)
