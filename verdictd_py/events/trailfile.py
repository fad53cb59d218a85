"""A file of the audit trail with everything that connects it to the others.

Its first record states how the files before it are (`traildirectory`). Heads follow in between and
at its end (`heads`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from verdictd_py.domain.events import AuditBegan, AuditHead, AuditNamed
from verdictd_py.events.auditfile import AuditFile, Record, record_of
from verdictd_py.events.heads import HeadSigner
from verdictd_py.events.traildirectory import COUNTS, Others, StateFile, locked, others

HEAD_RECORDS: Final = 1000
"""Number of records after which a head is due."""

HEAD_SECONDS: Final = 60.0
"""Age of a record without a head at which a head is due."""

NO_COUNTS: Final = (0,) * len(COUNTS)

_STATEMENTS: Final = 64
"""Statements in one record, see the events `AuditBegan` and `AuditNamed`."""


@dataclass(frozen=True, slots=True)
class Making:
    """How the files of one trail are created.

    Attributes:
        directory: `audit/` of the data directory.
        mode: permissions of the files.
        writer: end of their names, for one of several processes of a run.
        signer: signs the heads; None for heads without a signature.
        monotonic: clock for the age of records, in seconds.
        forward: called with all lines that are written, in their order; must not block.
    """

    directory: Path
    mode: int
    writer: str = ""
    signer: HeadSigner | None = None
    monotonic: Callable[[], float] = time.monotonic
    forward: tuple[Callable[[bytes], object], ...] = ()


class TrailFile:
    """File of the trail that this process writes.

    Attributes:
        heads: the heads that were written since they were last taken from here, for the log.
    """

    def __init__(self, making: Making, file: AuditFile, state: StateFile, reason: str) -> None:
        self._making = making
        self._file = file
        self._state = state
        self._reason = reason
        self._others = Others()
        self._beginning: tuple[Record, ...] = ()
        self._headed = 0
        self._headed_at = making.monotonic()
        self._began_at = making.monotonic()
        self.heads: list[AuditHead] = []

    @classmethod
    def create(cls, making: Making, reason: str) -> Self:
        """Create a file with a new name. Its first records are written with the next ones.

        Raises:
            OSError: the file cannot be created.
        """
        with locked(making.directory):
            file = AuditFile.create(making.directory, making.mode, making.writer)
            try:
                state = StateFile.create(making.directory, file.name)
            except OSError:
                file.discard()
                raise
            created = cls(making, file, state, reason)
            try:
                created._state_others(others(making.directory, file.name))
            except OSError:
                created.discard()
                raise
        return created

    def _state_others(self, found: Others) -> None:
        statements = tuple(str(statement) for statement in found.statements)
        signer = self._making.signer
        counts = {name: (found.counts or {}).get(name, 0) for name in COUNTS}
        began = AuditBegan(
            file=self.path,
            reason=self._reason,
            files=statements[:_STATEMENTS],
            key=None if signer is None else signer.public,
            **counts,
        )
        more = (
            AuditNamed(files=statements[start : start + _STATEMENTS])
            for start in range(_STATEMENTS, len(statements), _STATEMENTS)
        )
        self._beginning = tuple(record_of(event) for event in (began, *more))
        self._others = found

    @property
    def path(self) -> str:
        """Path below the data directory."""
        return f"audit/{self._file.name}"

    @property
    def records(self) -> int:
        return self._file.records

    @property
    def digest(self) -> str:
        return self._file.digest

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self._file.length

    @property
    def age(self) -> float:
        """Seconds since the file was created."""
        return self._making.monotonic() - self._began_at

    @property
    def problem(self) -> str:
        """Why no record may be added to this file; see `AuditFile.problem`."""
        return self._file.problem

    @property
    def is_removed(self) -> bool:
        return self._file.is_removed

    def append(self, records: Sequence[Record], *, with_head: bool = False) -> None:
        """Write records, after the first records of the file if it has none yet.

        Args:
            with_head: whether a head follows them in any case.

        Raises:
            OSError: no record was added; see `AuditFile.append`.
        """
        is_due = (
            with_head
            or bool(self._beginning)
            or self._file.records + len(records) - self._headed >= HEAD_RECORDS
            or self._making.monotonic() - self._headed_at >= HEAD_SECONDS
        )
        self._append(records, with_head=is_due)

    def add_head(self, *, last: bool = False) -> None:
        """Write a head, if there are records without one.

        Raises:
            OSError: it was not written.
        """
        if last or self._beginning or self._file.records > self._headed:
            self._append((), with_head=True, last=last)

    def _append(self, records: Sequence[Record], *, with_head: bool, last: bool = False) -> None:
        made: list[AuditHead] = []

        def head(number: int, digest: str) -> Record:
            made.append(self._head(number, digest, last=last))
            return record_of(made[0])

        lines = self._file.append((*self._beginning, *records), head if with_head else None)
        for forward in self._making.forward:
            forward(lines)
        if self._beginning:
            self._beginning = ()
            self._others.settle()
        if made:
            self.heads += made
            self._headed, self._headed_at = self._file.records, self._making.monotonic()

    def _head(self, number: int, digest: str, *, last: bool) -> AuditHead:
        signer = self._making.signer
        signature = None
        if signer is not None:
            signature = signer.sign(self._file.name, number, digest, last=last)
        return AuditHead(
            file=self.path,
            records=number,
            digest=digest,
            signature=signature,
            last=True if last else None,
        )

    def note(self, counts: Sequence[int]) -> None:
        """Note the end of the file, and counts of events that are not in it (`COUNTS`)."""
        self._state.write(self._file.records, self._file.digest, counts)

    def retire(self) -> None:
        """Close the file, because this process continues in another one, with its counts."""
        self.note(NO_COUNTS)
        self.close()

    def close(self) -> None:
        """Close the file; it cannot be used afterwards."""
        self._file.close()
        self._state.close()

    def discard(self) -> None:
        """Close the file, and remove it."""
        self._file.discard()
        self._state.close(remove=True)
