"""Delivery of audit records to a sink: in a thread of its own, from a bounded queue.

The files of the trail are what counts. A sink that is slow or not reachable therefore delays
nothing: records that do not fit into its queue are not delivered, and their number is recorded in
the trail.

To wake a thread costs more than to send a record. The first record therefore sets a timer, and the
records of `GATHER_SECONDS` are sent together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from verdictd_py.events.timer import AT_ONCE, Timer

MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of all records that wait for one sink, some 10,000 usual ones."""

MAX_BYTES: Final = 64 * 1024
"""Size from which no further records are delivered together."""

MAX_LINES: Final = 256
"""Maximum number of records that a sink gets at once."""

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Pauses between attempts to reach a sink, each twice as long as the one before."""

GATHER_SECONDS: Final = 0.1
"""Pause between the first of some records and their delivery."""

CLOSE_SECONDS: Final = 1.0
"""Time for a sink to take the records that wait when the process ends."""


class Sink(Protocol):
    """Receiver of records. A thread of its own calls it, and it may block."""

    def send(self, lines: Sequence[bytes]) -> int:
        """Send records, each one line of the trail without its newline.

        Records may come again after an error; each has a digest of its own.

        Returns:
            The number of records that the sink can never take, for example because of their size.

        Raises:
            OSError: the sink cannot be reached, or has taken only a part. All are sent again.
        """
        ...

    def close(self) -> None:
        """Release what the sink uses."""
        ...


class Delivery:
    """Queue and thread of one sink.

    Attributes:
        name: name for messages, without secrets.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self._sink = sink
        self._changed = threading.Lock()
        self._timer = Timer()
        self._is_set = False  # whether the timer wakes the thread
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._problem = ""
        self._is_reported = False
        self._closing = threading.Event()
        # A daemon thread: a sink that blocks forever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"audit {name}", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Queue complete lines; never blocks for the sink, and never raises an error."""
        with self._changed:
            if self._size + len(data) > MAX_QUEUED_BYTES:
                self._lost += data.count(b"\n")
                return
            self._waiting.append(data)
            self._size += len(data)
            if not self._is_set:
                self._is_set = True
                self._timer.set(GATHER_SECONDS)
            elif self._size - len(data) < MAX_BYTES <= self._size:
                self._timer.set(AT_ONCE)

    def take_lost(self) -> int:
        """Return the number of records that were not delivered since the last call."""
        with self._changed:
            lost, self._lost = self._lost, 0
            return lost

    def take_problem(self) -> tuple[str, int]:
        """Return why the sink takes no records, and how many wait; an empty text if it takes them.

        A problem is returned once, until the sink has taken records again.
        """
        with self._changed:
            if not self._problem or self._is_reported:
                return "", 0
            self._is_reported = True
            return self._problem, sum(data.count(b"\n") for data in self._waiting)

    def _note(self, problem: str) -> None:
        with self._changed:
            self._is_reported = self._is_reported and bool(problem)
            self._problem = problem

    def add_lost(self, records: int) -> None:
        """Count records again that could not be reported."""
        with self._changed:
            self._lost += records

    def end(self) -> None:
        """Have the thread end when it has delivered what waits, or at its next failure."""
        with self._changed:
            self._closing.set()
            self._is_set = True
            self._timer.set(AT_ONCE)

    def close(self, seconds: float | None = None) -> int:
        """Deliver what waits; return the number of records that are lost.

        Args:
            seconds: time limit; None for `CLOSE_SECONDS`.
        """
        self.end()
        self._thread.join(CLOSE_SECONDS if seconds is None else seconds)
        with self._changed:
            return self._lost + sum(data.count(b"\n") for data in self._waiting)

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while data := self._next():
            lines = data.splitlines()
            try:
                lost = sum(
                    self._sink.send(lines[start : start + MAX_LINES])
                    for start in range(0, len(lines), MAX_LINES)
                )
            except Exception as error:  # noqa: BLE001  # of a plug-in too: tried again until the queue is full
                self._note(_cause(error))
                if self._closing.wait(pause):
                    break
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            self._note("")
            with self._changed:
                self._waiting.popleft()
                self._size -= len(data)
                self._lost += lost
        self._sink.close()

    def _next(self) -> bytes:
        """Wait for records; return the oldest ones, which stay in the queue. Empty at the end."""
        while not self._is_due():
            self._timer.wait()
            if self._waiting:
                break
        with self._changed:
            if not self._waiting:
                return b""
            first = self._waiting.popleft()
            while self._waiting and len(first) < MAX_BYTES:
                first += self._waiting.popleft()
            self._waiting.appendleft(first)
            return first

    def _is_due(self) -> bool:
        """Return whether there is no reason to wait; otherwise the timer is set if it must be."""
        with self._changed:
            if self._closing.is_set() or self._size >= MAX_BYTES:
                return True
            self._is_set = bool(self._waiting)
            if self._waiting:
                self._timer.set(GATHER_SECONDS)
            return False


def _cause(error: Exception) -> str:
    """Return the cause of an error; of a plug-in only its type, as its text may quote a secret."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def close_all(deliveries: Sequence[Delivery]) -> dict[str, int]:
    """Close sinks at the same time; return the number of lost records of each, if there are any.

    This takes at most `CLOSE_SECONDS`, however many sinks do not answer.
    """
    for each in deliveries:
        each.end()
    end = time.monotonic() + CLOSE_SECONDS
    lost = {each.name: each.close(max(0.0, end - time.monotonic())) for each in deliveries}
    return {name: records for name, records in lost.items() if records}
