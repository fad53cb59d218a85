"""Writer of the log in a thread, so that a stalled reader stalls nothing else."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of all lines that wait; some 20,000 usual ones. Further lines are dropped."""

REPORT_EVERY: Final = 1000
"""Dropped lines after which they are reported although the queue is still half full."""

CLOSE_SECONDS: Final = 0.5
"""Time for the reader to take the lines that wait when the daemon ends."""


class LogWriter:
    """Writer of lines to a file descriptor, with a bounded queue.

    A line that finds the queue full is dropped, and so is one that cannot be written, for example
    because the disk is full. Dropped lines are counted and reported as soon as a line can be
    written again.

    Args:
        descriptor: where the lines go, standard error.
        on_dropped: called in the writer's thread with the number of lines that were dropped; it
            may call `write`.
    """

    def __init__(self, descriptor: int, *, on_dropped: Callable[[int], None] | None = None) -> None:
        self._descriptor = descriptor
        self.on_dropped = on_dropped
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._closing = False
        # A daemon thread: a write that blocks forever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue a line; never blocks, and never raises an error."""
        data = line.encode("utf-8", "backslashreplace")
        with self._changed:
            is_report = threading.current_thread() is self._thread
            if self._size + len(data) > MAX_QUEUED_BYTES and not is_report:
                self._dropped += 1
                return
            self._lines.append(data)
            self._size += len(data)
            self._changed.notify()

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Write the lines that wait, within a time limit.

        Returns:
            The number of lines that were not written and not reported as dropped.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            return self._dropped + len(self._lines)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            written = self._written(line)
            with self._changed:
                self._lines.popleft()
                self._size -= len(line)
                self._dropped += not written
                lost = self._dropped
                is_due = self._size <= MAX_QUEUED_BYTES // 2 or lost >= REPORT_EVERY
                if report := written and lost > 0 and is_due:
                    self._dropped = 0
            if report and self.on_dropped is not None:
                self.on_dropped(lost)

    def _next(self) -> bytes | None:
        """Wait for the next line, which stays in the queue; None when the writer is closed."""
        with self._changed:
            while not self._lines and not self._closing:
                self._changed.wait()
            return self._lines[0] if self._lines else None

    def _written(self, line: bytes) -> bool:
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process made the open file non-blocking
                _wait_until_writable(self._descriptor)
            except OSError:
                return False
        return True


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
