"""Reading of one audit file for its verification: its chain, and what it states about others."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from verdictd_py.domain.events import AuditBegan, AuditContinued, AuditHead, AuditNamed, AuditPruned
from verdictd_py.errors import StorageError
from verdictd_py.events.chain import FIRST, MAX_LINE_BYTES, read_record
from verdictd_py.events.opening import COMPRESSED, DAMAGED, NOT_A_FILE, open_trail
from verdictd_py.events.statements import State, Statement
from verdictd_py.events.traildirectory import SUFFIX

SLACK: Final = timedelta(seconds=1)
"""Decrease of the time that is not reported: events get their time before they are in order."""

_DIGEST_BYTES: Final = 32
_BEGAN = AuditBegan.spec.name
_HEAD = AuditHead.spec.name
_PRUNED: Final = AuditPruned.spec.name
_STATING: Final = frozenset((_BEGAN, AuditNamed.spec.name, _PRUNED))
_CONTINUED: Final = AuditContinued.spec.name

_ATTEMPTS: Final = 20
"""How often a file is read whose end is in the middle of a line while it grows."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head in a file: `records` records before it, the last with `digest`.

    Attributes:
        last: whether it states that the file ends with it.
    """

    records: int
    digest: str
    signature: str
    last: bool = False


@dataclass(slots=True)
class Scan:
    """What one file has.

    Attributes:
        path: where it was read from.
        name: its own name according to its first record.
        digest: digest of the last record.
        problem: why the rest of the file could not be read; empty if all records are intact.
        partial: bytes after the last complete line.
        has_beginning: whether its first record is `audit.began`; older versions wrote none.
        statements: each with the index of the record that has it.
        heads: its heads, in order.
        remarks: what an auditor should know, and what is not a sign of a change.
        expected: the expected digests that it has.
    """

    path: Path
    name: str
    records: int = 0
    digest: str = FIRST
    problem: str = ""
    partial: int = 0
    has_beginning: bool = False
    first_time: str = ""
    last_time: str = ""
    statements: list[tuple[int, Statement]] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    _digests: bytearray = field(default_factory=bytearray, repr=False)

    def digest_at(self, records: int) -> str | None:
        """Return the digest of the last of the first `records` records; None if it has fewer."""
        if records > self.records:
            return None
        if records <= 0:
            return FIRST
        end = records * _DIGEST_BYTES
        return self._digests[end - _DIGEST_BYTES : end].hex()

    def _add(self, members: dict[str, Any]) -> None:
        digest, name = cast("str", members["digest"]), members.get("event")
        self._digests += bytes.fromhex(digest)
        if isinstance(name, str) and name.startswith("audit."):
            self._add_own(name, members.get("fields"))
        time = members.get("time")
        if isinstance(time, str):
            if time < self.last_time and _is_before(time, self.last_time):
                self.remarks.append(
                    f"line {self.records + 1}: the time decreases from {self.last_time} to {time}"
                )
            self.last_time = time
            self.first_time = self.first_time or time
        self.digest = digest
        self.records += 1

    def _add_own(self, name: str, fields: object) -> None:
        """Read a record of the trail about itself.

        Raises:
            StorageError: it cannot be read.
        """
        if not isinstance(fields, dict):
            raise StorageError(f"line {self.records + 1} has no fields")
        if name == _BEGAN and self.records == 0:
            self.has_beginning = True
            self.name = str(fields.get("file", "")).rpartition("/")[2] or self.name
        if name in _STATING:
            texts = fields.get("files")
            if not isinstance(texts, list):
                raise StorageError(f"line {self.records + 1} has no statements")
            self._add_statements([Statement.parse(str(text)) for text in texts], name)
        elif name == _CONTINUED:
            before = str(fields.get("file", "")).rpartition("/")[2]
            records, digest = fields.get("records"), str(fields.get("digest"))
            if isinstance(records, int):
                statement = Statement(before, State.OPEN, records, digest)
                self.statements.append((self.records, statement))
        elif name == _HEAD:
            self._add_head(fields)

    def _add_statements(self, statements: Sequence[Statement], event: str) -> None:
        """Add what a record states. Only `audit.pruned` states that files were pruned.

        Raises:
            StorageError: the event does not state this.
        """
        for statement in statements:
            if (statement.state is State.PRUNED) != (event == _PRUNED):
                raise StorageError(
                    f"line {self.records + 1}: {event} does not state that {statement.name} is "
                    f"{statement.state}"
                )
            self.statements.append((self.records, statement))

    def _add_head(self, fields: dict[str, Any]) -> None:
        signature, last = str(fields.get("signature") or ""), fields.get("last") is True
        head = Head(self.records, self.digest, signature, last)
        if (fields.get("records"), fields.get("digest")) != (head.records, head.digest):
            raise StorageError(f"line {self.records + 1} is a head of other records")
        self.heads.append(head)


def scan(path: Path, expected: Collection[str] = ()) -> Scan:
    """Read a file to its end, or to the first line that is not the next record of its chain.

    A broker may write the file meanwhile. If its end is in the middle of a line, it is therefore
    read again as long as it grows, but not for ever.

    Args:
        expected: digests to look for.

    Raises:
        OSError: the file cannot be read.
    """
    for _ in range(_ATTEMPTS):
        size = path.stat().st_size
        result = _scan(path, expected)
        if not result.partial or path.stat().st_size == size:
            break
    return result


def scan_all(paths: Sequence[Path], expected: Collection[str] = ()) -> list[Scan]:
    """Read files in an order in which each is read after those that state how it is.

    Otherwise a file that a broker writes meanwhile could seem to have lost records.

    Raises:
        OSError: a file cannot be read.
    """
    newest_first = sorted(paths, key=began_at, reverse=True)
    scans = {path: scan(path, expected) for path in newest_first}
    return [scans[path] for path in paths]


def began_at(path: Path) -> tuple[str, str]:
    """Return the time of the first record; files of one second have names in no order."""
    try:
        with open_trail(path) as stream:
            return str(json.loads(stream.readline(MAX_LINE_BYTES))["time"]), path.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError, *DAMAGED):
        return "", path.name


def _scan(path: Path, expected: Collection[str]) -> Scan:
    result = Scan(path, path.name.removesuffix(COMPRESSED))
    with open_trail(path) as stream:
        try:
            for line in _lines(stream):
                if not line.endswith(b"\n"):
                    result.partial = len(line)
                    break
                result._add(read_record(line, result.records, result.digest))  # noqa: SLF001
                if result.digest in expected:
                    result.expected.add(result.digest)
        except StorageError as error:
            result.problem = str(error)
        except DAMAGED as error:
            result.problem = f"cannot be decompressed after {result.records} records: {error}"
    return result


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE_BYTES):
        yield line


def files_of(directory: Path) -> list[Path]:
    """Return the audit files of a directory, also compressed ones, by name."""
    return _entries(directory, regular=True)


def irregular_in(directory: Path) -> list[Path]:
    """Return what has the name of an audit file and is none: a link, a named pipe, a directory.

    No broker creates such a file.
    """
    return _entries(directory, regular=False)


def irregular_scan(path: Path) -> Scan:
    """Return the scan of something that is not a regular file, which is never opened."""
    return Scan(path, path.name.removesuffix(COMPRESSED), problem=NOT_A_FILE)


def _entries(directory: Path, *, regular: bool) -> list[Path]:
    with os.scandir(directory) as entries:
        return sorted(
            directory / entry.name
            for entry in entries
            if entry.name.removesuffix(COMPRESSED).endswith(SUFFIX)
            and entry.is_file(follow_symlinks=False) is regular
        )


def _is_before(time: str, last: str) -> bool:
    try:
        return datetime.fromisoformat(last) - datetime.fromisoformat(time) > SLACK
    except (ValueError, TypeError):
        return True
