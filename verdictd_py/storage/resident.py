"""Reads that Linux answers from memory, so that the event loop can make them without a thread.

A read that waits for a disk stops every client if the event loop makes it (`pools`). On a local
file system, the kernel says whether a read would wait:

* openat2(2) with RESOLVE_CACHED fails if a name is not in the kernel's cache of names.
* preadv2(2) with RWF_NOWAIT fails, or returns less, if the content is not in its cache of pages.
* The status of a file whose name is in that cache is in memory.

The functions here answer only what is certain. Everything else is left to a thread, which also
finds the reason of a refusal: a link, a file that other users may change, a large file, another
file system, a kernel before Linux 5.12. On NFS, CIFS, FUSE and 9p even a status waits for a server
or a process, so that nothing there is read in this way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from verdictd_py.errors import NotFound
from verdictd_py.storage.access import steps_to

MAX_BYTES: Final = 64 * 1024
"""Largest file that is read here: copying it takes some 10 microseconds."""

# linux/magic.h: ext2 to ext4, XFS, btrfs, tmpfs, overlayfs. Their status never waits for a disk.
_OVERLAY: Final = 0x794C7630
_LOCAL: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, _OVERLAY})

_AT_FDCWD: Final = -100  # linux/fcntl.h
_OPENAT2: Final = 437  # the same number on all architectures, linux/unistd.h
_STATFS_BYTES: Final = 256  # struct statfs has 120 on 64-bit architectures; f_type comes first

_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH

Identity = tuple[int, ...]


class NotResident(Exception):
    """A thread must make the read: it may wait for a disk, or be refused."""


class Root:
    """The data directory as it was when it was checked.

    Attributes:
        path: its absolute path.
        is_reported: whether the kernel reports each change on its file system (`watch`). An overlay
            does not report changes that are made in its layers.

    It is valid while its path leads to it, and owners and modes of all directories and links on
    the way are those that were checked. Each use verifies this. It is not held open, so that its
    file system can be unmounted.
    """

    def __init__(
        self,
        path: Path,
        steps: Sequence[tuple[Path, os.stat_result]],
        *,
        unsafe: bool,
        is_reported: bool,
    ) -> None:
        self.path = str(path)
        self.is_reported = is_reported
        self._path = os.fsencode(path)
        self._above = tuple((str(step), identity_of(found)) for step, found in steps[:-1])
        self._end, self._identity = str(steps[-1][0]), identity_of(steps[-1][1])
        self._unsafe = unsafe
        self._users = (0, os.geteuid())

    @property
    def steps(self) -> tuple[str, ...]:
        """Paths of the directory, and of the directories and links on the way to it."""
        return (*(step for step, _ in self._above), self._end)

    @classmethod
    def check(cls, path: Path, *, unsafe_writable: bool) -> Self | None:
        """Check the directory; it may wait for a disk.

        Args:
            unsafe_writable: whether files and directories are used that other users may change.

        Returns:
            None if its files must be read in a thread: a directory is refused, accepted for a
            reason other than its owner and mode, or not on a local file system.
        """
        try:
            steps = list(steps_to(path.absolute()))
            is_reported = _file_system(path) != _OVERLAY
            root = cls(path.absolute(), steps, unsafe=unsafe_writable, is_reported=is_reported)
            *above, (_, found) = steps
            if not root.is_own(found):
                return None
            if not all(root.is_own(found) or _is_sticky(found) for _, found in above):
                return None
            places = {found.st_dev: step for step, found in steps if stat.S_ISDIR(found.st_mode)}
            is_local = all(_file_system(place) in _LOCAL for place in places.values())
        except (OSError, IndexError):
            return None
        return root if is_local else None

    def is_current(self) -> bool:
        """Return whether nothing has changed about the directory and the way to it."""
        try:
            os.close(self.open())
        except NotResident:
            return False
        return True

    def is_same(self) -> bool:
        """Return whether nothing has changed, by names that were used a moment ago.

        Raises:
            OSError: something is missing.
        """
        found = os.stat(self._path)  # noqa: PTH116  # a path costs more than the call
        return identity_of(found) == self._identity and all(
            identity_of(os.lstat(step)) == identity for step, identity in self._above
        )

    def open(self) -> int:
        """Open the directory, and return the descriptor.

        Raises:
            NotResident: something has changed about it or the way to it, or is not in memory.
        """
        try:
            root = _open_cached(_AT_FDCWD, self._path, _ROOT)
        except OSError:
            raise NotResident from None
        try:
            # What has just been passed is in memory.
            if identity_of(os.fstat(root)) == self._identity and all(
                identity_of(os.lstat(step)) == identity for step, identity in self._above
            ):
                return root
        except OSError:
            pass  # a thread finds the reason
        os.close(root)
        raise NotResident

    def is_own(self, found: os.stat_result) -> bool:
        """Return whether no other user may change a file, directory or link, by owner and mode.

        The exceptions to this rule (see `access`) depend on more than the status of the file, so
        that they are left to a thread.
        """
        if self._unsafe:
            return True
        return found.st_uid in self._users and (
            not found.st_mode & _WRITABLE or stat.S_ISLNK(found.st_mode)
        )

    def read(self, segments: tuple[str, ...]) -> bytes:
        """Return the content of a file.

        Raises:
            NotFound: nothing has that name.
            NotResident: a thread must read it.
        """
        root = self.open()
        try:
            file = self._open_file(root, segments)
            try:
                return self._content(root, file, segments)
            finally:
                os.close(file)
        except OSError:
            raise NotResident from None
        finally:
            os.close(root)

    def statuses(self, top: tuple[str, ...], names: Sequence[str]) -> list[os.stat_result | None]:
        """Return the status of regular files in one directory, None for a missing one.

        Raises:
            NotResident: a thread must find them.
        """
        root = self.open()
        try:
            if not self._are_own_directories(root, (*top, "")):
                raise NotResident
            return [self._status_or_none(root, "/".join((*top, name))) for name in names]
        except OSError:
            raise NotResident from None
        finally:
            os.close(root)

    def _status_or_none(self, root: int, name: str) -> os.stat_result | None:
        try:
            found = status_below(root, name)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode) or not self.is_own(found):
            raise NotResident
        return found

    def _open_file(self, root: int, segments: tuple[str, ...]) -> int:
        try:
            return _open_cached(root, "/".join(segments).encode(), _FILE)
        except FileNotFoundError:
            if self._are_own_directories(root, segments):
                raise NotFound("nothing of that name") from None
            raise NotResident from None

    def _content(self, root: int, file: int, segments: tuple[str, ...]) -> bytes:
        size = self._usable(root, file, segments).st_size
        if size > MAX_BYTES:
            raise NotResident
        content = bytearray(size + 1)
        length = os.preadv(file, [content], 0, os.RWF_NOWAIT)
        if length != size:
            raise NotResident
        return bytes(content[:length])

    def _usable(self, root: int, file: int, segments: tuple[str, ...]) -> os.stat_result:
        found = os.fstat(file)
        is_own_file = stat.S_ISREG(found.st_mode) and self.is_own(found)
        if not is_own_file or not self._are_own_directories(root, segments):
            raise NotResident
        return found

    def _are_own_directories(self, root: int, segments: tuple[str, ...]) -> bool:
        """Return whether no other user may change a directory on the way to a file.

        A directory that is missing ends the way, unless it is the first one.
        """
        for depth in range(1, len(segments)):
            name = "/".join(segments[:depth])
            try:
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
            except FileNotFoundError:
                return depth > 1
            except OSError:
                return False
            if not stat.S_ISDIR(found.st_mode) or not self.is_own(found):
                return False
        return True


def status_below(root: int, name: str) -> os.stat_result:
    """Return the status of what a name below an open root stands for, if it is in memory.

    Raises:
        OSError: it has no status; EAGAIN if a name is not in memory.
    """
    descriptor = _open_cached(root, name.encode(), _STATUS)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def identity_of(found: os.stat_result) -> Identity:
    """Return what must not change about a directory or a link.

    The number of a link can be used again for another link: its ctime cannot.
    """
    identity = (found.st_dev, found.st_ino, found.st_mode, found.st_uid)
    return (*identity, found.st_ctime_ns) if stat.S_ISLNK(found.st_mode) else identity


def _is_sticky(found: os.stat_result) -> bool:
    return bool(found.st_mode & stat.S_ISVTX) and found.st_uid in (0, os.geteuid())


def _file_system(directory: Path) -> int | None:
    """Return the type of the file system of a directory (statfs(2)); None if it is unknown."""
    result = ctypes.create_string_buffer(_STATFS_BYTES)
    if _LIBC.statfs(os.fsencode(directory), result):
        return None
    return ctypes.c_long.from_buffer(result).value


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SYSCALL: Final = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
_SYSCALL.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
_HOW_BYTES: Final = ctypes.sizeof(_OpenHow)

# RESOLVE_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _CACHED; linux/openat2.h
_CACHED: Final = 0x20
_BELOW: Final = 0x01 | 0x02 | 0x04 | 0x08 | _CACHED
_ROOT: Final = _OpenHow(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _CACHED)
_STATUS: Final = _OpenHow(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _BELOW)
_FILE: Final = _OpenHow(os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0, _BELOW)


def _open_cached(directory: int, name: bytes, how: _OpenHow) -> int:
    """Open a name, if it and all names on the way are in memory.

    Raises:
        OSError: it cannot be opened; EAGAIN if a name is not in memory.
    """
    descriptor: int = _SYSCALL(_OPENAT2, directory, name, ctypes.byref(how), _HOW_BYTES)
    if descriptor < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
    return descriptor
