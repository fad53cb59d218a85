"""Queue between the event loop and the exporter, which runs in a thread of its own.

A collector that is slow or not reachable delays nothing: requests that do not fit into the queue
are dropped, and their number is reported.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from verdictd_py.tracing.recording import Request

MAX_QUEUED: Final = 4096
"""Maximum number of requests that wait, some 3 KiB each."""

BATCH: Final = 256
"""Maximum number of requests that are exported at once; so many wake the thread."""

EXPORT_SECONDS: Final = 1.0
"""Pause between two exports."""

REPORT_SECONDS: Final = 60.0
"""Least pause between two reports of dropped requests."""

CLOSE_SECONDS: Final = 0.4
"""Time to export what waits when the process ends."""


class Exporter(Protocol):
    """Sends requests to a collector. One thread calls it, and it may block."""

    def export(self, requests: Sequence[Request]) -> bool:
        """Send requests; return whether the collector has accepted them."""
        ...

    def stop(self) -> None:
        """Have a call of `export` in another thread end soon."""
        ...


class Delivery:
    """Queue and thread of an exporter.

    Args:
        exporter: builds the exporter, in the thread: its libraries take long to import.
        dropped: called with the number of dropped requests, at most once a minute.
    """

    def __init__(
        self,
        exporter: Callable[[], Exporter],
        dropped: Callable[[int], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._build = exporter
        self._exporter: Exporter | None = None
        self._report = dropped
        self._monotonic = monotonic
        self._waiting: deque[Request] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._dropped = 0
        self._reported_at = monotonic() - REPORT_SECONDS
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, request: Request) -> None:
        """Queue a request; never blocks, and never raises an error."""
        if len(self._waiting) >= MAX_QUEUED:
            self._dropped += 1
            return
        self._waiting.append(request)
        if len(self._waiting) == BATCH:
            self._wake.set()

    def close(self) -> None:
        """Export what waits, within a time limit; report what is dropped."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)
        if self._exporter is not None and self._thread.is_alive():
            self._exporter.stop()
        self._dropped += len(self._waiting)
        self._reported_at -= REPORT_SECONDS
        self._report_dropped()

    def _run(self) -> None:
        self._exporter = exporter = self._build()
        while not self._closing:
            self._wake.wait(EXPORT_SECONDS)
            self._wake.clear()
            self._export_all(exporter)
            self._report_dropped()
        self._export_all(exporter)
        exporter.stop()

    def _export_all(self, exporter: Exporter) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                accepted = exporter.export(batch)
            except Exception:  # noqa: BLE001  # of a library; the requests count as dropped
                accepted = False
            if not accepted:
                self._dropped += len(batch)

    def _report_dropped(self) -> None:
        now = self._monotonic()
        if self._dropped and now - self._reported_at >= REPORT_SECONDS:
            dropped, self._dropped = self._dropped, 0
            self._reported_at = now
            self._report(dropped)
