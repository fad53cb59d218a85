"""Detection of other daemons that use the same data directory.

Each daemon holds a lock on one record of the file `.daemons`, which describes it. The lock is one
of an open file (`F_OFD_SETLK` of fcntl(2)): the kernel releases it when its process ends, however
it ends, and it works over NFS. A record without a lock means nothing, so that a crash leaves
nothing that could be misread, and the number of a process proves nothing.

Several daemons on one directory are supported, so that they are reported and never refused. A file
system without such locks, or a directory that cannot be written, reports none.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from verdictd_py.domain.events import WarningOtherDaemon
from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.ports import Events
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory

DAEMONS_FILE: Final = ".daemons"
"""File in the data directory. It is never removed or replaced: a new file of this name would have
other locks."""

MAX_DAEMONS: Final = 64
"""Maximum number of daemons that are detected."""

LOCK_SECONDS: Final = 2.0
"""Time limit for locks: the lock service of an NFS server may not answer while the rest does."""

_RECORD_BYTES: Final = 512
_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux, fcntl(2)


@dataclass(frozen=True, slots=True)
class OtherDaemon:
    """Another daemon on the same data directory, as it describes itself.

    Attributes:
        pid: number of its process, in its own container or on its own host.
        host: name of that container or host.
        started: time of its start, RFC 3339.
    """

    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        return (
            f"another daemon uses this data directory: process {self.pid} on {self.host}, "
            f"started {self.started}; stop it if it is not meant to share the directory"
        )


class Presence:
    """This daemon's record, and those of the others.

    Args:
        clock: returns now, with a time zone.
    """

    def __init__(self, directory: Directory, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._started = clock()
        self._descriptor: int | None = None
        self._announced = False

    async def announce(self, events: Events) -> None:
        """Take a record, and record an event for each other daemon."""
        self._announced = await self._in_time(self._take_record)
        for other in await self.others():
            events.record(WarningOtherDaemon(pid=other.pid, host=other.host, started=other.started))

    async def others(self) -> tuple[OtherDaemon, ...]:
        """Return the other daemons that run now; none if that cannot be determined in time."""
        found: list[OtherDaemon] = []
        descriptor = self._descriptor
        if self._announced and descriptor is not None:
            await self._in_time(lambda: found.extend(_owners(descriptor)))
        return tuple(found)

    async def close(self) -> None:
        """Release the record."""
        descriptor, self._descriptor, self._announced = self._descriptor, None, False
        if descriptor is not None:
            os.close(descriptor)

    async def _in_time(self, work: Callable[[], None]) -> bool:
        """Do work on the file in a thread; return whether it succeeded in time."""
        with suppress(TimeoutError, OSError, StorageError, AlreadyExists, NotFound):
            async with asyncio.timeout(LOCK_SECONDS):
                await pools.walk(work)
                return True
        return False

    def _take_record(self) -> None:
        descriptor = self._directory.open_shared(DAEMONS_FILE)
        self._descriptor = descriptor
        for start in range(0, MAX_DAEMONS * _RECORD_BYTES, _RECORD_BYTES):
            try:
                _lock(descriptor, fcntl.F_OFD_SETLK, start, _RECORD_BYTES)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2)
                continue
            os.pwrite(descriptor, self._record(), start)
            return

    def _record(self) -> bytes:
        members = {
            "pid": os.getpid(),
            "host": os.uname().nodename[:64],
            "started": self._started.isoformat(timespec="seconds"),
        }
        return json.dumps(members).encode().ljust(_RECORD_BYTES - 1) + b"\n"


def running(path: Path) -> tuple[OtherDaemon, ...]:
    """Return the daemons that use a data directory, without announcing one."""
    try:
        descriptor = os.open(path / DAEMONS_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        return tuple(_owners(descriptor))
    except OSError:
        return ()
    finally:
        os.close(descriptor)


def _owners(descriptor: int) -> Iterator[OtherDaemon]:
    """Yield the daemons whose records are locked by other open files."""
    ranges = [(0, MAX_DAEMONS * _RECORD_BYTES)]
    while ranges:
        start, end = ranges.pop()
        kind, found = _lock(descriptor, fcntl.F_OFD_GETLK, start, end - start)
        if kind == fcntl.F_UNLCK:
            continue
        # The kernel returns any of the locks in the range, not the first one.
        around = ((start, found), (found + _RECORD_BYTES, end))
        ranges += [(low, high) for low, high in around if low < high]
        with suppress(ValueError, KeyError, TypeError):
            record = json.loads(os.pread(descriptor, _RECORD_BYTES, found))
            host, started = str(record["host"])[:64], str(record["started"])[:64]
            yield OtherDaemon(int(record["pid"]), host, started)


def _lock(descriptor: int, command: int, start: int, length: int) -> tuple[int, int]:
    """Call fcntl(2) with an exclusive lock; return the type and the start in its answer.

    Raises:
        BlockingIOError, PermissionError: another open file has a lock on a part of the range.
        OSError: the file system has no such locks.
    """
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, found, _, _ = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, command, wanted))
    return kind, found
