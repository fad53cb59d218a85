"""Tree of files below one directory, which is opened once.

A name is opened segment by segment, relative to a directory descriptor and without
following links, so an untrusted name never becomes a path by concatenation. `files` has the
operations on the file that the last segment names.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError
from verdictd_py.storage import files

MAX_DEPTH: Final = 3
"""Maximum number of segments in a name; deeper directories are ignored."""

LOCK_FILE: Final = ".lock"
"""File that is locked while another one is compared and replaced. It is never removed or
replaced: a new file of this name would be a second lock."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_A_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

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
        with files.translated(writing=True), self._parent((*segments, ""), make=True):
            return

    def read(self, segments: Segments) -> bytes:
        """Return the whole content of a file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: larger than `MAX_FILE_BYTES`, or unreadable.
        """
        with files.translated(), self._parent(segments) as parent:
            return files.read(parent, segments[-1])

    def exists(self, segments: Segments) -> bool:
        """Return whether a file, directory or anything else has that name.

        Raises:
            StorageError: the directory cannot be read.
        """
        with suppress(NotFound), files.translated(), self._parent(segments) as parent:
            os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
            return True
        return False

    def entry(self, segments: Segments) -> Entry:
        """Return the metadata of one regular file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: the directory cannot be read.
        """
        with files.translated(), self._parent(segments) as parent:
            return _entry(segments, files.status(parent, segments[-1]))

    def replace(self, segments: Segments, content: bytes) -> None:
        """Create or replace a file; readers see either the old content or the new one.

        Raises:
            AlreadyExists: a directory has this name, or a file has a prefix of it.
            StorageError: too large, or it could not be written.
        """
        with files.translated(writing=True), self._parent(segments, make=True) as parent:
            files.replace(parent, segments[-1], content)

    def create(self, segments: Segments, content: bytes) -> None:
        """Create a file with its whole content at once; only one of two creators succeeds.

        Raises:
            AlreadyExists: a file or directory has this name, or a file has a prefix of it.
            StorageError: too large, or it could not be written.
        """
        with files.translated(writing=True), self._parent(segments, make=True) as parent:
            files.create(parent, segments[-1], content)

    def delete(self, segments: Segments) -> None:
        """Delete a file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: it could not be deleted.
        """
        with files.translated(), self._parent(segments) as parent:
            files.delete(parent, segments[-1])

    def walk(self, *top: str) -> Iterator[Entry]:
        """Yield the regular files below `top`, sorted, without temporary files and links.

        Args:
            top: the directory: one segment, or none for the root.
        """
        for entry in self._files(top):
            if not files.is_temporary(entry.segments[-1]) and entry.segments != (LOCK_FILE,):
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
            if files.is_temporary(entry.segments[-1]):
                with suppress(OSError), self._parent(entry.segments) as parent:
                    files.remove_leftover(parent, entry.segments[-1])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the directory, which excludes other threads and processes.

        This does not wait for the lock. The kernel releases it when the process ends.

        Raises:
            DirectoryBusy: another process or task holds it.
            StorageError: the lock file cannot be opened for writing.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(files.locked(self._root, LOCK_FILE))
            except BlockingIOError:
                raise DirectoryBusy("is being changed by others") from None
            except OSError as error:
                raise StorageError(
                    f"cannot be changed: {LOCK_FILE} in the data directory: {files.reason(error)}"
                ) from None
            yield

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


def _entry(segments: Segments, status: os.stat_result) -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    return Entry(segments, status.st_size, mode, status.st_mtime_ns, status.st_ino)
