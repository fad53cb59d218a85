"""Construction of the metrics of a process, and of the listener that serves them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from threading import Event as Flag
from typing import Final, Self

from verdictd_py.config import Address
from verdictd_py.console.views.load import Load
from verdictd_py.daemon.load import LoadHistory
from verdictd_py.daemon.readings import Documents, Sources, liveness_page, readiness_page
from verdictd_py.daemon.supervisor import Work
from verdictd_py.domain.events import FileChanged
from verdictd_py.domain.eventtypes import Event
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.log import LogEvents
from verdictd_py.listeners.status import Page, StatusListener
from verdictd_py.metrics import families
from verdictd_py.metrics.counting import CountedConnections, CountedEvents, count
from verdictd_py.metrics.memory import Layout, Memory
from verdictd_py.metrics.reading import Reading
from verdictd_py.metrics.sampling import Sampler
from verdictd_py.ports import Events, Tees
from verdictd_py.stages import Meter

DESCRIPTOR: Final = "metrics"
"""Name of the shared memory among the descriptors that a worker inherits."""

LIVE_SECONDS: Final = 60.0
"""Time without a round of the event loop after which the broker counts as hanging."""

TICK_SECONDS: Final = 5.0
"""Pause after which gauges are read although no client requests a page."""

READ_SECONDS: Final = 0.03
"""Time in which a busy event loop may read the gauges for a page; otherwise the page has those of
a moment ago."""


class ProcessMetrics:
    """Metrics of one process, as it counts them.

    Args:
        number: 0 for the operator process, else that of the worker.

    Attributes:
        meter: what the listeners report connections to.
    """

    def __init__(self, memory: Memory, number: int) -> None:
        self._process = "worker" if number else "operator"
        self._numbers = memory.of(number)
        self.meter: Meter = CountedConnections(self._numbers)
        self.sampler = Sampler(self._numbers, self._process, {})

    @classmethod
    def of_worker(cls, descriptors: Mapping[str, int], number: int, tees: Tees) -> Self | None:
        """Return the metrics of a worker; None if the broker counts none.

        Args:
            descriptors: what the worker inherited, by name.

        Raises:
            ConfigError: the operator process counts other metrics.
        """
        if DESCRIPTOR not in descriptors:
            return None
        memory = Memory(_layout(tees), number + 1, descriptors[DESCRIPTOR])
        return cls(memory, number)

    def events(self, log: Events) -> Events:
        """Return what counts events and passes them on to the log."""
        if isinstance(log, LogEvents):
            log.note = partial(count, self._numbers)
        return CountedEvents(self._numbers, log)

    def watch_audit(self, audit: AuditTrail) -> None:
        """Count what the audit trail writes, and what it fails to write."""
        self.sampler.queues["audit"] = lambda: audit.queue_length
        numbers = self._numbers
        all_records = numbers.index(families.AUDIT_RECORDS, ())
        all_bytes = numbers.index(families.AUDIT_BYTES, ())

        def counted(records: int, size: int, failed: int) -> None:
            numbers.add_at(all_records, records)
            numbers.add_at(all_bytes, size)
            if failed:
                numbers.add(families.AUDIT_FAILURES, amount=failed)

        audit.counted = counted
        audit.watch_omitted(lambda of: numbers.add(families.AUDIT_OMITTED, (str(of),)))

    def watch_log(self, length: Callable[[], int]) -> None:
        """Measure the queue of the log."""
        self.sampler.queues["log"] = length

    def watch_sessions(self, counts: Callable[[], tuple[int, int]]) -> None:
        """Measure the stored sessions."""
        self.sampler.sessions = counts

    @property
    def background(self) -> tuple[Work, ...]:
        """Work that runs while the process runs."""
        return (Work("measure the process", self.sampler.keep_sampling),)


class BrokerMetrics:
    """Metrics of the whole broker, in the operator process.

    Args:
        workers: number of guest workers; 0 if one process serves guests and operators.

    Raises:
        ConfigError: the kernel refuses the shared memory.
    """

    def __init__(self, tees: Tees, workers: int) -> None:
        layout = _layout(tees)
        self._memory = Memory.create(layout, workers)
        self.own = ProcessMetrics(self._memory, 0)
        self._load = LoadHistory(self._memory, workers + 1, time.monotonic)
        self._documents = Documents.of(tees)
        self._sources: Sources | None = None
        self._read: tuple[Reading, ...] = ()
        self._ticked = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        from verdictd_py.metrics.exposition import Exposition  # noqa: PLC0415  # late, see there

        self._exposition = Exposition(
            self._memory, families.families(tuple(tee.name for tee in tees)), self._readings
        )

    @property
    def descriptors(self) -> dict[str, int]:
        """What each worker inherits."""
        descriptor = self._memory.descriptor
        return {} if descriptor is None else {DESCRIPTOR: descriptor}

    @property
    def background(self) -> tuple[Work, ...]:
        """Work that runs while the broker runs."""
        return (*self.own.background, Work("read gauges", self._keep_reading))

    def events(self, log: Events) -> Events:
        """Return what counts events and passes them on to the log."""
        return _WithDocuments(self._documents, self.own.events(log))

    def connect(self, sources: Sources) -> None:
        """Set what gauges are read from; it is built later."""
        self._sources = sources

    def load(self) -> Load:
        """Return the load of the last minutes, for the console."""
        if self._sources is None:
            return Load()
        return self._load.load(self._sources.connections(), self._sources.limits())

    def certificates(self) -> Mapping[str, datetime]:
        """Return the end of validity of each listener's certificate, for the console."""
        return {} if self._sources is None else self._sources.certificates()

    def worker_ended(self, number: int) -> None:
        """Forget the gauges of a worker that has ended."""
        self._memory.forget_gauges(number)

    def listener(self, address: Address, events: Events) -> StatusListener:
        """Return the listener of monitoring programs."""
        return StatusListener(
            address,
            {
                "/metrics": self._metrics,
                "/startupz": self._startup,
                "/livez": self._liveness,
                "/readyz": self._readiness,
            },
            events,
        )

    async def close(self) -> None:
        """Close the shared memory."""
        self._memory.close()

    def _metrics(self, accept: str) -> Page:
        page, kind = self._exposition.page(accept)
        return Page(page, kind)

    def _startup(self, accept: str) -> Page:
        """Return 200 once all listeners serve: background work begins after them."""
        del accept
        started = self._loop is not None
        return Page(b"started\n") if started else Page(b"the broker starts\n", status=503)

    def _liveness(self, accept: str) -> Page:
        del accept
        return liveness_page(time.monotonic() - self._ticked, LIVE_SECONDS)

    def _readiness(self, accept: str) -> Page:
        del accept
        if self._sources is None:
            return Page(b'{"ready": false}\n', "application/json", 503)
        return readiness_page(self._sources.health)

    def _readings(self) -> tuple[Reading, ...]:
        """Have the event loop read the gauges, and return them (in the listener's thread)."""
        done = Flag()

        def read() -> None:
            self._tick()
            done.set()

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(read)
            done.wait(READ_SECONDS)
        return self._read

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self.own.sampler.sample()
        self._load.note()
        if self._sources is not None:
            self._read = (*self._sources.readings(), *self._documents.readings())

    async def _keep_reading(self) -> None:
        self._loop = asyncio.get_running_loop()
        while True:
            self._tick()
            await asyncio.sleep(TICK_SECONDS)


class _WithDocuments:
    """Port `Events` that also notes changes of documents."""

    def __init__(self, documents: Documents, counted: Events) -> None:
        self._documents = documents
        self._counted = counted

    def record(self, event: Event) -> None:
        if isinstance(event, FileChanged):
            self._documents.note(event, time.time())
        self._counted.record(event)

    async def commit(self, *events: Event) -> None:
        for event in events:
            self.record(event)


def _layout(tees: Tees) -> Layout:
    return Layout(families.families(tuple(tee.name for tee in tees)))
