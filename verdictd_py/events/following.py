"""Following of audit files while a broker writes, rotates and removes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from verdictd_py.events.chain import MAX_LINE_BYTES
from verdictd_py.events.opening import COMPRESSED, open_regular
from verdictd_py.events.reading import UNREADABLE, AuditRecord, in_order, read_line


@dataclass(slots=True)
class _Position:
    """Where a file was read to.

    Attributes:
        file: its device and inode, None before it was opened: another file may get its name.
        offset: bytes that were read.
        number: number of lines before the offset.
        seen: records with a smaller number were returned already.
    """

    file: tuple[int, int] | None = None
    offset: int = 0
    number: int = 0
    seen: int = 0


class Follower:
    """Reads the records that are added to files, and those of new files.

    Args:
        files: lists the files; compressed ones are ignored, because nothing is added to them.
    """

    def __init__(self, files: Callable[[], Sequence[Path]]) -> None:
        self._files = files
        self._positions: dict[Path, _Position] = {}

    def before(self, records: Iterable[AuditRecord]) -> Iterator[AuditRecord]:
        """Pass on the records of all files; `new` returns none of them again."""
        seen: dict[str, int] = {}
        for record in records:
            if record.event != UNREADABLE:  # a line that is written at this moment
                seen[record.file] = record.number + 1
            yield record
        for path in self._files():
            if path.name in seen:
                self._positions[path] = _Position(seen=seen[path.name])

    def new(self) -> Iterator[AuditRecord]:
        """Yield what was added since the last call, in the order of time.

        The names of files that were begun in one second do not tell their order. A file that was
        removed meanwhile is forgotten.

        Raises:
            OSError: a file cannot be read.
        """
        paths = [path for path in self._files() if path.suffix != COMPRESSED]
        self._positions = {path: self._positions.get(path, _Position()) for path in paths}
        files: list[tuple[str, Callable[[], Iterator[AuditRecord]]]] = []
        for path, position in self._positions.items():
            moved = replace(position)
            first = next(_added(path, moved), None)
            if first is None:
                self._positions[path] = moved
            else:
                files.append((first.time, partial(_added, path, position)))
        return in_order(files)


def _added(path: Path, position: _Position) -> Iterator[AuditRecord]:
    """Yield the records behind a position, which moves with them; none of a removed file."""
    try:
        stream = open_regular(path)
    except FileNotFoundError:
        return
    with stream:
        status = os.fstat(stream.fileno())
        file = (status.st_dev, status.st_ino)
        if position.file not in (None, file) or status.st_size < position.offset:
            position.offset = position.number = position.seen = 0
        position.file = file
        stream.seek(position.offset)
        while _is_whole(line := stream.readline(MAX_LINE_BYTES)):
            number = position.number
            position.offset += len(line)
            position.number += 1
            if number >= position.seen:
                yield read_line(path.name, number, line)


def _is_whole(line: bytes) -> bool:
    """Return whether nothing can follow that belongs to a line: no record is longer than that."""
    return line.endswith(b"\n") or len(line) == MAX_LINE_BYTES
