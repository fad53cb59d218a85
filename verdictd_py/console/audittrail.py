"""Search in the newest records of the audit trail. Nothing is verified here."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from verdictd_py.errors import StorageError
from verdictd_py.events import reading
from verdictd_py.events.opening import COMPRESSED, open_regular
from verdictd_py.events.scan import files_of

MAX_BYTES: Final = 16 * 1024 * 1024
"""The newest bytes of the trail that a search reads, of all files together."""

MAX_RECORDS: Final = 100
MAX_FILES: Final = 200

Record = TypeVar("Record")

_SUMMARY: Final = (
    *("kid", "path", "name", "file", "values", "code", "caller", "appraisal", "peer", "tee"),
)
"""Fields that say most about a record, in this order."""


@dataclass(frozen=True, slots=True)
class AuditSearch:
    """Conditions that a record must all meet; empty texts are not conditions.

    Attributes:
        text: occurs in a field.
        event: pattern of the event's name, `guest.*`.
        since, until: beginning of the time, `2026-11-27T12`; the first included, the second not.
    """

    text: str = ""
    event: str = ""
    since: str = ""
    until: str = ""

    def admits(self, record: reading.AuditRecord) -> bool:
        conditions = reading.Filter(events=(self.event,) if self.event else (), text=self.text)
        return (
            (not self.since or record.time >= self.since)
            and (not self.until or record.time < self.until)
            and conditions.admits(record)
        )


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record as it is displayed; fields are texts by name."""

    file: str
    number: int
    time: str
    event: str
    digest: str
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, record: reading.AuditRecord) -> AuditRecord:
        """Return the texts of a record, which may have been changed."""
        number, digest = record.members.get("number"), record.members.get("digest")
        return cls(
            record.file,
            number if isinstance(number, int) else record.number,
            record.time,
            record.event,
            digest if isinstance(digest, str) else "",
            tuple((name, _text(value)) for name, value in record.fields.items()),
        )

    @property
    def summary(self) -> str:
        """The fields that say most, in one line."""
        fields = dict(self.fields)
        named = [fields[name] for name in _SUMMARY if fields.get(name, "null") != "null"]
        return ", ".join(named or [value for _, value in self.fields][:3])


@dataclass(frozen=True, slots=True)
class AuditView:
    """Result of a search.

    Attributes:
        files: name and size in bytes of each file, the newest first.
        records: the newest matching records, the newest first.
        complete: whether the whole trail was read.
    """

    files: tuple[tuple[str, int], ...]
    records: tuple[AuditRecord, ...]
    complete: bool


def search(directory: Path, wanted: AuditSearch) -> AuditView:
    """Search the newest records. This reads files, so that it takes a thread.

    Compressed files are listed, and not read.

    Raises:
        StorageError: the trail cannot be read.
    """
    found, files, complete = _search(directory, wanted, MAX_RECORDS, AuditRecord.of)
    found.sort(key=lambda record: (record.time, record.number), reverse=True)
    return AuditView(files, tuple(found[:MAX_RECORDS]), complete=complete)


def newest_records(
    directory: Path, wanted: AuditSearch, number: int
) -> tuple[list[reading.AuditRecord], bool]:
    """Return the newest matching records, the newest first, and whether the whole trail was read.

    Raises:
        StorageError: the trail cannot be read.
    """
    found, _, complete = _search(directory, wanted, number, lambda record: record)
    found.sort(key=lambda record: (record.time, record.number), reverse=True)
    return found[:number], complete


def _search(
    directory: Path,
    wanted: AuditSearch,
    number: int,
    convert: Callable[[reading.AuditRecord], Record],
) -> tuple[list[Record], tuple[tuple[str, int], ...], bool]:
    """Return the newest records of each file, all files, and whether everything was read."""
    try:
        paths = sorted(files_of(directory), reverse=True)
        sizes = [(path, path.stat().st_size) for path in paths[:MAX_FILES]]
        found: list[Record] = []
        left, complete = MAX_BYTES, len(paths) <= MAX_FILES
        for path, size in sizes:
            if left <= 0 or path.suffix == COMPRESSED:
                complete = False
                continue
            complete = complete and size <= left
            matching = (r for r in _records(path, min(size, left)) if wanted.admits(r))
            # A file has its newest records at its end.
            found += deque(map(convert, matching), number)
            left -= size
    except OSError as error:
        raise StorageError(f"the audit trail cannot be read: {error.strerror}") from error
    return found, tuple((path.name, size) for path, size in sizes), complete


def _records(path: Path, last_bytes: int) -> Iterator[reading.AuditRecord]:
    """Return the records in the last bytes of a file.

    Their numbers count from the first of these lines.
    """
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(size - min(size, last_bytes))
        lines = stream.read(last_bytes).split(b"\n")
    for number, line in enumerate(lines[1:] if size > last_bytes else lines):
        if line:
            yield reading.read_line(path.name, number, line)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
