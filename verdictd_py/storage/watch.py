"""Watch over files and directories: one system call says whether any of them may have changed.

inotify(7) reports changes of files, directories and links of this host; /proc/self/mountinfo
reports mounts (proc(5)). The kernel queues a report before the call that makes the change
returns, so that a change that a program has made is always seen by the next `epoch`.

What inotify does not report: changes through a shared mapping, changes below an overlay file
system that are made in its layers, changes by the server of a network file system. Therefore
callers compare the status of the files again after `FRESH_SECONDS`, and `resident` excludes network
file systems.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final, Self

FRESH_SECONDS: Final = 1.0
"""Longest time during which a watch replaces the comparison of status with status. Names that were
used within it are in the kernel's memory."""

COVER_SECONDS: Final = 0.1
"""Least pause between two calls of `Watch.cover`, so that a directory that changes all the time
costs a comparison at each use, and not a watch as well."""

# Masks of inotify(7). Reading a file, or its status, is none of them.
_CONTENT: Final = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
"""IN_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE."""
_SELF: Final = 0x4 | 0x400 | 0x800
"""IN_ATTRIB (owner, mode, number of links), IN_DELETE_SELF, IN_MOVE_SELF."""
_EXACTLY: Final = 0x02000000 | 0x20000000
"""IN_DONT_FOLLOW; IN_MASK_ADD, because one file may be watched by several owners."""
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK, IN_CLOEXEC

_READ_BYTES: Final = 4096
"""Maximum size of reports that are read at a time, so that a flood of them does not take long."""

_REPORT: Final = struct.Struct("iIII")
"""`struct inotify_event`: number of the watch, mask, cookie, length of the name that follows."""

_MAX_REPORT_BYTES: Final = _REPORT.size + 256  # NAME_MAX and a zero byte (inotify(7))

_MOUNTS: Final = "/proc/self/mountinfo"

_LIBC: Final = ctypes.CDLL(None)
_LIBC.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_LIBC.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class _Watched:
    """Numbers of the watches of one owner (see `Watch.cover`)."""

    contents: frozenset[int]
    places: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        return self.contents | self.places


_NOTHING: Final = _Watched(frozenset(), frozenset())


class Watch:
    """Counter of the changes of everything that is watched. Any thread may use it.

    It is not open for a file system: what it watches can be unmounted, which is a change.
    After `close`, everything counts as changed at each use.
    """

    def __init__(self, changes: int, mounts: int) -> None:
        self._changes = changes
        self._mounts = mounts
        self._poll = select.poll()
        self._poll.register(changes, select.POLLIN)
        self._poll.register(mounts, select.POLLPRI)
        self._lock = Lock()
        self._epoch = 0
        self._watched: dict[object, _Watched] = {}
        # Also for a watch that its owner never closes, because a start has failed.
        self._closing = weakref.finalize(self, _close, changes, mounts)

    @classmethod
    def start(cls) -> Self | None:
        """Return a watch over nothing; None if the kernel has none for this process."""
        changes = _LIBC.inotify_init1(_FLAGS)
        if changes < 0:
            return None
        try:
            mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(changes)
            return None
        return cls(changes, mounts)

    def close(self) -> None:
        """Close the descriptors. The methods may still be called, and report changes only."""
        with self._lock:
            self._watched = {}
            self._closing()

    def epoch(self) -> int:
        """Return a number that differs from that before any change; it never waits."""
        with self._lock:
            return self._current()

    def cover(
        self, owner: object, contents: Iterable[str], places: Iterable[str] = ()
    ) -> int | None:
        """Watch paths in place of those that this owner watched before.

        A status that is compared after this call is valid as long as `epoch` returns the same.

        Args:
            contents: files, and directories with the names in them; links are not followed.
            places: directories and links of which only owner, mode and name matter.

        Returns:
            The epoch; None if a path cannot be watched, or something changes at this moment.
        """
        with self._lock:
            before = self._current()
            if not self._closing.alive:
                return None
            added = _Watched(
                frozenset(self._add(path, _CONTENT | _SELF) for path in contents),
                frozenset(self._add(path, _SELF) for path in places),
            )
            self._replace(owner, added)
            is_complete = min(added.all, default=0) >= 0
            return before if is_complete and self._current() == before else None

    def release(self, owner: object) -> None:
        """Watch no longer what only this owner watches."""
        with self._lock:
            if self._closing.alive:
                self._replace(owner, _NOTHING)
                del self._watched[owner]

    def _add(self, path: str, mask: int) -> int:
        return int(_LIBC.inotify_add_watch(self._changes, os.fsencode(path), mask | _EXACTLY))

    def _replace(self, owner: object, added: _Watched) -> None:
        """Remove what only this owner has watched and watches no longer."""
        before = self._watched.pop(owner, None)
        self._watched[owner] = added
        if before is not None:
            for number in before.all.difference(*(each.all for each in self._watched.values())):
                _LIBC.inotify_rm_watch(self._changes, number)

    def _current(self) -> int:
        if not self._closing.alive:
            self._epoch += 1
            return self._epoch
        ready = self._poll.poll(0)
        if ready and self._is_change(ready):
            self._epoch += 1
        return self._epoch

    def _is_change(self, ready: list[tuple[int, int]]) -> bool:
        """Read reports; return whether one is about what is watched.

        The kernel also reports a change of the owner or mode of anything in a watched directory.
        """
        try:
            reports = os.read(self._changes, _READ_BYTES)
        except BlockingIOError:
            return True  # only a mount has changed
        if len(reports) + _MAX_REPORT_BYTES > _READ_BYTES:
            return True  # there may be further ones
        if any(descriptor == self._mounts for descriptor, _ in ready):
            return True
        at = 0
        while at < len(reports):
            number, _, _, name_bytes = _REPORT.unpack_from(reports, at)
            if not name_bytes or any(number in each.contents for each in self._watched.values()):
                return True
            at += _REPORT.size + name_bytes
        return False


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
