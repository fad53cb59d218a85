"""Operations on one file of a directory that is open as a descriptor.

Links are not followed. A write is atomic: a temporary file next to the target, fsync, rename,
fsync of the directory. A reader sees the old content or the new one, also after a crash.

The functions take the descriptor of the directory and a name without `/`. They raise `OSError`;
callers translate it with `translated`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import uuid4

from verdictd_py.errors import AlreadyExists, NotFound, StorageError

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of a file: that of the largest reference data; all other files are smaller."""

_TEMPORARY: Final = re.compile(r"\.tmp-.*", re.DOTALL)  # storage.md: by its beginning
# Names never begin with a dot, so no request can name a temporary file.

# O_NONBLOCK: opening a FIFO must not wait for a writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# On NFS, an exclusive flock needs a descriptor that is open for writing.
_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# ELOOP: a link (O_NOFOLLOW); ENXIO: a socket. Both are treated as absent.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})

_NOT_REGULAR: Final = frozenset({errno.ELOOP, errno.ENXIO})

_CHUNK: Final = 64 * 1024  # bytes per read; most files are far smaller
_NOTHING: Final = "nothing of that name"
_TOO_LARGE: Final = f"is larger than {MAX_FILE_BYTES} bytes"


class NotRegular(NotFound):
    """The name is that of a link, a directory or another thing that is never read.

    For a guest this is absence. For the broker's own documents it is an error: a missing document
    has a meaning, and a link in its place must not get it.
    """


def read(parent: int, name: str) -> bytes:
    """Return the whole content of a regular file.

    Raises:
        NotRegular: something else has this name.
        StorageError: larger than `MAX_FILE_BYTES`.
    """
    try:
        descriptor = os.open(name, _READ, dir_fd=parent)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise NotRegular(_NOTHING) from None
        raise
    try:
        _require_regular(os.fstat(descriptor))
        content = bytearray()
        while len(content) <= MAX_FILE_BYTES and (chunk := os.read(descriptor, _CHUNK)):
            content += chunk
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise StorageError(_TOO_LARGE)
    return bytes(content)


def status(parent: int, name: str) -> os.stat_result:
    """Return the status of a regular file.

    Raises:
        NotRegular: something else has this name.
    """
    return _require_regular(os.stat(name, dir_fd=parent, follow_symlinks=False))


def replace(parent: int, name: str, content: bytes) -> None:
    """Create or replace a file.

    Raises:
        StorageError: larger than `MAX_FILE_BYTES`.
    """
    with _temporary(parent, content) as temporary:
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    os.fsync(parent)


def create(parent: int, name: str, content: bytes) -> None:
    """Create a file with its whole content at once; only one of two creators succeeds.

    Raises:
        FileExistsError: a file or a link has this name.
        IsADirectoryError: a directory has this name.
        StorageError: larger than `MAX_FILE_BYTES`.
    """
    with _temporary(parent, content) as temporary:
        # A link, unlike a rename, never replaces an existing file.
        try:
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except FileExistsError:
            existing = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(existing.st_mode):
                raise IsADirectoryError from None
            raise
        os.unlink(temporary, dir_fd=parent)
    os.fsync(parent)


def delete(parent: int, name: str) -> None:
    """Delete a regular file.

    Raises:
        NotRegular: something else has this name.
    """
    status(parent, name)
    os.unlink(name, dir_fd=parent)
    os.fsync(parent)


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is only the beginning of a write."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftover(parent: int, name: str) -> None:
    """Remove a temporary file of a broker that died; a running broker holds a lock on its own.

    Raises:
        BlockingIOError: a running broker is writing it.
    """
    descriptor = os.open(name, _LOCK, dir_fd=parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(descriptor)


@contextmanager
def locked(parent: int, name: str) -> Iterator[None]:
    """Hold the lock on a file, which is created if it is missing.

    This does not wait for the lock. The kernel releases it when the process ends.

    Raises:
        BlockingIOError: another process or task holds it.
    """
    descriptor = os.open(name, _LOCK | os.O_CREAT, 0o600, dir_fd=parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def translated(*, writing: bool = False) -> Iterator[None]:
    """Translate `OSError`, without the path, because the peer may read the message."""
    try:
        yield
    except FileExistsError:
        raise AlreadyExists("exists already") from None
    except IsADirectoryError:
        raise AlreadyExists("is a prefix of other names") from None
    except OSError as error:
        if error.errno in _ABSENT and not writing:
            raise NotFound(_NOTHING) from None
        raise StorageError(f"cannot be read or written: {reason(error)}") from None


def reason(error: OSError) -> str:
    """Return the system's words for an error, without the path."""
    return (error.strerror or "input or output failed").lower()


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


def _require_regular(found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise NotRegular(_NOTHING)
    return found
