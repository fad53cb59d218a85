"""Tree of files below one directory.

The directory is opened again for each operation, so that it can be removed, restored or mounted
again while the broker runs. Below it, a name is opened segment by segment, relative to a directory
descriptor, so an untrusted name never becomes a path by concatenation. Links are followed only
as `links` says, and never in place of the first segment. `files` has the operations on the file
that the last segment names.

The first segment of a name is a directory that `make` has created. If it is missing, this is a
fault (`StorageError`) and never an absent file (`NotFound`): a volume that is not mounted leaves
an empty directory, and must not be taken for a store without keys and named sets. For the same
reason no other method creates it.

Each method that changes files exists twice: `replacing` is a generator for `pools.write`, and
`replace` makes the same change in the calling thread, for the start and for commands.

What other users may change is refused, see `access`.

`read_resident` and `entries_resident` are for the event loop: they never wait for a disk
(`resident`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError
from verdictd_py.storage import files, links
from verdictd_py.storage.access import WritableByOthers, problem_of, problem_of_path
from verdictd_py.storage.files import Steps
from verdictd_py.storage.resident import NotResident, Root
from verdictd_py.storage.watch import COVER_SECONDS, FRESH_SECONDS, Watch

MAX_DEPTH: Final = 3
"""Maximum number of segments in a name; deeper directories are ignored."""

LOCK_FILE: Final = ".lock"
"""File that is locked while another one is compared and replaced. It is never removed or
replaced: a new file of this name would be a second lock."""

_CHECK_SECONDS: Final = 1.0
"""Pause before a root that cannot be used without a thread is checked again."""

_MAX_ENTRIES: Final = 64
"""Maximum number of groups of files whose entries are cached: one or two for a platform type. A
further group replaces the one that was not used for the longest time."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKED: Final = _DIRECTORY & ~os.O_NOFOLLOW
_NOT_A_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file: its name below the root, bytes, mode bits, change time in ns, inode, owner.

    If the name is that of a link, the rest is that of the file to which it leads. Two entries of
    one name are equal only if the file was not replaced between them.
    """

    segments: Segments
    size: int
    mode: int
    modified_ns: int
    inode: int
    owner: int


@dataclass(frozen=True, slots=True)
class _Entries:
    """Entries that are current while the watch has an epoch, and for a limited time."""

    epoch: int
    until: float
    entries: tuple[Entry | None, ...]

    def is_current(self, watch: Watch) -> bool:
        return watch.epoch() == self.epoch and time.monotonic() < self.until


class DirectoryBusy(StorageError):
    """Raised when another process or task holds the lock of the directory."""


class Directory:
    """Tree of files below one directory. Names are checked segments, never paths."""

    def __init__(self, path: Path, *, unsafe_writable: bool = False) -> None:
        self._path = path
        self._unsafe_writable = unsafe_writable
        self._root: Root | None = None
        self._next_check = 0.0
        self._entries: dict[tuple[Segments, tuple[str, ...]], _Entries] = {}
        self._next_cover = 0.0
        self._watch_started = False

    @classmethod
    def open(cls, path: Path, *, unsafe_writable: bool = False) -> Self:
        """Open `path`; create it (0700), and its parents, if it is missing.

        Args:
            unsafe_writable: whether files and directories are used that other users may change.

        Raises:
            ConfigError: it cannot be used; the message has the cause and the remedy.
        """
        try:
            path = path.absolute()
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{path} is not a directory; choose another --data-dir") from error
        except ValueError as error:  # raised by pathlib for a NUL
            raise ConfigError("cannot use a path with a NUL; choose another --data-dir") from error
        except OSError as error:
            raise ConfigError(
                f"cannot use {path}: {error.strerror}; make it a directory that this user can "
                "read and write, or choose another --data-dir"
            ) from error
        directory = cls(path, unsafe_writable=unsafe_writable)
        problem = directory.fault()
        if problem:
            raise ConfigError(f"cannot use {problem}, or choose another --data-dir")
        return directory

    def fault(self, *tops: str) -> str:
        """Return why the directory cannot be used, with the remedy; empty if it can be used.

        Args:
            tops: directories in it that are checked as well.

        Returns:
            Text for the operator: it begins with the path.
        """
        for where in (self._path, *(self._path / top for top in tops)):
            try:
                problem = self._fault(where)
            except FileNotFoundError:
                return f"{where}: it is missing; restore it"
            except OSError as error:
                return f"{where}: {files.reason(error)}; make it readable for this user"
            if problem:
                return problem
        return ""

    def _fault(self, where: Path) -> str:
        if not stat.S_ISDIR(where.stat(follow_symlinks=where == self._path).st_mode):
            return f"{where}: it is not a directory; restore it"
        if not os.access(where, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            read_only = os.statvfs(where).f_flag & os.ST_RDONLY
            cause = "the file system is read-only" if read_only else "permission denied"
            return f"{where}: {cause}; make it readable and writable for this user"
        problem = None if self._unsafe_writable else problem_of_path(where)
        return "" if problem is None else str(problem)

    def make(self, *segments: str) -> None:
        """Create a directory (0700) and its parents, if they are missing.

        Raises:
            AlreadyExists: a file or a link has one of these names.
            StorageError: it is not permitted.
        """
        with files.translated(writing=True):
            files.complete(self._making(segments, 0))
            with self._parent((*segments, ""), made=True):
                return

    def read(self, segments: Segments) -> bytes:
        """Return the whole content of a file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: larger than `MAX_FILE_BYTES`, or unreadable.
        """
        self.root()
        with files.translated(), self._parent(segments) as parent:
            return files.read(parent, segments[-1], lambda file: self._require_own(file, segments))

    def root(self) -> Root | None:
        """Return the root for reads without a thread, None if there can be none.

        This may wait for a disk. `read` and `entry` call it for the next read of the event loop.
        """
        if self._root is not None and self._root.is_current():
            return self._root
        now = time.monotonic()
        if now < self._next_check:
            return None
        self._root = Root.check(self._path, unsafe_writable=self._unsafe_writable)
        self._next_check = now + _CHECK_SECONDS
        return self._root

    def read_resident(self, segments: Segments) -> bytes:
        """Return the content of a small file that is in memory.

        Raises:
            NotFound: nothing has that name.
            NotResident: `read` must read it, in a thread.
        """
        return self._resident().read(segments)

    def entries_resident(self, top: Segments, names: Sequence[str]) -> tuple[Entry | None, ...]:
        """Return the metadata of regular files in one directory if that is in memory.

        Returns:
            None for each file that is missing.

        Raises:
            NotResident: `entry` must find them, in a thread.
        """
        root = self._resident()
        key = (top, tuple(names))
        known = self._entries.get(key)
        if known is not None and self.watch is not None and known.is_current(self.watch):
            return known.entries
        entries = self._statuses(root, top, names)
        epoch = self._cover(root, key, entries)
        if epoch is not None:
            entries = self._statuses(root, top, names)
            until = time.monotonic() + FRESH_SECONDS
            self._entries[key] = _Entries(epoch, until, entries)
        return entries

    @staticmethod
    def _statuses(root: Root, top: Segments, names: Sequence[str]) -> tuple[Entry | None, ...]:
        return tuple(
            None if found is None else entry_of((*top, name), found)
            for name, found in zip(names, root.statuses(top, names), strict=True)
        )

    @cached_property
    def watch(self) -> Watch | None:
        """Watch over what was read from this directory; None if the kernel has none."""
        self._watch_started = True
        return Watch.start()

    def _cover(
        self, root: Root, key: tuple[Segments, tuple[str, ...]], entries: Sequence[Entry | None]
    ) -> int | None:
        """Watch files whose status is in memory; see `Watch.cover`."""
        now = time.monotonic()
        if self.watch is None or not root.is_reported or now < self._next_cover:
            return None
        if not self._has_capacity(self.watch, key, now):
            return None
        self._next_cover = now + COVER_SECONDS
        above = [root.path]
        for segment in key[0]:
            above.append(f"{above[-1]}/{segment}")
        top = above[-1]
        present = [f"{top}/{entry.segments[-1]}" for entry in entries if entry is not None]
        return self.watch.cover(key, [top, *present], [*root.steps, *above])

    def _has_capacity(
        self, watch: Watch, key: tuple[Segments, tuple[str, ...]], now: float
    ) -> bool:
        """Return whether a group can be cached; evict another one if that is necessary.

        A group that was compared within `FRESH_SECONDS` is not evicted. Otherwise more groups than
        can be cached, in turn, would cost a watch at each use.
        """
        if key in self._entries or len(self._entries) < _MAX_ENTRIES:
            return True
        oldest = min(self._entries, key=lambda each: self._entries[each].until)
        if self._entries[oldest].until > now:
            return False
        del self._entries[oldest]
        watch.release(oldest)
        return True

    def close(self) -> None:
        """Close what watches the directory. It can still be used, with comparisons at each use."""
        if self._watch_started and self.watch is not None:
            self.watch.close()

    def _resident(self) -> Root:
        if self._root is None:
            raise NotResident
        return self._root

    def exists(self, segments: Segments) -> bool:
        """Return whether a file, directory or anything else has that name.

        Raises:
            StorageError: the directory cannot be read.
        """
        with suppress(NotFound), files.translated(), self._parent(segments) as parent:
            os.stat(segments[-1], dir_fd=parent, follow_symlinks=False)
            return True
        return False

    def is_link(self, segments: Segments) -> bool:
        """Return whether a name is that of a link.

        Raises:
            NotFound: nothing has that name.
            StorageError: the directory cannot be read.
        """
        with files.translated(), self._parent(segments) as parent:
            return links.is_link(parent, segments[-1])

    def entry(self, segments: Segments) -> Entry:
        """Return the metadata of one regular file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: the directory cannot be read.
        """
        self.root()
        with files.translated(), self._parent(segments) as parent:
            return entry_of(segments, files.status(parent, segments[-1]))

    def replace(self, segments: Segments, content: bytes) -> None:
        """Make the change of `replacing` in this thread."""
        files.complete(self.replacing(segments, content))

    def replacing(self, segments: Segments, content: bytes) -> Steps[None]:
        """Create or replace a file; readers see either the old content or the new one.

        Raises:
            AlreadyExists: a directory has this name, or a file has a prefix of it.
            StorageError: too large, or it could not be written.
        """
        with files.translated(writing=True):
            yield from self._making(segments[:-1], 1)
            with self._parent(segments, made=True) as parent:
                yield from files.replace(parent, segments[-1], content)

    def create(self, segments: Segments, content: bytes) -> None:
        """Make the change of `creating` in this thread."""
        files.complete(self.creating(segments, content))

    def creating(self, segments: Segments, content: bytes) -> Steps[None]:
        """Create a file with its whole content at once; only one of two creators succeeds.

        Raises:
            AlreadyExists: a file or directory has this name, or a file has a prefix of it.
            StorageError: too large, or it could not be written.
        """
        with files.translated(writing=True):
            yield from self._making(segments[:-1], 1)
            with self._parent(segments, made=True) as parent:
                yield from files.create(parent, segments[-1], content)

    def delete(self, segments: Segments) -> None:
        """Make the change of `deleting` in this thread."""
        files.complete(self.deleting(segments))

    def deleting(self, segments: Segments) -> Steps[None]:
        """Delete a file.

        Raises:
            NotFound: no regular file of that name.
            StorageError: it could not be deleted.
        """
        with files.translated(), self._parent(segments) as parent:
            yield from files.delete(parent, segments[-1])

    def walk(self, *top: str) -> Iterator[Entry]:
        """Yield the regular files below `top`, sorted, without temporary files.

        Files are yielded under the names of the links that lead to them, and not under the names
        of their own that Kubernetes gives them.

        Args:
            top: the directory: one segment, or none for the root.

        Raises:
            StorageError: the directory, or one below it, cannot be read.
        """
        for entry in self._files(top):
            if not files.is_temporary(entry.segments[-1]) and entry.segments != (LOCK_FILE,):
                yield entry

    @contextmanager
    def opened(self, top: Segments) -> Iterator[int]:
        """Open a directory; yield its descriptor. For `walks`.

        Args:
            top: its name; empty for the root.

        Raises:
            NotFound: it is not the first directory, and has been deleted.
            StorageError: it cannot be read; also if the caller's block raises `OSError`.
        """
        with (
            _naming_directory(top),
            files.translated(),
            self._parent((*top, "")) as descriptor,
        ):
            yield descriptor

    def _files(self, top: Segments) -> Iterator[Entry]:
        for segments, status in self._items(top):
            if isinstance(status, OSError):
                continue
            if stat.S_ISREG(status.st_mode):
                yield entry_of(segments, status)
            elif stat.S_ISDIR(status.st_mode) and len(segments) <= MAX_DEPTH:
                yield from self._files(segments)

    def _items(self, top: Segments) -> list[tuple[Segments, os.stat_result | OSError]]:
        """Return what is in a directory, sorted, with its status.

        The status of a link is that of its target, or the error for which it is not followed.
        """
        found: list[tuple[Segments, os.stat_result | OSError]] = []
        # What is deleted meanwhile is not listed; the first directory must exist (see `_parent`).
        with (
            suppress(NotFound),
            self.opened(top) as descriptor,
            os.scandir(descriptor) as items,
        ):
            for item in sorted(items, key=lambda item: item.name):
                if item.name.startswith(links.HIDDEN):
                    continue
                with suppress(FileNotFoundError):
                    found.append(((*top, item.name), status_of(item, descriptor if top else None)))
        return found

    def remove_leftover(self, segments: Segments) -> None:
        """Remove a temporary file of a broker that died.

        A running broker holds a lock on its own: such a file remains, as does one that cannot be
        removed.
        """
        with suppress(OSError, NotFound, StorageError), self._parent(segments) as parent:
            files.remove_leftover(parent, segments[-1])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the directory, which excludes other threads and processes.

        This does not wait for the lock. The kernel releases it when the process ends.

        Raises:
            DirectoryBusy: another process or task holds it.
            StorageError: the lock file cannot be opened for writing.
        """
        with ExitStack() as stack:
            root = stack.enter_context(self._parent((LOCK_FILE,)))
            try:
                stack.enter_context(files.locked(root, LOCK_FILE))
            except BlockingIOError:
                raise DirectoryBusy("is being changed by others") from None
            except OSError as error:
                raise StorageError(
                    f"cannot be changed: {LOCK_FILE} in the data directory: {files.reason(error)}"
                ) from None
            yield

    def open_shared(self, name: str) -> int:
        """Open a file of the root for reading and writing; create it if it is missing.

        Returns:
            A descriptor, which the caller closes.

        Raises:
            StorageError: it is not a regular file, or cannot be opened.
        """
        with files.translated(writing=True), self._parent((name,)) as root:
            return files.open_shared(root, name)

    def _making(self, segments: Segments, first: int) -> Steps[None]:
        """Create a directory (0700) and its parents, from the segment with the index `first`."""
        for depth in range(first, len(segments)):
            with self._parent(segments[: depth + 1], made=True) as parent:
                try:
                    os.mkdir(segments[depth], 0o700, dir_fd=parent)
                except FileExistsError:
                    continue
                yield from files.synchronizing(parent)

    @contextmanager
    def _parent(self, segments: Segments, *, made: bool = False) -> Iterator[int]:
        """Open the directory that contains the last of `segments`; yield its descriptor.

        Args:
            made: whether a file with the name of a directory is an obstacle, not absence.

        Raises:
            StorageError: the root or its directory cannot be opened, or other users may change a
                directory.
            OSError: a directory below that cannot be opened.
        """
        descriptor = self._open_root()
        try:
            for depth in range(len(segments) - 1):
                below = self._open_below(descriptor, segments[: depth + 1], made=made)
                os.close(descriptor)
                descriptor = below
                self._require_own(descriptor, segments[: depth + 1])
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_root(self) -> int:
        """Open the root.

        Raises:
            StorageError: it is missing, cannot be read, or other users may change it.
        """
        try:
            problem = None if self._unsafe_writable else problem_of_path(self._path)
            if problem is None:
                return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(
                f"cannot be read or written: the data directory: {files.reason(error)}"
            ) from None
        raise WritableByOthers(
            "cannot be used: the data directory, or a directory above it, "
            f"{problem.cause}; the log names it"
        )

    def _open_below(self, parent: int, segments: Segments, *, made: bool) -> int:
        """Open the directory that the last of `segments` names.

        Args:
            made: whether a file with this name is an obstacle, not absence.
        """
        name = segments[-1]
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            problem = error
        if len(segments) > 1 and problem.errno in _NOT_A_DIRECTORY and links.is_link(parent, name):
            try:
                return links.follow(
                    parent, name, _LINKED, lambda step: self._require_own(step, segments)
                )
            except OSError as error:
                problem = OSError(errno.ENOTDIR, error.strerror)
        if made and problem.errno in _NOT_A_DIRECTORY:
            raise AlreadyExists(f"begins with {name}, which is a file") from None
        if len(segments) == 1:
            raise StorageError(
                f"cannot be read or written: the directory {name}: {files.reason(problem)}"
            ) from None
        raise problem

    def _require_own(self, descriptor: int, segments: Segments) -> None:
        """Refuse a file or directory that other users may change.

        Raises:
            WritableByOthers: they may.
        """
        if self._unsafe_writable:
            return
        where = "/".join(segments)
        problem = problem_of(os.fstat(descriptor), where, descriptor)
        if problem is not None:
            raise WritableByOthers(f"cannot be used: {problem}, in the data directory")


@contextmanager
def _naming_directory(segments: Segments) -> Iterator[None]:
    """Add the name of a directory to an error, whose text begins with a verb."""
    try:
        yield
    except (NotFound, WritableByOthers):
        raise
    except StorageError as error:
        where = "/".join(segments) or "the data directory"
        raise StorageError(f"{where} {error}") from None


def entry_of(segments: Segments, status: os.stat_result) -> Entry:
    """Return the metadata of a regular file with this status."""
    mode = stat.S_IMODE(status.st_mode)
    return Entry(segments, status.st_size, mode, status.st_mtime_ns, status.st_ino, status.st_uid)


def status_of(item: os.DirEntry[str], directory: int | None) -> os.stat_result | OSError:
    """Return the status of an item, or why it is not used.

    Args:
        directory: descriptor of its directory; None for the root, in which no link is followed.
    """
    if directory is None or not item.is_symlink():
        return item.stat(follow_symlinks=False)
    try:
        return links.status(directory, item.name)
    except OSError as error:
        return error
