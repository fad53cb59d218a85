"""Audit trail: appraisals, releases and changes, in files whose lines are chains of digests.

Each start of a process writes a new file below `audit/`, so that several daemons on one directory
never share a file. One thread writes it. Everything that waits for a record at the same time is
written together, with one fsync (group commit).

If the file is no longer the file of its name (it was removed, renamed or truncated), the trail
continues in a new file before anything else is recorded, with the record `audit.continued`. The
first record of each file states how the files before it are (`trailfile`). What this proves, and
what it does not, is in `docs/audit.md`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event as ThreadEvent
from threading import Thread
from typing import Final

from verdictd_py.domain.events import (
    AuditNotDelivered,
    AuditNotKept,
    WarningAudit,
    WarningSink,
)
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.events.auditfile import Record, record_of
from verdictd_py.events.budgets import Budgets
from verdictd_py.events.heads import HeadSigner
from verdictd_py.events.reserve import Reserve
from verdictd_py.events.retention import NO_ROTATION, Retention, Rotation
from verdictd_py.events.sinks.sink import CLOSE_SECONDS, Delivery, close_all
from verdictd_py.events.trailfile import Making, TrailFile
from verdictd_py.events.trailfiles import TrailFiles
from verdictd_py.handover import Handover
from verdictd_py.ports import Events
from verdictd_py.stages import Stage, measured

COUNT_SECONDS: Final = 60.0
"""Pause between two records of the number of events that are not in the trail."""

BLOCKING_SECONDS: Final = 2.0
"""Maximum wait of `record` and `close` for the disk: a disk that does not answer must not keep the
daemon from stopping."""

_MAX_BATCH: Final = 512
"""Maximum number of waiting calls whose records are written together."""

_CLOSED: Final = "the audit trail is not open"
_COUNT: Final = AuditNotKept.spec.name


@dataclass(slots=True, eq=False)
class _Waiting:
    """Events of one call, which waits until they are written.

    Attributes:
        records: records of those events that must be audited.
        caller: what wakes the caller: a thread waits for the event, a task for the handover.
        error: why they are not written.
        with_head: whether a head is to follow the records.
        with_pruning: whether files are to be removed that the retention does not allow.
    """

    events: tuple[Event, ...]
    records: tuple[Record, ...]
    caller: ThreadEvent | Handover[None]
    error: Exception | None = None
    with_head: bool = False
    with_pruning: bool = False

    def require_written(self) -> None:
        """Raise the error, if there is one. The caller calls this when it is woken."""
        if self.error is not None:
            raise self.error


class AuditTrail:
    """Receiver of events that writes those to be audited to the trail, and then all to the log.

    A secret whose release cannot be recorded is not released, and a change that cannot be
    recorded is not made, because the error reaches the use case first.

    Args:
        directory: `audit/` of the data directory.
        log: receives every event, after the trail; also from the thread of the trail.
        mode: permissions of the files.
        writer: end of the files' names, for one of several processes of a run.
        signer: signs the heads of the files; None for heads without a signature.
        rotation: when a new file begins.
        retention: which files are removed; None for a process that removes none.
        reserve_bytes: space that is reserved on the disk.
        sinks: receive all records after they are on the disk.
        monotonic: clock for the limit of records per minute and for heads, in seconds.

    Attributes:
        counted: called with the numbers of records and bytes that were written, and of events that
            could not be recorded; also in the thread of the trail. For the metrics.
    """

    def __init__(  # noqa: PLR0913  # its settings, all by keyword
        self,
        directory: Path,
        log: Events,
        *,
        mode: int = 0o600,
        writer: str = "",
        signer: HeadSigner | None = None,
        rotation: Rotation = NO_ROTATION,
        retention: Retention | None = None,
        reserve_bytes: int = 0,
        sinks: Sequence[Delivery] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        forward = tuple(sink.put for sink in sinks)
        self._files = TrailFiles(  # only the thread uses it while it runs
            Making(directory, mode, writer, signer, monotonic, forward),
            log,
            rotation=rotation,
            retention=retention,
            reserve=Reserve(directory, reserve_bytes),
        )
        self._sinks = tuple(sinks)
        self._log = log
        self._thread: Thread | None = None
        self._waiting: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._budgets = Budgets(directory, monotonic)
        self._is_noted = True
        self._was_failing = False
        self._counted: tuple[TrailFile | None, int, int] = (None, 0, 0)
        self.counted: Callable[[int, int, int], None] = lambda *counts: None  # noqa: ARG005  # unused

    def open(self) -> None:
        """Create a new file, and start the thread. Before that, `record` only logs.

        Raises:
            ConfigError: the file cannot be created.
        """
        try:
            self._files.open()
        except OSError as error:
            raise ConfigError(
                f"cannot write the audit trail in {self._files.making.directory}: "
                f"{error.strerror}; make the directory writable for this user"
            ) from error
        self._budgets.measure()
        self._thread = Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    @property
    def queue_length(self) -> int:
        """Number of calls that wait for the disk."""
        return self._waiting.qsize()

    @property
    def sinks_close_seconds(self) -> float:
        """The longest time that `close` waits for sinks."""
        return CLOSE_SECONDS if self._sinks else 0.0

    @property
    def state(self) -> tuple[str, int, str]:
        """Path of the file below the data directory, number of its records, last digest."""
        file = self._files.current
        return ("", 0, "") if file is None else (file.path, file.records, file.digest)

    def record(self, event: Event) -> None:
        """Write one event to the trail if it is to be audited, then to the log.

        The order matters: the log must not report what the error then prevents. This blocks the
        calling thread until the record is on disk, at most `BLOCKING_SECONDS`.

        Raises:
            StorageError: the event must be audited, and the trail cannot be written in time.
        """
        if event.spec.audit is Audit.NO:
            self._log.record(event)
            return
        records = self._records([event])
        if not records or self._thread is None:
            self._log.record(event)
            return
        self._write_now((event,), records)

    def _write_now(
        self,
        events: tuple[Event, ...] = (),
        records: tuple[Record, ...] = (),
        *,
        with_head: bool = False,
        with_pruning: bool = False,
    ) -> None:
        """Have the thread write, and wait for it.

        Raises:
            StorageError: the trail cannot be written in time.
        """
        written = ThreadEvent()
        waiting = _Waiting(events, records, written, with_head=with_head, with_pruning=with_pruning)
        self._waiting.put(waiting)
        if not written.wait(BLOCKING_SECONDS):
            raise StorageError("the disk of the audit trail does not answer")
        waiting.require_written()

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
        await self._written(events, records)

    async def _written(self, events: tuple[Event, ...], records: tuple[Record, ...]) -> None:
        if self._thread is None:
            raise StorageError(_CLOSED)
        written: Handover[None] = Handover(asyncio.get_running_loop())
        waiting = _Waiting(events, records, written)
        self._waiting.put(waiting)
        with measured(Stage.AUDIT):
            await written  # a caller that is cancelled does not prevent the records
        waiting.require_written()

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
        self._files.close()
        for name, lost in close_all(self._sinks).items():
            self._log.record(AuditNotDelivered(sink=name, records=lost))
        return state

    def record_omitted(self) -> None:
        """Record how many events are not in the trail since the last such record, if any.

        A count that cannot be written to the trail is logged, and counted again the next time.
        """
        event = self._budgets.take()
        if event is not None:
            try:
                self.record(event)
            except StorageError:
                self._budgets.put_back(event)
                self._log.record(event)
        for sink in self._sinks:
            problem, waiting = sink.take_problem()
            if problem:
                self._log.record(WarningSink(sink=sink.name, reason=problem, records=waiting))
            if lost := sink.take_lost():
                try:
                    self.record(AuditNotDelivered(sink=sink.name, records=lost))
                except StorageError:
                    sink.add_lost(lost)

    async def examine(self) -> str:
        """Return why the trail cannot be written, or what has happened to its file; or nothing.

        If the file is no longer the file of its name, the trail continues in a new file now.
        """
        try:
            await self._written((), ())
        except StorageError as error:
            self._was_failing = True
            return str(error)
        incident, self._files.incident = self._files.incident, ""
        was_failing, self._was_failing = self._was_failing, False
        return "" if was_failing else incident

    async def keep_counting(self) -> None:
        """Call `record_omitted` each minute and write the heads that are due, until cancelled."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await asyncio.to_thread(self.record_omitted)
            with suppress(StorageError):  # `audit.not-kept` and the health report it
                await asyncio.to_thread(self.record_head)
                await asyncio.to_thread(self.prune)

    def record_head(self) -> None:
        """Write a head if there are records without one.

        Raises:
            StorageError: the trail cannot be written in time.
        """
        if self._thread is not None:
            self._write_now(with_head=True)

    def prune(self) -> None:
        """Remove the files that the retention does not allow, after a record of them.

        Raises:
            StorageError: the trail cannot be written in time.
        """
        if self._thread is not None and self._files.removes_old_files:
            self._write_now(with_pruning=True)

    def _records(self, events: Sequence[Event]) -> tuple[Record, ...]:
        """Return the records of events.

        Raises:
            StorageError: an event must be recorded, and has no budget, so it must not happen.
        """
        return tuple(record_of(event) for event in events if self._is_audited(event))

    def _is_audited(self, event: Event) -> bool:
        audit = event.spec.audit
        if audit is Audit.NO:
            return False
        if self._thread is None:
            return audit is Audit.YES
        if self._budgets.admits(event):
            return True
        if self._is_noted:  # the thread notes the counts, once for all that are counted meanwhile
            self._is_noted = False
            self._waiting.put(_Waiting((), (), ThreadEvent()))
        if audit is Audit.YES:
            raise StorageError("the audit trail has too little space on its disk; free some")
        return False

    def _write_all(self) -> None:
        """Write what waits, in batches, until `None` comes (the thread of the trail)."""
        while (first := self._waiting.get()) is not None:
            batch, is_last = self._batch(first)
            try:
                self._write(batch)
            except OSError as error:
                failure = StorageError("the audit trail cannot be written")
                failure.__cause__ = error
                self._fail(batch, failure)
            except Exception as error:  # noqa: BLE001  # the callers report it; the thread goes on
                self._fail(batch, error)
            else:
                self._count_written()
                for waiting in batch:
                    self._finish(waiting)
            _wake(batch)
            self._note()
            if is_last:
                break
        self._files.finish()
        self._note()

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

    def _write(self, batch: Sequence[_Waiting]) -> None:
        """Write the records of a batch.

        Raises:
            OSError: the records are not in the trail.
        """
        records: list[Record] = []
        with_head = with_pruning = False
        for waiting in batch:
            records += waiting.records
            with_head |= waiting.with_head
            with_pruning |= waiting.with_pruning
        self._files.write(records, with_head=with_head, with_pruning=with_pruning)

    def _count_written(self) -> None:
        """Report what was written to the file since the last call."""
        file = self._files.current
        if file is not None:
            known, records, length = self._counted
            if known is not file:
                records = length = 0
            if file.length != length:
                self._counted = (file, file.records, file.length)
                self.counted(file.records - records, file.length - length, 0)

    def watch_omitted(self, omitted: Callable[[str], None]) -> None:
        """Have a function called with the class of each event that the budgets omit."""
        self._budgets.omitted = omitted

    def _note(self) -> None:
        """Note the end of the file and the counts of omitted events next to the file."""
        self._count_written()
        self._is_noted = True
        self._files.note(self._budgets.counts)
        self._budgets.measure()

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for waiting in batch:
            failed = sum(r["event"] != _COUNT for r in waiting.records)
            self._budgets.add_failed(failed)
            self.counted(0, 0, failed)
            waiting.error = error

    def _finish(self, waiting: _Waiting) -> None:
        """Log the events of a call, before it continues."""
        try:
            for event in waiting.events:
                self._log.record(event)
        except Exception as error:  # noqa: BLE001  # the caller reports it; the thread goes on
            waiting.error = error


def _wake(batch: Sequence[_Waiting]) -> None:
    """Wake the callers that wait for a batch, the tasks with one call for each event loop."""
    tasks: dict[asyncio.AbstractEventLoop, list[Handover[None]]] = {}
    for waiting in batch:
        if isinstance(waiting.caller, ThreadEvent):
            waiting.caller.set()
        else:
            tasks.setdefault(waiting.caller.get_loop(), []).append(waiting.caller)
    for loop, callers in tasks.items():
        with suppress(RuntimeError):  # the loop is closed, and nothing waits there any more
            loop.call_soon_threadsafe(_complete, callers)


def _complete(callers: Sequence[Handover[None]]) -> None:
    for caller in callers:
        if not caller.done():  # otherwise it was cancelled
            caller.set_result(None)
