"""File operations below one directory, which is opened once.

A name is opened segment by segment, relative to a directory descriptor and without
following links, so an untrusted name never becomes a path by concatenation. Writes are
atomic: a temporary file next to the target, fsync, rename, fsync of the directory.
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
"""Maximum size of a file: that of the largest reference data; all other files are smaller."""

MAX_DEPTH: Final = 3
"""Maximum number of segments in a name; deeper directories are ignored."""

LOCK_FILE: Final = ".lock"
"""File that is locked while another one is compared and replaced. It is never removed or
replaced: a new file of this name would be a second lock."""

_TEMPORARY: Final = re.compile(r"\.tmp-.*", re.DOTALL)  # storage.md: by its beginning
# Names never begin with a dot, so no request can name a temporary file.

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# On NFS, an exclusive flock needs a descriptor that is open for writing.
_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK_OR_CREATE: Final = _LOCK | os.O_CREAT
# ELOOP: a link (O_NOFOLLOW); ENXIO: a socket. Both are treated as absent.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_NOT_A_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

_CHUNK: Final = 64 * 1024  # bytes per read; most files are far smaller
_TOO_LARGE: Final = f"is larger than {MAX_FILE_BYTES} bytes"

Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file: its name below the root, bytes, mode bits, change time in ns, inode.

    Two entries of one name are equal only if the file was not replaced between them.
    """

    segments: Segments
    size: int
    mode: int
    modified_ns: int
    inode: int


class DirectoryBusy(StorageError):
    """Raised when another process or task holds the lock of the directory."""


class Directory:
    """Tree of files below one directory. Names are checked segments, never paths."""

    def __init__(self, descriptor: int) -> None:
        self._root = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open `path`; create it (0700), and its parents, if it is missing.

        Raises:
            ConfigError: it cannot be used; the message has the cause and the remedy.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{path} is not a directory; choose another --data-dir") from error
        except ValueError as error:  # raised by pathlib for a NUL
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
        """Close the directory; it cannot be used afterwards."""
        os.close(self._root)

    def make(self, *segments: str) -> None:
        """Create a directory (0700) and its parents, if they are missing.

        Raises:
            AlreadyExists: a file or a link has one of these names.
            StorageError: it is not permitted.
        """
        with _translated(writing=True), self._parent((*segments, ""), make=True):
            return

    def read(self, segments: Segments) -> bytes:
        """Return the whole content of a file.

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
        """Return whether a file, directory or anything else has that name.

        Raises:
            StorageError: the directory cannot be read.
        """
        with suppress(NotFound), _translated(), self._parent(segments) as parent:
            os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
            return True
        return False

    def entry(self, segments: Segments) -> Entry:
        """Return the metadata of one regular file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: the directory cannot be read.
        """
        with _translated(), self._parent(segments) as parent:
            status = os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound("nothing of that name")
        return _entry(segments, status)

    def replace(self, segments: Segments, content: bytes) -> None:
        """Create or replace a file; readers see either the old content or the new one.

        Raises:
            AlreadyExists: a directory has this name, or a file has a prefix of it.
            StorageError: too large, or it could not be written.
        """
        with _translated(writing=True), self._parent(segments, make=True) as parent:
            with self._temporary(parent, content) as temporary:
                os.rename(temporary, segments[-1], src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)

    def create(self, segments: Segments, content: bytes) -> None:
        """Create a file with its whole content at once; only one of two creators succeeds.

        Raises:
            AlreadyExists: a file or directory has this name, or a file has a prefix of it.
            StorageError: too large, or it could not be written.
        """
        with _translated(writing=True), self._parent(segments, make=True) as parent:
            with self._temporary(parent, content) as temporary:
                # A link, unlike a rename, never replaces an existing file.
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
        """Delete a file.

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
        """Yield the regular files below `top`, sorted, without temporary files and links.

        Args:
            top: the directory: one segment, or none for the root.
        """
        for entry in self._files(top):
            if not _TEMPORARY.fullmatch(entry.segments[-1]) and entry.segments != (LOCK_FILE,):
                yield entry

    def _files(self, top: Segments) -> Iterator[Entry]:
        statuses: list[tuple[str, os.stat_result]] = []
        # Directories that cannot be read, and files deleted meanwhile, are not listed.
        with (
            suppress(OSError),
            self._parent((*top, "")) as descriptor,
            os.scandir(descriptor) as items,
        ):
            for item in sorted(items, key=lambda item: item.name):
                with suppress(FileNotFoundError):
                    statuses.append((item.name, item.stat(follow_symlinks=False)))
        for name, status in statuses:
            segments = (*top, name)
            if stat.S_ISREG(status.st_mode):
                yield _entry(segments, status)
            elif stat.S_ISDIR(status.st_mode) and len(segments) <= MAX_DEPTH:
                yield from self._files(segments)

    def remove_leftovers(self, top: str) -> None:
        """Remove temporary files of brokers that died; a running broker holds a lock on its own."""
        for entry in self._files((top,)):
            if _TEMPORARY.fullmatch(entry.segments[-1]):
                with suppress(OSError), self._parent(entry.segments) as parent:
                    _remove_unless_locked(entry.segments[-1], parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the directory, which excludes other threads and processes.

        This does not wait for the lock. The kernel releases it when the process ends.

        Raises:
            DirectoryBusy: another process or task holds it.
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
                raise StorageError(f"cannot be changed: locking failed: {reason}") from None
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, segments: Segments, *, make: bool = False) -> Iterator[int]:
        """Open the directory that contains the last of `segments`; yield its descriptor."""
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
                    if make and error.errno in _NOT_A_DIRECTORY:
                        raise AlreadyExists(f"begins with {segment}, which is a file") from None
                    raise
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    @contextmanager
    def _temporary(parent: int, content: bytes) -> Iterator[str]:
        """Write `content` to a temporary file, sync it, and yield its name.

        The file is locked, and removed when the block ends.
        """
        if len(content) > MAX_FILE_BYTES:
            raise StorageError(_TOO_LARGE)
        name, descriptor = _locked_file(parent)
        try:
            os.fchmod(descriptor, 0o600)  # regardless of the umask
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
    """Create a temporary file that no other broker removes; return its name and descriptor."""
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
        # A broker that started between the two calls removed the file as a leftover.
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
    """Translate `OSError`, without the path, because the peer may read the message."""
    try:
        yield
    except FileExistsError:
        raise AlreadyExists("exists already") from None
    except IsADirectoryError:
        raise AlreadyExists("is a prefix of other names") from None
    except OSError as error:
        if error.errno in _ABSENT and not writing:
            raise NotFound("nothing of that name") from None
        reason = (error.strerror or "input or output failed").lower()
        raise StorageError(f"cannot be read or written: {reason}") from None
