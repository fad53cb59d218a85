"""Search in the newest records of the audit trail. Nothing is verified here."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from verdictd_py.errors import StorageError

MAX_BYTES: Final = 16 * 1024 * 1024
"""The newest bytes of the trail that a search reads, of all files together."""

MAX_RECORDS: Final = 100
MAX_FILES: Final = 200

_PATTERN: Final = "*.jsonl"

_SUMMARY: Final = ("kid", "path", "name", "file", "values", "code", "caller", "appraisal", "peer")
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

    def admits(self, record: AuditRecord) -> bool:
        return (
            (not self.event or fnmatchcase(record.event, self.event))
            and (not self.since or record.time >= self.since)
            and (not self.until or record.time < self.until)
            and (not self.text or any(self.text in value for _, value in record.fields))
        )


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record; fields are texts by name."""

    file: str
    number: int
    time: str
    event: str
    digest: str
    fields: tuple[tuple[str, str], ...]

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

    Raises:
        StorageError: the trail cannot be read.
    """
    try:
        paths = sorted(directory.glob(_PATTERN), reverse=True)
        sizes = [(path, path.stat().st_size) for path in paths[:MAX_FILES]]
        found: list[AuditRecord] = []
        left, complete = MAX_BYTES, len(paths) <= MAX_FILES
        for path, size in sizes:
            if left <= 0:
                complete = False
                break
            complete = complete and size <= left
            matching = (r for r in _records(path, min(size, left)) if wanted.admits(r))
            found += deque(matching, MAX_RECORDS)  # a file has its newest records at its end
            left -= size
    except OSError as error:
        raise StorageError(f"the audit trail cannot be read: {error.strerror}") from error
    found.sort(key=lambda record: (record.time, record.number), reverse=True)
    files = tuple((path.name, size) for path, size in sizes)
    return AuditView(files, tuple(found[:MAX_RECORDS]), complete=complete)


def _records(path: Path, last_bytes: int) -> Iterator[AuditRecord]:
    """Return the records in the last bytes of a file; lines that are not records are omitted."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(size - min(size, last_bytes))
        data = stream.read(last_bytes)
    lines = data.split(b"\n")
    for line in lines[1:] if size > last_bytes else lines:
        record = _record(path.name, line)
        if record is not None:
            yield record


def _record(file: str, line: bytes) -> AuditRecord | None:
    try:
        members: dict[str, Any] = json.loads(line)
        fields = members["fields"]
        return AuditRecord(
            file,
            int(members["number"]),
            str(members["time"]),
            str(members["event"]),
            str(members["digest"]),
            tuple((name, _text(value)) for name, value in fields.items()),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
