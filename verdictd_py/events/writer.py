"""Writer of the log in a thread, so that a stalled reader stalls nothing else.

To wake this thread costs more than to make a line. The first line therefore sets a timer of the
kernel, which wakes it after `GATHER_SECONDS` to write the lines of that time together. A process
that is killed loses the lines of that time; the audit trail has its own file and loses nothing.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Final

from verdictd_py.events.timer import AT_ONCE, Timer

MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of all lines that wait; some 20,000 usual ones. Further lines are dropped."""

REPORT_EVERY: Final = 1000
"""Dropped lines after which they are reported although the queue is still half full."""

CLOSE_SECONDS: Final = 0.5
"""Time for the reader to take the lines that wait when the daemon ends."""

GATHER_SECONDS: Final = 0.05
"""Pause between the first of some lines and their write."""

WAKE_BYTES: Final = 64 * 1024
"""Size of the waiting lines from which they are written at once."""

MAX_WRITE_BYTES: Final = select.PIPE_BUF
"""Size of a write with several lines. Writes up to this size to a pipe are never mixed with those
of another process that has the same standard error (pipe(7)). The kernel never mixes writes to a
regular file, so that they may be as large as `WAKE_BYTES`."""


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
        self._is_file = _is_file(descriptor)
        self._write_bytes = WAKE_BYTES if self._is_file else MAX_WRITE_BYTES
        self.on_dropped = on_dropped
        self._changed = threading.RLock()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._timer = Timer()
        self._is_set = False  # whether the timer wakes the thread
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
            if not self._is_set:
                self._is_set = True
                self._timer.set(GATHER_SECONDS)
            elif self._size - len(data) < WAKE_BYTES <= self._size:
                self._timer.set(AT_ONCE)

    @property
    def queue_length(self) -> int:
        """Number of lines that wait."""
        return len(self._lines)

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Write the lines that wait, within a time limit.

        Returns:
            The number of lines that were not written and not reported as dropped.
        """
        with self._changed:
            self._closing = self._is_set = True
            self._timer.set(AT_ONCE)
        self._thread.join(seconds)
        with self._changed:
            return self._dropped + len(self._lines)

    def _run(self) -> None:
        while lines := self._next():
            unwritten = self._unwritten(lines)
            with self._changed:
                for line in lines:
                    self._lines.popleft()
                    self._size -= len(line)
                self._dropped += unwritten
                lost = self._dropped
                is_due = self._size <= MAX_QUEUED_BYTES // 2 or lost >= REPORT_EVERY
                if report := unwritten < len(lines) and lost > 0 and is_due:
                    self._dropped = 0
            if report and self.on_dropped is not None:
                self.on_dropped(lost)

    def _next(self) -> list[bytes]:
        """Wait for lines; return those to write next, which stay in the queue.

        The result is empty when the writer is closed and all lines are written.
        """
        while True:
            with self._changed:
                if self._closing or self._size >= self._write_bytes:
                    break
                self._is_set = bool(self._lines)
                if self._lines:
                    self._timer.set(GATHER_SECONDS)
            self._timer.wait()
            if self._lines or self._closing:
                break
        with self._changed:
            size = 0
            lines: list[bytes] = []
            for line in self._lines:
                size += len(line)
                if lines and size > self._write_bytes:
                    break
                lines.append(line)
            return lines

    def _unwritten(self, lines: list[bytes]) -> int:
        """Write lines together; return how many could not be written.

        A line whose write fails is lost, and the lines after it are tried again without it.
        """
        lost = 0
        while lines:
            with nullcontext() if self._is_file else _exclusively(self._descriptor):
                written = self._write(b"".join(lines))
            complete = 0
            while complete < len(lines) and written >= len(lines[complete]):
                written -= len(lines[complete])
                complete += 1
            lost += complete < len(lines)
            lines = lines[complete + 1 :]
        return lost

    def _write(self, data: bytes) -> int:
        """Write data; return how many bytes were written before an error, all of them if none."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # another process made the open file non-blocking
                _wait_until_writable(self._descriptor)
            except OSError:
                break
        return len(data) - len(view)


def _is_file(descriptor: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:  # it is closed; each write says so
        return False


@contextmanager
def _exclusively(descriptor: int) -> Iterator[None]:
    """Keep other processes of the broker from writing into the middle of a long line.

    They have the same standard error. The lock ends with the process, whatever ends it.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:  # the file has no locks
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
