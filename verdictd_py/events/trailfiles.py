"""The files that one process writes, one after the other: the trail without its queue.

A new file begins when the one before is large or old enough, or cannot be used any more.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.domain.events import AuditClosed, AuditContinued, AuditOpened, WarningAudit
from verdictd_py.events.auditfile import Record, record_of
from verdictd_py.events.reserve import Reserve
from verdictd_py.events.retention import NO_ROTATION, Retention, Rotation, pruned, remove
from verdictd_py.events.traildirectory import is_full, locked
from verdictd_py.events.trailfile import Making, TrailFile
from verdictd_py.ports import Events

_START, _CONTINUED, _ROTATED = "start", "continued", "rotated"

NO_RESERVE: Final = Reserve(Path("/nonexistent"), 0)


class TrailFiles:
    """Files of one process. Only one thread calls the methods.

    Args:
        making: how the files are created.
        log: receives what happens to the files.
        rotation: when a new file begins.
        retention: which files are removed; None for a process that removes none.
        reserve: space for the time when the disk is full.

    Attributes:
        current: the file that is written; None before `open` and after `close`.
        incident: why the last file was not continued; empty after it was reported.
    """

    def __init__(
        self,
        making: Making,
        log: Events,
        *,
        rotation: Rotation = NO_ROTATION,
        retention: Retention | None = None,
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self.making = making
        self._log = log
        self._rotation = rotation
        self._retention = retention
        self._reserve = reserve
        self.current: TrailFile | None = None
        self.incident = ""

    @property
    def removes_old_files(self) -> bool:
        return self._retention is not None

    def open(self) -> None:
        """Create the first file.

        Raises:
            OSError: it cannot be created.
        """
        self.current = file = TrailFile.create(self.making, _START)
        self._log.record(AuditOpened(file=file.path))
        self._reserve.fill()
        with suppress(OSError):  # its first records are tried again with those that follow
            file.append(())
            self._log_heads(file)

    def write(
        self, records: Sequence[Record], *, with_head: bool = False, with_pruning: bool = False
    ) -> None:
        """Append records to the file, or to a new one; if the disk is full, use the reserve.

        Args:
            with_head: whether a head is to follow the records.
            with_pruning: whether files are to be removed that the retention does not allow.

        Raises:
            OSError: the records are not in the trail.
        """
        try:
            self._append(records)
        except OSError as error:
            if not (is_full(error) and self._reserve.release()):
                raise
            reason = "the disk of the audit trail is full; the reserved space is used; free some"
            self._log.record(WarningAudit(reason=reason))
            self._append(records)
        try:
            if with_head:
                self._add_head()
            if with_pruning:
                self._prune()
        except OSError:
            if not records:  # otherwise they are in the trail, and only the rest is not
                raise

    def _append(self, records: Sequence[Record]) -> None:
        file = self._file()
        if problem := file.problem:
            self._continue(file, problem, records)
            return
        if self._is_rotation_due(file):
            file = self._rotated(file)
        if records:
            file.append(records)
        if file.is_removed:
            raise OSError(errno.ESTALE, "the audit file was removed while it was written")
        if file.heads:
            self._log_heads(file)

    def _file(self) -> TrailFile:
        if self.current is None:
            raise OSError(errno.EBADF, "the audit trail is not open")
        return self.current

    def _add_head(self) -> None:
        file = self._file()
        file.add_head()
        self._log_heads(file)
        self._reserve.fill()

    def _is_rotation_due(self, file: TrailFile) -> bool:
        size, seconds = self._rotation.size, self._rotation.seconds
        return (size is not None and file.length >= size) or (
            seconds is not None and file.age >= seconds
        )

    def _rotated(self, before: TrailFile) -> TrailFile:
        """Begin a new file, and end the one before; return that one if there is no new file."""
        try:
            file = TrailFile.create(self.making, _ROTATED)
        except OSError:
            return before
        try:
            file.append(())
        except OSError:
            file.discard()
            return before
        with suppress(OSError):  # it then ends without a head; the next file states its end
            before.add_head(last=True)
        self._log_heads(before)
        before.retire()
        self.current = file
        self._log.record(AuditOpened(file=file.path))
        return file

    def _continue(self, before: TrailFile, problem: str, records: Sequence[Record]) -> None:
        """Create the next file, with a record that names the file before it.

        Raises:
            OSError: there is no next file; it is tried again with the next records.
        """
        continued = AuditContinued(
            file=before.path,
            records=before.records,
            digest=before.digest,
            reason=f"the file {problem}",
        )
        file = TrailFile.create(self.making, _CONTINUED)
        try:
            file.append([record_of(continued), *records])
        except OSError:
            file.discard()
            raise
        before.retire()
        self.current = file
        self.incident = f"{before.path} {problem}; the trail continues in {file.path}"
        self._log.record(continued)
        self._log.record(AuditOpened(file=file.path))
        self._log_heads(file)

    def _prune(self) -> None:
        """Remove files after a record of them.

        Raises:
            OSError: the record cannot be written; nothing is removed.
        """
        if self._retention is None:
            return
        file, directory = self._file(), self.making.directory
        with locked(directory):
            files = self._retention.excess(directory, Path(file.path).name)
            try:
                event = pruned(files)
            except ValueError as error:
                self._log.record(WarningAudit(reason=f"no file is removed: {error}"))
                return
            if event is None:
                return
            file.append([record_of(event)], with_head=True)  # only a signed one counts
            remove(files)
        self._log_heads(file)
        self._log.record(event)

    def note(self, counts: Sequence[int]) -> None:
        """Note the end of the file and the counts of omitted events next to the file."""
        if self.current is not None:
            self.current.note(counts)

    def finish(self) -> None:
        """Write the last head, if the file can be written."""
        file = self.current
        if file is not None and not file.problem:
            with suppress(OSError):  # the file then ends without a head
                file.add_head(last=True)
                self._log_heads(file)

    def close(self) -> None:
        """Close the file, and log its digest."""
        if self.current is not None:
            self.current.close()
            closed = AuditClosed(records=self.current.records, digest=self.current.digest)
            self._log.record(closed)
            self.current = None

    def _log_heads(self, file: TrailFile) -> None:
        heads, file.heads = file.heads, []
        for head in heads:
            self._log.record(head)
