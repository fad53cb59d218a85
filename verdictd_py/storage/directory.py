"""Everything that touches the file system, below one directory opened once.

A name is opened segment by segment, relative to a directory descriptor and without
following links, so no name from outside ever becomes a path by concatenation. Writes
are whole or nothing: a temporary file beside the target, fsync, rename, fsync of the
directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""The largest reference data that is read, 4 MiB; all else is smaller."""

MAX_DEPTH: Final = 3
"""No name has more segments, so nothing below is ours to look at."""

LOCK_FILE: Final = ".lock"
"""Locked while something is compared and replaced. It is never removed or replaced: a second
file of this name would be a second lock."""

_TEMPORARY: Final = re.compile(r"\.tmp-.*", re.DOTALL)  # storage.md: by its beginning
# Names never begin with a dot, so no request can ask for a temporary file.

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# flock for writing needs a descriptor for writing where the file system is NFS.
_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK_OR_CREATE: Final = _LOCK | os.O_CREAT
# ELOOP is O_NOFOLLOW's word for a link, ENXIO that of a socket: neither is ours.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_IN_THE_WAY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

_CHUNK: Final = 64 * 1024  # bytes of one read; most files are far smaller
_TOO_LARGE: Final = f"is larger than {MAX_FILE_BYTES} bytes"

Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file: its name below the root, bytes, mode bits, change time in ns, inode.

    Two entries of one name are equal only if nobody has replaced the file between them.
    """

    segments: Segments
    size: int
    mode: int
    modified_ns: int
    inode: int


class DirectoryBusy(StorageError):
    """Another process or task holds the lock of the directory now."""


class Directory:
    """One tree of files. Names are checked segments, never paths."""

    def __init__(self, descriptor: int) -> None:
        self._root = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens `path`, and makes it (0700) where it is missing, with those above it.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{path} is no directory; choose another --data-dir") from error
        except ValueError as error:  # pathlib's word for a NUL
            raise ConfigError("cannot use a path with a NUL; choose another --data-dir") from error
        except OSError as error:
            raise ConfigError(
                f"cannot use {path}: {error.strerror}; make it a directory that this user can "
                "read and write, or choose another --data-dir"
            ) from error
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            os.close(descriptor)
            raise ConfigError(
                f"cannot use {path}: permission denied; make it readable and writable for this "
                "user, or choose another --data-dir"
            )
        return cls(descriptor)

    def close(self) -> None:
        """Ends the use of the directory."""
        os.close(self._root)

    def make(self, *segments: str) -> None:
        """Makes a directory (0700) and those above it, where they are missing.

        Raises:
            AlreadyExists: something else is in the way.
            StorageError: it is not permitted.
        """
        with _translated(writing=True), self._parent((*segments, ""), make=True):
            return

    def read(self, segments: Segments) -> bytes:
        """The whole file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: larger than `MAX_FILE_BYTES`, or unreadable.
        """
        with _translated(), self._parent(segments) as parent:
            descriptor = os.open(segments[-1], _READ, dir_fd=parent)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise NotFound("nothing of that name")
                content = bytearray()
                while len(content) <= MAX_FILE_BYTES and (chunk := os.read(descriptor, _CHUNK)):
                    content += chunk
            finally:
                os.close(descriptor)
        if len(content) > MAX_FILE_BYTES:
            raise StorageError(_TOO_LARGE)
        return bytes(content)

    def exists(self, segments: Segments) -> bool:
        """Whether anything has that name, of whatever kind.

        Raises:
            StorageError: it cannot be told.
        """
        with suppress(NotFound), _translated(), self._parent(segments) as parent:
            os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
            return True
        return False

    def entry(self, segments: Segments) -> Entry:
        """One regular file, without its content.

        Raises:
            NotFound: no regular file of that name.
            StorageError: it cannot be told.
        """
        with _translated(), self._parent(segments) as parent:
            status = os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound("nothing of that name")
        return _entry(segments, status)

    def replace(self, segments: Segments, content: bytes) -> None:
        """Creates or replaces a file; readers see the old bytes or the new ones.

        Raises:
            AlreadyExists: a file has a name that this one begins with, or a directory has it.
            StorageError: too large, or it could not be written.
        """
        with _translated(writing=True), self._parent(segments, make=True) as parent:
            with self._temporary(parent, content) as temporary:
                os.rename(temporary, segments[-1], src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)

    def create(self, segments: Segments, content: bytes) -> None:
        """Creates a file, whole from its first moment; of two creators one wins.

        Raises:
            AlreadyExists: something has that name, or a name that this one begins with.
            StorageError: too large, or it could not be written.
        """
        with _translated(writing=True), self._parent(segments, make=True) as parent:
            with self._temporary(parent, content) as temporary:
                # A link, unlike a rename, never replaces what is there.
                try:
                    os.link(temporary, segments[-1], src_dir_fd=parent, dst_dir_fd=parent)
                except FileExistsError:
                    status = os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        raise IsADirectoryError from None
                    raise
                os.unlink(temporary, dir_fd=parent)
            os.fsync(parent)

    def delete(self, segments: Segments) -> None:
        """Deletes a file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: it could not be deleted.
        """
        with _translated(), self._parent(segments) as parent:
            mode = os.stat(segments[-1], dir_fd=parent, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise NotFound("nothing of that name")
            os.unlink(segments[-1], dir_fd=parent)
            os.fsync(parent)

    def walk(self, *top: str) -> Iterator[Entry]:
        """Regular files below `top`, sorted: none of ours that is being written, no links.

        Args:
            top: the directory, one segment or none.
        """
        for entry in self._files(top):
            if not _TEMPORARY.fullmatch(entry.segments[-1]) and entry.segments != (LOCK_FILE,):
                yield entry

    def _files(self, top: Segments) -> Iterator[Entry]:
        found: list[tuple[str, os.stat_result]] = []
        # What cannot be read, or goes while we look, has nothing to list.
        with (
            suppress(OSError),
            self._parent((*top, "")) as descriptor,
            os.scandir(descriptor) as items,
        ):
            for item in sorted(items, key=lambda item: item.name):
                with suppress(FileNotFoundError):
                    found.append((item.name, item.stat(follow_symlinks=False)))
        for name, status in found:
            segments = (*top, name)
            if stat.S_ISREG(status.st_mode):
                yield _entry(segments, status)
            elif stat.S_ISDIR(status.st_mode) and len(segments) <= MAX_DEPTH:
                yield from self._files(segments)

    def remove_leftovers(self, top: str) -> None:
        """Removes what brokers that died were writing below `top`; a live one holds a lock."""
        for entry in self._files((top,)):
            if _TEMPORARY.fullmatch(entry.segments[-1]):
                with suppress(OSError), self._parent(entry.segments) as parent:
                    _remove_unless_locked(entry.segments[-1], parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock of the directory, against threads and other processes alike.

        It is not waited for. The kernel releases it when the process ends, however it ends.

        Raises:
            DirectoryBusy: somebody else holds it.
            StorageError: the lock file cannot be opened for writing.
        """
        try:
            descriptor = os.open(LOCK_FILE, _LOCK_OR_CREATE, 0o600, dir_fd=self._root)
        except OSError as error:
            reason = (error.strerror or "input or output failed").lower()
            raise StorageError(
                f"cannot be changed: {LOCK_FILE} in the data directory: {reason}"
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryBusy("is being changed by others") from None
            except OSError as error:
                reason = (error.strerror or "input or output failed").lower()
                raise StorageError(f"cannot be changed: no lock: {reason}") from None
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, segments: Segments, *, make: bool = False) -> Iterator[int]:
        """Descriptor of the directory that holds the last of `segments`."""
        descriptor = os.dup(self._root)
        try:
            for segment in segments[:-1]:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(segment, 0o700, dir_fd=descriptor)
                        os.fsync(descriptor)
                try:
                    below = os.open(segment, _DIRECTORY, dir_fd=descriptor)
                except OSError as error:
                    if make and error.errno in _IN_THE_WAY:
                        raise AlreadyExists(f"begins with {segment}, which is taken") from None
                    raise
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    @contextmanager
    def _temporary(parent: int, content: bytes) -> Iterator[str]:
        """Name of a synced file with `content`, locked until the block ends, then gone."""
        if len(content) > MAX_FILE_BYTES:
            raise StorageError(_TOO_LARGE)
        name, descriptor = _locked_file(parent)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            os.close(descriptor)


def _entry(segments: Segments, status: os.stat_result) -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    return Entry(segments, status.st_size, mode, status.st_mtime_ns, status.st_ino)


def _locked_file(parent: int) -> tuple[str, int]:
    """Name and descriptor of a new temporary file that no other broker removes."""
    while True:
        name = f".tmp-{uuid4().hex}"
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return name, descriptor
        except OSError:
            os.close(descriptor)
            raise
        # A broker that started between the two calls took it for a leftover.
        os.close(descriptor)


def _remove_unless_locked(name: str, parent: int) -> None:
    descriptor = os.open(name, _LOCK, dir_fd=parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(*, writing: bool = False) -> Iterator[None]:
    """Errors of the system as ours, without the path: the peer may read them."""
    try:
        yield
    except FileExistsError:
        raise AlreadyExists("exists already") from None
    except IsADirectoryError:
        raise AlreadyExists("is where other names begin") from None
    except OSError as error:
        if error.errno in _ABSENT and not writing:
            raise NotFound("nothing of that name") from None
        reason = (error.strerror or "input or output failed").lower()
        raise StorageError(f"cannot be read or written: {reason}") from None
