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
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError

MAX_FILE_BYTES: Final = 1024 * 1024
"""The largest thing served, as large as the largest request; policies take some KiB."""

TEMPORARY_PREFIX: Final = ".tmp-"
"""Names never begin with a dot, so no request can ask for a temporary file."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file: its name below the root, bytes, mode bits, change time in ns."""

    segments: Segments
    size: int
    mode: int
    modified_ns: int


class Directory:
    """One tree of files. Names are checked segments, never paths."""

    def __init__(self, descriptor: int) -> None:
        self._root = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens `path`, and makes it (0700) where it is missing.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{path} is no directory; choose another --data-dir") from error
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

    def make(self, *segments: str) -> None:
        """Makes a directory (0700) and those above it, where they are missing.

        Raises:
            StorageError: something else is in the way, or it is not permitted.
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
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise NotFound("nothing of that name")
                content = b""
                while chunk := file.read(MAX_FILE_BYTES + 1 - len(content)):
                    content += chunk
        if len(content) > MAX_FILE_BYTES:
            raise StorageError(f"larger than {MAX_FILE_BYTES} bytes")
        return content

    def exists(self, segments: Segments) -> bool:
        """Whether anything has that name, of whatever kind."""
        try:
            with self._parent(segments) as parent:
                os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        return True

    def replace(self, segments: Segments, content: bytes) -> None:
        """Creates or replaces a file; readers see the old bytes or the new ones.

        Raises:
            StorageError: too large, or it could not be written.
        """
        with _translated(writing=True), self._parent(segments, make=True) as parent:
            with self._temporary(parent, content) as temporary:
                os.rename(temporary, segments[-1], src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)

    def create(self, segments: Segments, content: bytes) -> None:
        """Creates a file, whole from its first moment; of two creators one wins.

        Raises:
            AlreadyExists: something has that name.
            StorageError: too large, or it could not be written.
        """
        with _translated(writing=True), self._parent(segments, make=True) as parent:
            with self._temporary(parent, content) as temporary:
                # A link, unlike a rename, never replaces what is there.
                os.link(temporary, segments[-1], src_dir_fd=parent, dst_dir_fd=parent)
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
        """Regular files below `top`, at any depth, links not followed, sorted."""
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
                mode = stat.S_IMODE(status.st_mode)
                yield Entry(segments, status.st_size, mode, status.st_mtime_ns)
            elif stat.S_ISDIR(status.st_mode):
                yield from self.walk(*segments)

    def remove_leftovers(self) -> None:
        """Removes temporary files of brokers that died; a live one holds a lock on its own."""
        for entry in tuple(self.walk()):
            if entry.segments[-1].startswith(TEMPORARY_PREFIX):
                with suppress(OSError), self._parent(entry.segments) as parent:
                    _remove_unless_locked(entry.segments[-1], parent)

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
                below = os.open(segment, _DIRECTORY, dir_fd=descriptor)
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
            raise StorageError(f"larger than {MAX_FILE_BYTES} bytes")
        name = TEMPORARY_PREFIX + uuid4().hex
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            os.close(descriptor)


def _remove_unless_locked(name: str, parent: int) -> None:
    descriptor = os.open(name, _READ, dir_fd=parent)
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
        raise AlreadyExists("something of that name exists") from None
    except OSError as error:
        # ELOOP is O_NOFOLLOW's word for a link: there is nothing of ours.
        if error.errno in _ABSENT and not writing:
            raise NotFound("nothing of that name") from None
        reason = (error.strerror or "input or output failed").lower()
        raise StorageError(f"cannot be read or written: {reason}") from None
