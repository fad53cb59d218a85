"""Operations on one file of a directory that is open as a descriptor.

Links are followed only as `links` says, and only to read. A write is atomic: a temporary file
next to the target, fsync, rename, fsync of the directory. A reader sees the old content or the
new one, also after a crash.

File systems without hard links (exFAT, Azure Files, some FUSE file systems), and those that cannot
synchronize a directory or change the mode of a file, are supported.

The functions take the descriptor of the directory and a name without `/`. They raise `OSError`;
callers translate it with `translated`.

Functions that change files are generators (`Steps`), so that fsync can run in a thread of another
pool than the rest (`pools`). `complete` runs all of them in this thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias, TypeVar
from uuid import uuid4

from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.storage import links

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of a file: that of the largest reference data; all other files are smaller."""

TEMPORARY: Final = ".tmp-"
"""Beginning of the names of temporary files (storage.md). Names never begin with a dot, so no
request can name one."""

# O_NONBLOCK: opening a FIFO must not wait for a writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# On NFS, an exclusive flock needs a descriptor that is open for writing.
_LOCK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# ELOOP: a link (O_NOFOLLOW); ENXIO: a socket. Both are treated as absent.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})

_NOT_REGULAR: Final = frozenset({errno.ELOOP, errno.ENXIO})

# Errors of link(2) on file systems without hard links: exFAT and FAT, CIFS, FUSE, and a file
# system whose files can have one link only.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# Errors of renameat2(2): an old kernel (ENOSYS), a file system without the flag (EINVAL, and
# EOPNOTSUPP on some FUSE file systems).
_NO_EXCLUSIVE_RENAME: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_RENAME_NOREPLACE: Final = 1  # linux/fs.h
# Errors of fsync(2) of a directory, and of fchmod(2), where the file system has no such operation.
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})

_CREATING: Final = ".tmp-lock"
"""File that is locked while a name is created without hard links. It is never removed."""

Result = TypeVar("Result")

Steps: TypeAlias = Generator[int, None, Result]
"""A change of files. It yields descriptors: fsync of each must end before the change continues.
An `OSError` of fsync is thrown into it."""

_CHUNK: Final = 64 * 1024  # bytes per read; most files are far smaller
_NOTHING: Final = "nothing of that name"
_TOO_LARGE: Final = f"is larger than {MAX_FILE_BYTES} bytes"


class NotRegular(NotFound):
    """The name is that of a refused link, a directory or another thing that is never read.

    For a guest this is absence. For the broker's own documents it is an error: a missing document
    has a meaning, and a link in its place must not get it.
    """


def complete(steps: Steps[Result]) -> Result:
    """Make a change of files in this thread, and return its result."""
    error: OSError | None = None
    while True:
        try:
            descriptor = next(steps) if error is None else steps.throw(error)
        except StopIteration as end:
            result: Result = end.value
            return result
        error = failure_of_fsync(descriptor)


