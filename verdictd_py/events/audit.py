"""Audit trail: appraisals, releases and changes, in files whose lines are chains of digests.

Each start of the daemon writes a new file below `audit/`, so that several daemons on one
directory never share a file. One thread writes it. Everything that waits for a record at the same
time is written together, with one fsync (group commit).

If the file is no longer the file of its name (it was removed, renamed or truncated), the trail
continues in a new file before anything else is recorded. The first record of that file,
`audit.continued`, names the file before it with the number of its records and its last digest.
The chain cannot prove that a whole file was not rewritten: for that, store the log on another
machine.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Final

from verdictd_py.domain.events import (
    AuditClosed,
    AuditContinued,
    AuditNotKept,
    AuditOpened,
    WarningAudit,
)
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.events.auditfile import AuditFile, Record, record_of
from verdictd_py.ports import Events
from verdictd_py.stages import Stage, measured

MAX_LIMITED_PER_MINUTE: Final = 600
"""Maximum number of `Audit.LIMITED` records in a minute, some 700 bytes each.

Unauthenticated peers cause them and must not fill the disk. The trail records how many more
there were.
"""

COUNT_SECONDS: Final = 60.0
"""Pause between two records of the number of events that are not in the trail."""

BLOCKING_SECONDS: Final = 2.0
"""Maximum wait of `record` and `close` for the disk: a disk that does not answer must not keep the
daemon from stopping."""

_MAX_BATCH: Final = 512
"""Maximum number of waiting calls whose records are written together."""

_MINUTE: Final = 60.0
_CLOSED: Final = "the audit trail is not open"
_COUNT: Final = AuditNotKept.spec.name


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """Events of one call, which waits for `written`.

    Attributes:
        records: records of those events that must be audited.
        task: event loop of a caller that is a task, with the future that wakes it.
    """

    events: tuple[Event, ...]
    records: tuple[Record, ...]
    written: Future[None] = field(default_factory=Future)
    task: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None


class AuditTrail:
    """Receiver of events that writes those to be audited to the trail, and then all to the log.

    A secret whose release cannot be recorded is not released, and a change that cannot be
    recorded is not made, because the error reaches the use case first.

    Args:
        directory: `audit/` of the data directory.
        log: receives every event, after the trail; also from the thread of the trail.
        mode: permissions of the files.
        writer: end of the files' names, for one of several processes of a run.
        monotonic: clock for the limit of records per minute, in seconds.

    Attributes:
        counted: called in the thread of the trail with the numbers of records and bytes that were
            written, and the number of events that could not be recorded.
    """

    def __init__(
        self,
        directory: Path,
        log: Events,
        *,
        mode: int = 0o600,
        writer: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._log = log
        self._mode = mode
        self._writer = writer
        self._file: AuditFile | None = None  # only the thread uses it while it runs
        self._thread: Thread | None = None
        self._waiting: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._omitted = _Omitted(monotonic)
        self.counted: Callable[[int, int, int], None] = lambda records, size, failed: None  # noqa: ARG005  # unused

    def open(self) -> None:
        """Create a new file, and start the thread. Before that, `record` only logs.

        Raises:
            ConfigError: the file cannot be created.
        """
        try:
            self._file = AuditFile.create(self._directory, self._mode, self._writer)
        except OSError as error:
            raise ConfigError(
                f"cannot write the audit trail in {self._directory}: {error.strerror}; "
                "make the directory writable for this user"
            ) from error
        self._log.record(_opened(self._file))
        self._thread = Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    @property
    def queue_length(self) -> int:
        """Number of calls that wait for the disk."""
        return self._waiting.qsize()

    @property
    def state(self) -> tuple[str, int, str]:
        """Path of the file below the data directory, number of its records, last digest."""
        file = self._file
        return ("", 0, "") if file is None else (_path(file), file.records, file.digest)

    def record(self, event: Event) -> None:
        """Write one event to the trail if it is to be audited, then to the log.

        The order matters: the log must not report what the error then prevents. This blocks the
        calling thread until the record is on disk, at most `BLOCKING_SECONDS`.

        Raises:
            StorageError: the event must be audited, and the trail cannot be written in time.
        """
        records = self._records([event])
        if not records or self._thread is None:
            self._log.record(event)
            return
        try:
            waiting = _Waiting((event,), records)
            self._waiting.put(waiting)
            waiting.written.result(BLOCKING_SECONDS)
        except TimeoutError:
            raise StorageError("the disk of the audit trail does not answer") from None

    async def commit(self, *events: Event) -> None:
        """Write events as `record` does, without blocking the event loop.

        Raises:
            StorageError: an event must be audited, and the trail cannot be written or is not
                open. None of the events is recorded.
        """
        records = self._records(events)
        if not records:
            for event in events:
                self._log.record(event)
            return
        if self._thread is None:
            raise StorageError(_CLOSED)
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        waiting = _Waiting(events, records, task=(loop, written))
        self._waiting.put(waiting)
        with measured(Stage.AUDIT):
            await written  # a caller that is cancelled does not prevent the records
        waiting.written.result()

    async def report(self, event: Event) -> None:
        """Write an event that has happened as `commit` does; only to the log if that fails."""
        try:
            await self.commit(event)
        except StorageError:
            self._log.record(event)

    def close(self) -> tuple[str, int, str]:
        """Write what waits and the count of omitted events; close the file, log its digest.

        If the disk does not answer in time, the file stays open, and a warning is logged.

        Returns:
            The last `state`.
        """
        if self._thread is None:
            return self.state
        self.record_omitted()
        thread, self._thread = self._thread, None
        self._waiting.put(None)
        thread.join(BLOCKING_SECONDS)
        if thread.is_alive():
            reason = "the disk of the audit trail does not answer; its last records may be missing"
            self._log.record(WarningAudit(reason=reason))
            return self.state
        while not self._waiting.empty():
            late = self._waiting.get()
            if late is not None:
                self._fail([late], StorageError(_CLOSED))
                _wake([late])
        state = self.state
        if self._file is not None:
            self._file.close()
            self._log.record(AuditClosed(records=self._file.records, digest=self._file.digest))
            self._file = None
        return state

    def record_omitted(self) -> None:
        """Record how many events are not in the trail since the last such record, if any.

        A count that cannot be written to the trail is logged, and counted again the next time.
        """
        refusals, failed = self._omitted.take()
        if not refusals and not failed:
            return
        event = AuditNotKept(refusals=refusals, failed=failed)
        try:
            self.record(event)
        except StorageError:
            self._omitted.add(refusals, failed)
            self._log.record(event)

    async def keep_counting(self) -> None:
        """Call `record_omitted` each minute, until cancelled."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await asyncio.to_thread(self.record_omitted)

    def _records(self, events: Sequence[Event]) -> tuple[Record, ...]:
        return tuple(record_of(event) for event in events if self._is_audited(event.spec.audit))

    def _is_audited(self, audit: Audit) -> bool:
        if audit is Audit.LIMITED:
            return self._thread is not None and self._omitted.allows()
        return audit is Audit.YES

    def _write_all(self) -> None:
        """Write what waits, in batches, until `None` comes (the thread of the trail)."""
        while (first := self._waiting.get()) is not None:
            batch, is_last = self._batch(first)
            try:
                self._write([record for waiting in batch for record in waiting.records])
            except OSError as error:
                failure = StorageError("the audit trail cannot be written")
                failure.__cause__ = error
                self._fail(batch, failure)
            except Exception as error:  # noqa: BLE001  # the callers report it; the thread goes on
                self._fail(batch, error)
            else:
                self.counted(sum(len(waiting.records) for waiting in batch), 0, 0)
                for waiting in batch:
                    self._finish(waiting)
            _wake(batch)
            if is_last:
                return

    def _batch(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """Return everything that waits now, and whether `None` was at its end."""
        batch = [first]
        while len(batch) < _MAX_BATCH:
            try:
                following = self._waiting.get_nowait()
            except Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

    def _write(self, records: Sequence[Record]) -> None:
        """Append records to the file, or to a new one if that cannot be used any more.

        Raises:
            OSError: the records are not in the trail.
        """
        file = self._file
        if file is None:
            raise OSError(errno.EBADF, _CLOSED)
        problem = file.problem
        if problem:
            self._continue(file, problem, records)
            return
        file.append(records)
        if file.is_removed:
            raise OSError(errno.ESTALE, "the audit file was removed while it was written")

    def _continue(self, before: AuditFile, problem: str, records: Sequence[Record]) -> None:
        """Create the next file: its first record names the file before it.

        Raises:
            OSError: there is no next file; it is tried again with the next records.
        """
        continued = AuditContinued(
            file=f"audit/{before.name}",
            records=before.records,
            digest=before.digest,
            reason=f"the file {problem}",
        )
        file = AuditFile.create(self._directory, self._mode, self._writer)
        try:
            file.append([record_of(continued), *records])
        except OSError:
            file.discard()
            raise
        before.close()
        self._file = file
        self._log.record(continued)
        self._log.record(_opened(file))

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for waiting in batch:
            failed = sum(r["event"] != _COUNT for r in waiting.records)
            self._omitted.add(0, failed)
            self.counted(0, 0, failed)
            waiting.written.set_exception(error)

    def _finish(self, waiting: _Waiting) -> None:
        """Log the events of a call, then let it continue."""
        try:
            for event in waiting.events:
                self._log.record(event)
        except Exception as error:  # noqa: BLE001  # the caller reports it; the thread goes on
            waiting.written.set_exception(error)
        else:
            waiting.written.set_result(None)


class _Omitted:
    """Counter of the events that are not in the trail, with the limit for each minute."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._minute = monotonic()
        self._allowed = 0
        self._refusals = 0
        self._failed = 0
        self._lock = Lock()

    def allows(self) -> bool:
        """Return whether the trail records an event that unauthenticated peers cause; count it."""
        with self._lock:
            now = self._monotonic()
            if now - self._minute >= _MINUTE:
                self._minute, self._allowed = now, 0
            is_within = self._allowed < MAX_LIMITED_PER_MINUTE
            if is_within:
                self._allowed += 1
            else:
                self._refusals += 1
            return is_within

    def take(self) -> tuple[int, int]:
        """Return the refusals beyond the limit and the failed records since the last call."""
        with self._lock:
            taken = self._refusals, self._failed
            self._refusals = self._failed = 0
            return taken

    def add(self, refusals: int, failed: int) -> None:
        with self._lock:
            self._refusals += refusals
            self._failed += failed


def _opened(file: AuditFile) -> AuditOpened:
    return AuditOpened(file=_path(file))


def _path(file: AuditFile) -> str:
    return f"audit/{file.name}"


def _wake(batch: Sequence[_Waiting]) -> None:
    """Wake the tasks that wait for a batch, with one call for each event loop."""
    tasks: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiting in batch:
        if waiting.task is not None:
            tasks.setdefault(waiting.task[0], []).append(waiting.task[1])
    for loop, futures in tasks.items():
        with suppress(RuntimeError):  # the loop is closed, and nothing waits there any more
            loop.call_soon_threadsafe(_complete, futures)


def _complete(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():  # a caller was cancelled
            future.set_result(None)
