"""Cache of the files of one directory, whose status is compared at each use.

The files are not secrets: policies, reference data, named sets. A change by any process, also an
edit by hand, is effective at the next use, because that compares status with status:

* of the data directory and the way to it (`resident.Root`);
* of the directory: its times change when a name is added, removed or replaced, so that they also
  prove that a missing file is still missing;
* of each file: device, inode, owner, mode, size, mtime and ctime. Programs cannot set ctime.

Two changes within the granularity of a file system's clock leave the same times. Therefore a
status is only cached once it is older than that (`RACY_NS`), as git does for its index. A change
through a shared mapping is noticed when the kernel writes its times: at msync(2), or when it writes
the pages.

While a watch reports no change (`watch`), a comparison counts for `FRESH_SECONDS`.

Nothing is held open. A status that is not in the kernel's memory counts as changed (`resident`).
Names that were used within `FRESH_SECONDS` are in memory: the kernel removes the least recently
used ones first.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar

from verdictd_py.storage.resident import Identity, NotResident, Root, status_below
from verdictd_py.storage.watch import COVER_SECONDS, FRESH_SECONDS, Watch

RACY_NS: Final = 2_000_000_000
"""Least age of a status that is cached. ext3 counts seconds, others ticks of the kernel."""

MAX_FILES: Final = 64
"""Files of a cache, also missing ones."""

MAX_TOTAL_BYTES: Final = 32 * 1024 * 1024
"""Length of all files of a cache."""

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class _File(Generic[Content]):
    """A file with the status that its content had; a missing file has none."""

    identity: Identity
    content: Content


@dataclass(frozen=True, slots=True, eq=False)
class _Generation(Generic[Content]):
    """Files that were read while the directory did not change."""

    root: Root
    identity: Identity
    files: dict[str, _File[Content] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """Status of a directory and of files before they are read."""

    root: Root
    directory: Identity
    files: Mapping[str, Identity | None]


@dataclass(frozen=True, slots=True)
class _Compared(Generic[Content]):
    """Files whose status was compared, for as long as the watch has the same epoch."""

    epoch: int
    until: float
    contents: Mapping[str, Content]


class HeldFiles(Generic[Content]):
    """Cache of the files of one directory. Any thread may use it.

    Args:
        top: name of the directory below the root.
        now_ns: clock of the file system's times, in nanoseconds.
        watch: reports changes; None: the status of all files is compared at each use.
    """

    def __init__(
        self,
        top: str,
        now_ns: Callable[[], int] = time.time_ns,
        *,
        watch: Watch | None = None,
    ) -> None:
        self._top = top
        self._now_ns = now_ns
        self._watch = watch
        self._generation: _Generation[Content] | None = None
        self._fresh: dict[str, float] = {}
        self._compared: dict[tuple[str, ...], _Compared[Content]] = {}
        self._covered: tuple[_Generation[Content], int] | None = None
        self._next_cover = 0.0

    def get(self, names: tuple[str, ...]) -> Mapping[str, Content] | None:
        """Return files as they were at one moment of this call, without those that are missing.

        Returns:
            None if one of them is not cached, or anything may have changed: read them again. The
            same object as before only if nothing has changed since.
        """
        compared = self._compared.get(names)
        if (
            compared is not None
            and self._watch is not None
            and self._watch.epoch() == compared.epoch
            and time.monotonic() < compared.until
        ):
            return compared.contents
        self._compared.pop(names, None)
        generation = self._generation
        return None if generation is None else self._compare(generation, names)

    def _compare(
        self, generation: _Generation[Content], names: tuple[str, ...]
    ) -> Mapping[str, Content] | None:
        """Compare the status of everything; see `get`."""
        try:
            files = {name: file for name in names if (file := generation.files[name]) is not None}
        except KeyError:
            return None
        now = time.monotonic()
        is_fresh = all(now < self._fresh.get(name, 0.0) for name in names)
        epoch = self._epoch(generation, now, may_cover=is_fresh)
        is_same = self._is_same if is_fresh else self._is_resident_and_same
        try:
            if not is_same(generation, files):
                return None
        except (OSError, NotResident):
            return None
        self._fresh.update(dict.fromkeys(names, now + FRESH_SECONDS))
        contents = {name: file.content for name, file in files.items()}
        if epoch is not None and len(self._compared) < MAX_FILES:
            self._compared[names] = _Compared(epoch, now + FRESH_SECONDS, contents)
        return contents

    def _epoch(
        self, generation: _Generation[Content], now: float, *, may_cover: bool
    ) -> int | None:
        """Return the epoch of the watch over everything that is compared; None without one.

        Args:
            may_cover: whether all names are in memory, so that watching them does not wait.
        """
        watch = self._watch
        if watch is None or not generation.root.is_reported:
            return None
        if self._covered is not None and self._covered == (generation, watch.epoch()):
            return self._covered[1]
        self._covered = None
        if not may_cover or now < self._next_cover:
            return None
        self._next_cover = now + COVER_SECONDS
        place = f"{generation.root.path}/{self._top}"
        present = [name for name, file in generation.files.items() if file is not None]
        contents = [place, *(f"{place}/{name}" for name in present)]
        epoch = watch.cover(self, contents, generation.root.steps)
        if epoch is not None:
            self._covered = generation, epoch
        return epoch

    def _is_same(
        self, generation: _Generation[Content], files: Mapping[str, _File[Content]]
    ) -> bool:
        """Return whether nothing has changed, by names that are known to be in memory."""
        place = f"{generation.root.path}/{self._top}"
        return (
            generation.root.is_same()
            and _identity(os.lstat(place)) == generation.identity
            and all(
                _identity(os.lstat(f"{place}/{name}")) == file.identity
                for name, file in files.items()
            )
        )

    def _is_resident_and_same(
        self, generation: _Generation[Content], files: Mapping[str, _File[Content]]
    ) -> bool:
        """Return whether everything is in memory, and nothing has changed."""
        root = generation.root.open()
        try:
            return _identity(status_below(root, self._top)) == generation.identity and all(
                _identity(status_below(root, f"{self._top}/{name}")) == file.identity
                for name, file in files.items()
            )
        finally:
            os.close(root)

    def begin(self, root: Root, names: Sequence[str]) -> Reading | None:
        """Note the status of files that are read next; None if they cannot be cached."""
        now_ns = self._now_ns()
        reading = self._reading(root, names)
        if reading is None:
            return None
        present = [identity for identity in reading.files.values() if identity is not None]
        if any(now_ns - max(identity[-2:]) < RACY_NS for identity in (reading.directory, *present)):
            return None
        return reading

    def finish(self, reading: Reading, contents: Mapping[str, Content]) -> None:
        """Cache what was read since `begin`, unless something has changed meanwhile."""
        if self._reading(reading.root, tuple(reading.files)) != reading:
            return
        held = {
            name: None if identity is None else _File(identity, contents[name])
            for name, identity in reading.files.items()
        }
        generation = self._generation
        if generation is None or (generation.root, generation.identity) != (
            reading.root,
            reading.directory,
        ):
            generation = _Generation(reading.root, reading.directory)
        for files in ({**generation.files, **held}, held):  # at the bound, only the newest ones
            total = sum(file.identity[4] for file in files.values() if file is not None)
            if len(files) <= MAX_FILES and total <= MAX_TOTAL_BYTES:
                self._generation = replace(generation, files=files)
                self._fresh = {}
                self._compared = {}
                return

    def _reading(self, root: Root, names: Sequence[str]) -> Reading | None:
        """Return the status of files; None if one is refused, or accepted for more than its status.

        This may wait for a disk.
        """
        try:
            directory = root.open()
        except NotResident:
            return None
        try:
            found = os.stat(self._top, dir_fd=directory, follow_symlinks=False)
            files = {name: _status_or_none(directory, f"{self._top}/{name}") for name in names}
        except OSError:
            return None
        finally:
            os.close(directory)
        present = [each for each in files.values() if each is not None]
        is_usable = stat.S_ISDIR(found.st_mode) and all(stat.S_ISREG(f.st_mode) for f in present)
        if not is_usable or not all(map(root.is_own, (found, *present))):
            return None
        identities = {
            name: None if each is None else _identity(each) for name, each in files.items()
        }
        return Reading(root, _identity(found), identities)


def _status_or_none(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _identity(found: os.stat_result) -> Identity:
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_uid,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
