"""One file of the audit trail: records are appended, synced, and taken back if that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from verdictd_py.domain.eventtypes import Event
from verdictd_py.events.chain import FIRST, sealed
from verdictd_py.storage.files import complete, set_mode, synchronizing

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

Record = Mapping[str, Any]
"""Members of a line, without its number and its digests."""


def record_of(event: Event) -> Record:
    """Return the record of an event that happens now."""
    record: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(),
        "event": event.spec.name,
        "fields": event.rendered(),
    }
    if connection := event.correlation.id:
        record["connection"] = connection
    return record


class AuditFile:
    """File with one writer, whose lines are a chain.

    Attributes:
        name: name of the file in its directory.
        records: number of records.
        digest: digest of the last record.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._text = str(path)
        self._descriptor = descriptor
        self._length = 0
        self._is_broken = False
        self.name = path.name
        self.records = 0
        self.digest = FIRST

    @classmethod
    def create(cls, directory: Path, mode: int, writer: str = "") -> Self:
        """Create a file with a new name.

        Args:
            mode: permissions, regardless of the umask.
            writer: end of the name, for one of several processes of a run.

        Raises:
            OSError: the file cannot be created.
        """
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}{writer}.jsonl"
        path = directory / name
        file = cls(path, os.open(path, _FLAGS, 0o600))
        try:
            set_mode(file._descriptor, mode)
            _sync_directory(directory)
        except OSError:
            file.discard()
            raise
        return file

    def append(
        self, records: Iterable[Record], head: Callable[[int, str], Record] | None = None
    ) -> bytes:
        """Write records with one `write` and one `fsync`; return their lines.

        Args:
            head: makes one more record, from the number of records before it and the digest of
                the last one.

        Raises:
            OSError: no record was added. If the file's length cannot be restored, or fsync
                failed, `problem` says so from then on.
        """
        data, number, digest = bytearray(), self.records, self.digest
        for record in records:
            line, digest = sealed({**record, "number": number}, digest)
            data += line
            number += 1
        if head is not None:
            line, digest = sealed({**head(number, digest), "number": number}, digest)
            data += line
            number += 1
        lines = bytes(data)
        self._write(lines)
        self.records, self.digest = number, digest
        return lines

    def _write(self, data: bytes) -> None:
        written = os.write(self._descriptor, data)
        if written != len(data):
            self._take_back()  # a partial line would break the chain
            raise OSError(errno.ENOSPC, "the records cannot be written completely")
        try:
            os.fsync(self._descriptor)
        except OSError:
            self._take_back()
            self._is_broken = True  # the kernel no longer knows which bytes are on the disk
            raise
        self._length += written

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._length)
        except OSError:
            self._is_broken = True

    @property
    def problem(self) -> str:
        """Why no record may be added to this file; empty if records may be added.

        The file must still have its name and its length: programs that read or ship the trail
        find it by this name.
        """
        if self._is_broken:
            return "could not be written"
        own = os.fstat(self._descriptor)
        try:
            named = os.lstat(self._text)  # a `Path` takes longer than the call
        except OSError:
            return "was removed" if self.is_removed else "was renamed"
        if (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino):
            return "was replaced"
        return "" if own.st_size == self._length else "was changed by another program"

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self._length

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more, so that its records are lost."""
        return not os.fstat(self._descriptor).st_nlink

    def close(self) -> None:
        """Close the file; it cannot be used afterwards."""
        os.close(self._descriptor)

    def discard(self) -> None:
        """Close the file, and remove it."""
        with suppress(OSError):
            self._path.unlink()
        self.close()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        complete(synchronizing(descriptor))
    finally:
        os.close(descriptor)
