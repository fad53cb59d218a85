"""Reading of audit files for people and programs: records in the order of time, and filters.

Nothing is verified here: `events.verification` does that.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from verdictd_py.domain.events import (
    AuditNotKept,
    ChangeFailed,
    GuestNotJudged,
    GuestRefused,
    ReleaseRefused,
    WarningReload,
    WrapRefused,
)
from verdictd_py.events.chain import MAX_LINE_BYTES
from verdictd_py.events.opening import DAMAGED, open_trail

UNREADABLE: Final = "unreadable"
"""Event of a line that is not a record."""

ACCEPTED: Final = "accepted"
REFUSED: Final = "refused"
FAILED: Final = "failed"

_REFUSED: Final = frozenset(kind.spec.name for kind in (GuestRefused, ReleaseRefused, WrapRefused))
_FAILED: Final = frozenset(
    kind.spec.name for kind in (GuestNotJudged, ChangeFailed, WarningReload, AuditNotKept)
)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of an audit file.

    Attributes:
        file: name of its file.
        number: its index in the file.
        time: RFC 3339, as it is written.
        members: all members of the line.
    """

    file: str
    number: int
    time: str
    event: str
    fields: dict[str, Any]
    members: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return where the record is, and the record as it is stored."""
        return {"file": self.file, "number": self.number, "record": self.members}

    @property
    def result(self) -> str:
        """Whether the record reports a refusal, a failure, or what happened."""
        if self.event in _REFUSED:
            return REFUSED
        return FAILED if self.event in _FAILED else ACCEPTED

    @property
    def object(self) -> str:
        """Key, resource, document or file that the record is about; empty if there is none."""
        for name in ("kid", "path", "object", "resource", "name", "file"):
            value = self.fields.get(name)
            if isinstance(value, str):
                return value
        return ""


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that a record must all meet.

    Attributes:
        events: patterns of names (`guest.*`), of which one must match; empty for all.
        guest: id of an appraisal, or its beginning.
        kid: id of a key or path of a resource, with or without `keys/`.
        results: accepted, refused or failed; empty for all.
        since, until: times, the first included and the second not.
        text: must occur in a field.
    """

    events: tuple[str, ...] = ()
    guest: str = ""
    kid: str = ""
    results: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""

    def admits(self, record: AuditRecord) -> bool:
        if self.events and not any(fnmatchcase(record.event, name) for name in self.events):
            return False
        if self.results and record.result not in self.results:
            return False
        if self.guest and not self._is_of_guest(record):
            return False
        if self.kid and not self._is_of_key(record):
            return False
        if self.text and self.text not in json.dumps(record.fields, ensure_ascii=False):
            return False
        return self._is_in_time(record)

    def _is_of_guest(self, record: AuditRecord) -> bool:
        ids = (record.fields.get("appraisal"), record.fields.get("guest"))
        return any(isinstance(each, str) and each.startswith(self.guest) for each in ids)

    def _is_of_key(self, record: AuditRecord) -> bool:
        wanted = self.kid.removeprefix("keys/")
        values = [record.fields.get(name) for name in ("kid", "path", "object")]
        also = record.fields.get("paths")
        values += also if isinstance(also, list) else []
        return any(isinstance(v, str) and v.removeprefix("keys/") == wanted for v in values)

    def _is_in_time(self, record: AuditRecord) -> bool:
        if self.since is None and self.until is None:
            return True
        try:
            time = datetime.fromisoformat(record.time)
            return (self.since is None or time >= self.since) and (
                self.until is None or time < self.until
            )
        except (ValueError, TypeError):
            return True  # an auditor must see it


def records_of(path: Path) -> Iterator[AuditRecord]:
    """Yield the records of a file; a line that is not a record is an event `unreadable`.

    So is the rest of a compressed file that is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with open_trail(path) as stream:
        for number in count():
            try:
                line = stream.readline(MAX_LINE_BYTES)
            except DAMAGED:
                yield read_line(path.name, number, b"the rest cannot be decompressed")
                return
            if not line:
                return
            yield read_line(path.name, number, line)


def read_line(file: str, number: int, line: bytes) -> AuditRecord:
    """Return the record of a line, which may have been changed."""
    try:
        members = json.loads(line)
        fields = members["fields"]
        return AuditRecord(
            file, number, str(members["time"]), str(members["event"]), dict(fields), members
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        fields = {"line": line[:200].decode("ascii", "replace")}
        return AuditRecord(file, number, "", UNREADABLE, fields, {"event": UNREADABLE})


def merged(paths: Sequence[Path]) -> Iterator[AuditRecord]:
    """Yield the records of files in the order of time.

    Raises:
        OSError: a file cannot be read.
    """
    return in_order([(_first_time(path), partial(records_of, path)) for path in paths])


def in_order(
    files: Iterable[tuple[str, Callable[[], Iterator[AuditRecord]]]],
) -> Iterator[AuditRecord]:
    """Yield the records of files in the order of time.

    A file is opened when its first record is due, so that thousands of files need no more
    descriptors than the broker had workers.

    Args:
        files: the time of the first record of each file, and a function that opens it.

    Raises:
        OSError: a file cannot be read.
    """
    waiting = sorted(files, key=itemgetter(0), reverse=True)
    current: list[tuple[str, int, AuditRecord, Iterator[AuditRecord]]] = []
    order = count()

    def push(records: Iterator[AuditRecord]) -> None:
        record = next(records, None)
        if record is not None:
            heapq.heappush(current, (record.time, next(order), record, records))

    while waiting or current:
        while waiting and (not current or waiting[-1][0] <= current[0][0]):
            push(waiting.pop()[1]())
        if current:
            _, _, record, records = heapq.heappop(current)
            yield record
            push(records)


def _first_time(path: Path) -> str:
    return next((record.time for record in records_of(path)), "")
