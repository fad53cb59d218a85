"""Links in the data directory, which are followed only below the directory that contains them.

Volumes of Kubernetes contain links: `mykey` leads to `..data/mykey`, and `..data` to the directory
with the current content, `..2026_11_27_03_38_13.1040135130`. Kubernetes replaces the content by
replacing `..data`. A link that leads anywhere else could make the broker serve any file that it
can read, so it is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Final

HIDDEN: Final = ".."
"""Beginning of the names that Kubernetes uses for itself; no name of the broker begins so."""

_MAX_LINKS: Final = 40  # as the kernel (path_resolution(7))
_ATTEMPTS: Final = 20
"""Attempts to follow a link: the old content may be removed between two steps. One attempt in a
hundred fails while another process writes a volume again and again."""

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_OPENAT2: Final = 437  # the same number on all architectures, linux/unistd.h (Linux 5.6)
_RESOLVE: Final = 0x02 | 0x08  # RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH, linux/openat2.h

_AT_FDCWD: Final = -100  # linux/fcntl.h

Check = Callable[[int], None]
"""Raises an exception if other users may change what a descriptor stands for."""


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def follow(parent: int, name: str, flags: int, check: Check) -> int:
    """Open what a link leads to; return the descriptor.

    Each link and directory on the way is checked, too: who may change one of them decides where
    the link leads.

    Args:
        parent: descriptor of the directory that contains the link.
        flags: flags of open(2).
        check: see `Check`.

    Raises:
        OSError: the link leads out of its directory (EXDEV), to nothing (ENOENT) or to itself
            (ELOOP), or its target cannot be opened.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _resolved(parent, name, check) as (directory, last):
                if _has_openat2():
                    return _openat2(parent, name, flags)
                return os.open(last, flags | os.O_NOFOLLOW, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EAGAIN) or attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError  # the last attempt returns or raises


def status(parent: int, name: str) -> os.stat_result:
    """Return the status of what a link leads to.

    Raises:
        OSError: as in `follow`.
    """
    descriptor = follow(parent, name, os.O_PATH | os.O_CLOEXEC, lambda _: None)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def is_link(parent: int, name: str) -> bool:
    """Return whether a name is that of a link, wherever it leads."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


def cause(error: OSError) -> str:
    """Return why a link is not followed, as the predicate of a sentence."""
    if error.errno == errno.EXDEV:
        return "leads out of its directory"
    if error.errno == errno.ENOENT:
        return "leads to nothing"
    return f"cannot be followed ({(error.strerror or 'unknown error').lower()})"


@contextmanager
def _resolved(parent: int, name: str, check: Check) -> Iterator[tuple[int, str]]:
    """Resolve a name step by step; yield the directory and the last name, which is not a link.

    The kernel never follows a link or `..` here: each step is relative to a descriptor.
    """
    with ExitStack() as opened:
        directories = [parent]
        last = "."
        pending = [name]
        links = 0
        while pending:
            segment = pending.pop()
            if segment in ("", "."):
                continue
            if segment == "..":
                if len(directories) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                directories.pop()
                last = "."
                continue
            step = os.open(segment, _STEP, dir_fd=directories[-1])
            opened.callback(os.close, step)
            check(step)
            mode = os.fstat(step).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink("", dir_fd=step)
                if target.startswith("/"):
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                pending += reversed(target.split("/"))
            elif stat.S_ISDIR(mode):
                directories.append(step)
                last = "."
            elif pending:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            else:
                last = segment
        yield directories[-1], last


def _openat2(parent: int, name: str, flags: int) -> int:
    """Open a name so that the kernel refuses to leave the directory: openat2(2)."""
    how = _OpenHow(flags, 0, _RESOLVE)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(parent),
        ctypes.c_char_p(os.fsencode(name)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


@cache
def _has_openat2() -> bool:
    """Return whether kernel and sandbox permit openat2(2); older container engines answer EPERM."""
    try:
        os.close(_openat2(_AT_FDCWD, ".", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True