def failure_of_fsync(descriptor: int) -> OSError | None:
    """Call fsync; return its error, None if it succeeded."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error
    return None


def read(parent: int, name: str, check: Callable[[int], None]) -> bytes:
    """Return the whole content of a regular file.

    Args:
        check: raises an exception if the content of this open file must not be used, or if a
            link or a directory on the way to it must not be used.

    Raises:
        NotRegular: something else has this name.
        StorageError: larger than `MAX_FILE_BYTES`.
    """
    descriptor = _open(parent, name, check)
    try:
        _require_regular(os.fstat(descriptor))
        check(descriptor)
        content = bytearray()
        while len(content) <= MAX_FILE_BYTES and (chunk := os.read(descriptor, _CHUNK)):
            content += chunk
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise StorageError(_TOO_LARGE)
    return bytes(content)


def _open(parent: int, name: str, check: Callable[[int], None]) -> int:
    """Open a file for reading, also through a link.

    Raises:
        NotRegular: a link that is refused, or a socket, has this name.
    """
    try:
        return os.open(name, _READ, dir_fd=parent)
    except OSError as error:
        if error.errno not in _NOT_REGULAR:
            raise
    try:
        if links.is_link(parent, name):
            return links.follow(parent, name, _READ & ~os.O_NOFOLLOW, check)
    except OSError as error:
        # Never "absent": the absence of a document has a meaning, which a broken link must not get.
        if error.errno not in _ABSENT | {errno.EXDEV}:
            raise
    raise NotRegular(_NOTHING)


def status(parent: int, name: str) -> os.stat_result:
    """Return the status of a regular file, also through a link.

    Raises:
        NotRegular: something else has this name.
    """
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        try:
            found = links.status(parent, name)
        except OSError:
            raise NotRegular(_NOTHING) from None
    return _require_regular(found)


def replace(parent: int, name: str, content: bytes) -> Steps[None]:
    """Create or replace a file.

    Raises:
        StorageError: larger than `MAX_FILE_BYTES`.
    """
    with _temporary(parent, content) as (temporary, descriptor):
        yield descriptor
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    yield from synchronizing(parent)


def create(parent: int, name: str, content: bytes) -> Steps[None]:
    """Create a file with its whole content at once; only one of two creators succeeds.

    Raises:
        FileExistsError: a file or a link has this name.
        IsADirectoryError: a directory has this name.
        StorageError: larger than `MAX_FILE_BYTES`.
    """
    with _temporary(parent, content) as (temporary, descriptor):
        yield descriptor
        try:
            _publish(parent, temporary, name)
        except FileExistsError:
            existing = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(existing.st_mode):
                raise IsADirectoryError from None
            raise
    yield from synchronizing(parent)


def _publish(parent: int, temporary: str, name: str) -> None:
    """Give a temporary file its name, in the first of three ways that the file system supports.

    1. A hard link. 2. A rename that does not replace. 3. A rename while this process holds a lock,
    if the name is free. Only the third depends on all creators using this function.

    Raises:
        FileExistsError: a file, link or directory has this name.
    """
    try:
        os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)  # 1
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        os.unlink(temporary, dir_fd=parent)
        return
    try:
        _rename_exclusively(parent, temporary, name)  # 2
    except OSError as error:
        if error.errno not in _NO_EXCLUSIVE_RENAME:
            raise
    else:
        return
    with locked(parent, _CREATING, wait=True):  # 3
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=parent, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)


def _rename_exclusively(parent: int, old: str, new: str) -> None:
    """Rename a file unless the new name exists: renameat2(2), which Python does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        renameat2 = libc.renameat2  # glibc 2.28, musl 1.2.5
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    old_name, new_name = os.fsencode(old), os.fsencode(new)
    if renameat2(parent, old_name, parent, new_name, _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def synchronizing(directory: int) -> Steps[None]:
    """Have fsync called on a directory; a file system that has no such operation needs none."""
    try:
        yield directory
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def delete(parent: int, name: str) -> Steps[None]:
    """Delete a regular file, or the link to one.

    Raises:
        NotRegular: something else has this name.
    """
    status(parent, name)
    os.unlink(name, dir_fd=parent)
    yield from synchronizing(parent)


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is only the beginning of a write."""
    return name.startswith(TEMPORARY)


def remove_leftover(parent: int, name: str) -> None:
    """Remove a temporary file of a broker that died; a running broker holds a lock on its own.

    Raises:
        BlockingIOError: a running broker is writing it.
    """
    if name == _CREATING:
        return
    descriptor = os.open(name, _LOCK, dir_fd=parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(descriptor)


@contextmanager
def locked(parent: int, name: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock on a file, which is created if it is missing.

    The kernel releases it when the process ends.

    Args:
        wait: whether to wait for the lock, for holders that never take long.

    Raises:
        BlockingIOError: another process or task holds it, unless `wait`.
    """
    descriptor = os.open(name, _LOCK | os.O_CREAT, 0o600, dir_fd=parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def open_shared(parent: int, name: str) -> int:
    """Open a file for reading and writing, and create it if it is missing; no link is followed.

    Raises:
        NotRegular: something else has this name.
    """
    descriptor = os.open(name, _LOCK | os.O_CREAT, 0o600, dir_fd=parent)
    try:
        _require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
def _temporary(parent: int, content: bytes) -> Iterator[tuple[str, int]]:
    """Write `content` to a temporary file, and yield its name and descriptor, for fsync.

    The file is locked, and removed when the block ends.
    """
    if len(content) > MAX_FILE_BYTES:
        raise StorageError(_TOO_LARGE)
    name, descriptor = _locked_file(parent)
    try:
        set_mode(descriptor, 0o600)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        yield name, descriptor
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        os.close(descriptor)


def set_mode(descriptor: int, mode: int) -> None:
    """Set the mode of a file, regardless of the umask.

    Raises:
        OSError: the file system sets another mode, with which more users have access.
    """
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno not in _UNSUPPORTED | {errno.EPERM}:
            raise
    actual = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if actual & 0o077 & ~mode:
        raise OSError(
            errno.EPERM,
            f"the file system gives it the mode {actual:04o}; mount it with umask=077 "
            "(CIFS: file_mode=0600,dir_mode=0700)",
        )


def _locked_file(parent: int) -> tuple[str, int]:
    """Create a temporary file that no other broker removes; return its name and descriptor."""
    while True:
        name = f"{TEMPORARY}{uuid4().hex}"
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # by its name: not every file system counts links
                os.stat(name, dir_fd=parent, follow_symlinks=False)
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
