"""The directory of the audit trail: which files it has, and which of them are still written.

Next to each audit file, its writer has a small state file, locked as long as the writer lives. The
first records of a new file state how all files with a state file are now. After that, the state
files of the writers that have ended are removed: their audit files have their statement. Therefore
each file is named by the next one, in the order in which they were created, whatever ended their
writers, and a missing file is missed.

The state file also has the numbers of events that are not in the trail, so that they survive a
stop and a kill. It has its size from the start, so that a full disk does not prevent that.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from verdictd_py.domain.events import AuditBegan
from verdictd_py.events.chain import FIRST, MAX_LINE_BYTES
from verdictd_py.events.opening import require_regular
from verdictd_py.events.statements import State, Statement

SUFFIX: Final = ".jsonl"

_NAME: Final = re.compile(r"[0-9A-Za-z-]{1,64}\.jsonl")
"""Names that a broker gives to audit files. A statement names no other file: someone who can write
the directory could choose a name that the broker would state as something else."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_TIME_CHARACTERS: Final = len("20260101T000000Z")
"""Length of the time at the beginning of a file's name."""

LOCK_SECONDS: Final = 2.0
"""Maximum wait for the lock of the directory. A process that has it and does not continue must not
stop the others: their files may then not be named by each other."""

_STATE_PREFIX: Final = "."
_STATE_SUFFIX: Final = ".state"
_STATE: Final = struct.Struct("<8sQ64s5Q")  # magic, records, digest, counts
_MAGIC: Final = b"VPAUDIT1"
_STATE_BYTES: Final = 4096
_TAIL_BYTES: Final = 64 * 1024
_RETRY_SECONDS: Final = 0.01
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Flags for files that another program may have replaced by a link or a named pipe."""

COUNTS: Final = ("unauthenticated", "refusals", "denials", "wraps", "failed")
"""Names of the counts of events that are not in the trail, in the order of the state file."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of an audit file.

    Attributes:
        partial: number of bytes after the last complete line.
        time: time of the last record, as it is written; empty if there is none.
    """

    records: int
    digest: str
    partial: int
    time: str = ""


@dataclass(frozen=True, slots=True)
class Others:
    """What a new file states about the files before it.

    Attributes:
        statements: one for each file that has no statement yet as ended.
        counts: events that are not in the trail, of writers that have ended, by `COUNTS`.
    """

    statements: tuple[Statement, ...] = ()
    counts: Mapping[str, int] | None = None
    _finished: tuple[Path, ...] = ()

    def settle(self) -> None:
        """Remove the state files of writers that have ended. Call it when the record is written."""
        for path in self._finished:
            with suppress(OSError):
                path.unlink()


class StateFile:
    """State file of one writer, which has the lock until it is closed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, directory: Path, name: str) -> Self:
        """Create and lock the state file of an audit file.

        Raises:
            OSError: it cannot be created.
        """
        path = _state_path(directory, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask is
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(descriptor, bytes(_STATE_BYTES), 0)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        return cls(path, descriptor)

    def write(self, records: int, digest: str, counts: Sequence[int]) -> None:
        """Replace the content, with one count for each of `COUNTS`.

        An error is ignored, because the trail itself has the records.
        """
        data = _STATE.pack(_MAGIC, records, digest.encode("ascii"), *counts)
        try:
            os.pwrite(self._descriptor, data, 0)
        except OSError:
            return

    def close(self, *, remove: bool = False) -> None:
        """Release the lock.

        Args:
            remove: whether another file has the statement about this one already.
        """
        if remove:
            with suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from creating and pruning audit files in the meantime."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return
            time.sleep(_RETRY_SECONDS)
        except OSError:  # a file system without locks
            return
        else:
            return


def others(directory: Path, own: str) -> Others:
    """Return what must be stated about the files of the directory. Call it while it is `locked`.

    Without any state file, all audit files are named: the directory was written by a version
    without state files, or its state files were removed. Such a version may also have run after a
    newer one; then its files are named as well.

    Args:
        own: name of the new file.

    Raises:
        OSError: the directory cannot be read.
    """
    names = sorted(
        entry.name.removeprefix(_STATE_PREFIX).removesuffix(_STATE_SUFFIX)
        for entry in os.scandir(directory)
        if entry.name.startswith(_STATE_PREFIX) and entry.name.endswith(_STATE_SUFFIX)
    )
    names = [name for name in names if name != own and is_name(name)]
    if not names:
        files = sorted(path.name for path in audit_files(directory) if path.name != own)
        return Others(tuple(_statement(directory, name, State.ENDED) for name in files))
    statements: list[Statement] = []
    finished: list[Path] = []
    counts = dict.fromkeys(COUNTS, 0)
    for name in names:
        path = _state_path(directory, name)
        state, records, digest, more = _read_state(path)
        statements.append(_statement(directory, name, state, records, digest))
        if state is State.ENDED:
            finished.append(path)
            for count, value in zip(COUNTS, more, strict=False):
                counts[count] += value
    # Whether the writers of these files live is unknown.
    earlier = _unconnected(directory, min(names), {*names, own})
    statements += [_statement(directory, name, State.OPEN) for name in earlier]
    return Others(tuple(statements), counts, tuple(finished))


def _unconnected(directory: Path, since: str, known: set[str]) -> Iterator[str]:
    """Yield the names of files that a version without state files has written.

    Args:
        since: name of the oldest file that no file has named as ended yet. Earlier files are named.
        known: names of files that have a state file.
    """
    for path in sorted(audit_files(directory)):
        if path.name not in known and path.name[:_TIME_CHARACTERS] >= since[:_TIME_CHARACTERS]:
            with suppress(OSError, ValueError):
                if first_of(path).get("event") != AuditBegan.spec.name:
                    yield path.name


def is_name(name: str) -> bool:
    """Return whether a name is one that a broker gives to an audit file."""
    return _NAME.fullmatch(name) is not None


def audit_files(directory: Path) -> Iterator[Path]:
    """Yield the audit files of a directory, in no order. Nothing else counts as one.

    Raises:
        OSError: the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_name(entry.name) and entry.is_file(follow_symlinks=False):
                yield directory / entry.name


def _state_path(directory: Path, name: str) -> Path:
    return directory / f"{_STATE_PREFIX}{name}{_STATE_SUFFIX}"


def has_state(directory: Path, name: str) -> bool:
    """Return whether no file has a statement about this one as ended yet."""
    return _state_path(directory, name).exists()


def _read_state(path: Path) -> tuple[State, int, str, tuple[int, ...]]:
    """Return whether the writer lives, and the records, the digest and the counts that it wrote."""
    nothing: tuple[int, str, tuple[int, ...]] = (0, FIRST, ())
    try:
        descriptor = os.open(path, _READ)
    except OSError:
        return (State.ENDED, *nothing)
    try:
        state = State.ENDED
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # locked, or a file system without locks, where no writer counts as ended
            state = State.OPEN
        magic, records, digest, *counts = _STATE.unpack(os.pread(descriptor, _STATE.size, 0))
        text = digest.decode("ascii", "replace")
        if magic != _MAGIC or not _DIGEST.fullmatch(text):
            return (state, *nothing)
        return state, records, text, tuple(counts)
    except (OSError, struct.error):
        return (State.ENDED, *nothing)
    finally:
        os.close(descriptor)


def _statement(
    directory: Path, name: str, state: State, records: int = 0, digest: str = FIRST
) -> Statement:
    """Return the statement about one file.

    Args:
        records, digest: what its writer had written.
    """
    try:
        tail = tail_of(directory / name)
    except FileNotFoundError:
        return Statement(name, State.MISSING, records, digest)
    except (OSError, ValueError):
        return Statement(name, State.UNREADABLE, records, digest)
    if tail.records < records:
        return Statement(name, State.CUT, records, digest)
    partial = tail.partial if state is State.ENDED else 0
    return Statement(name, state, tail.records, tail.digest, partial)


def tail_of(path: Path) -> Tail:
    """Read the last record of a file. The file is not verified, and its size does not matter.

    Raises:
        OSError: the file cannot be read; FileNotFoundError if it is missing.
        ValueError: its last complete line is not a record.
    """
    descriptor = os.open(path, _READ)
    try:
        require_regular(descriptor, path)
        size = os.fstat(descriptor).st_size
        data, length = b"", min(size, _TAIL_BYTES)
        while True:
            data = os.pread(descriptor, length, size - length)
            end = data.rfind(b"\n")
            start = data.rfind(b"\n", 0, max(end, 0))
            if start >= 0 or length >= min(size, MAX_LINE_BYTES):
                break
            length = min(size, MAX_LINE_BYTES, length * 8)
    finally:
        os.close(descriptor)
    partial = len(data) - end - 1
    if end < 0:
        if size > MAX_LINE_BYTES:
            raise ValueError("no line has an end")
        return Tail(0, FIRST, partial)
    members: Any = json.loads(data[start + 1 : end])
    try:
        number, digest = members["number"] + 1, str(members["digest"])
        return Tail(number, digest, partial, str(members.get("time", "")))
    except (KeyError, TypeError):
        raise ValueError("not a record") from None


def first_of(path: Path) -> dict[str, Any]:
    """Return the members of the first record of a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has none.
    """
    descriptor = os.open(path, _READ)
    with os.fdopen(descriptor, "rb") as stream:
        require_regular(descriptor, path)
        members = json.loads(stream.readline(MAX_LINE_BYTES))
    if not isinstance(members, dict) or "digest" not in members:
        raise ValueError("not a record")
    return members


def is_full(error: OSError) -> bool:
    """Return whether an error says that the disk, or the quota of the user, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
