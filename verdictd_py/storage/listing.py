"""Names below one directory, by name and in pages, for directories with a million files.

A page examines only the files that it returns. Their names come from windows: the smallest names
of a directory that follow a name, sorted. To read one, the directory is read once, without its
files being examined. The following pages of the same list take their names from it, so that a list
of all names reads a directory once per `WINDOW` names and not once per page.

Pages are stable while files come and go: a name that exists during the whole list is in it exactly
once, because every window of a list is read after the list began. A file that is deleted meanwhile
is omitted as soon as it is gone; one that is created meanwhile may be missing. A window is never
used for a list that began after it was read: no other rule is needed, and no time of the file
system is trusted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from time import monotonic_ns
from typing import Final

from verdictd_py.domain.names import Name
from verdictd_py.errors import RequestError
from verdictd_py.storage import walks
from verdictd_py.storage.directory import MAX_DEPTH, Directory, Entry, Segments

WINDOW: Final = 65_536
"""Maximum number of names in a window, some 100 bytes each; twice as many while it is read."""

MAX_NAMES: Final = 2 * WINDOW
"""Maximum number of names in all windows of one list."""

MAX_WINDOWS: Final = 64

CACHED: Final = 1024
"""Number of names that makes a directory worth a window. A smaller one is read for each page."""

_BATCH: Final = 256
"""Maximum number of files that are examined at a time: their directory is opened once."""

_NEXT: Final = "\0"
"""Appended to a name, it gives the next text in order; no name contains it."""

Selection = Callable[[Segments], bool]
"""Whether a directory is read."""


@dataclass(frozen=True, slots=True)
class _Window:
    """The first names of a directory from `low` on, sorted; that of a directory ends with `/`.

    Attributes:
        read_at: when the directory began to be read, on the caller's clock.
        complete: whether no names follow.
    """

    read_at: int
    low: str
    names: list[str]
    complete: bool

    def covers(self, low: str, started: int) -> bool:
        """Return whether a list that began at `started` may take its names from `low` on here."""
        if self.read_at < started or low < self.low:
            return False
        return self.complete or (bool(self.names) and low <= self.names[-1])


class SortedFiles:
    """The regular files below one directory of the data directory, by name.

    The order is that of the whole names: `a-b` precedes `a/b`.

    Args:
        clock: monotonic, in nanoseconds; `started` is one of its values.
    """

    def __init__(
        self, directory: Directory, top: str, clock: Callable[[], int] = monotonic_ns
    ) -> None:
        self._directory = directory
        self._top = (top,)
        self._clock = clock
        self._windows: OrderedDict[tuple[Segments, str], _Window] = OrderedDict()
        self._lock = Lock()

    def after(
        self,
        name: str,
        *,
        started: int | None = None,
        select: Selection = lambda _: True,
        expected: int = _BATCH,
    ) -> Iterator[Entry]:
        """Yield the files whose names below the directory follow `name`, by name.

        Args:
            started: when the list began of which these are a part; None for a new one.
            select: which directories are read.
            expected: number of files that the caller probably takes.

        Raises:
            StorageError: a directory cannot be read.
        """
        since = self._clock() if started is None else started
        return self._below(self._top, name, since, select, max(1, min(expected, _BATCH)))

    def any_with_prefix(self, prefix: str, most: int) -> bool:
        """Return whether the name of a file begins with `prefix`.

        Args:
            most: number of names after which True is returned although none was found.

        Raises:
            StorageError: a directory cannot be read.
        """
        *parents, beginning = prefix.split("/")
        try:
            checked = tuple(str(Name.parse(parent)) for parent in parents)
        except RequestError:
            return False
        if len(checked) >= MAX_DEPTH:
            return False
        names = self._matching((*self._top, *checked), beginning)
        return any(islice(names, most)) or next(names, None) is not None

    def _matching(self, top: Segments, beginning: str) -> Iterator[bool]:
        """Yield for each name below a directory whether it is that of a matching file."""
        for name in walks.names(self._directory, top):
            matches = name.startswith(beginning)
            if matches and name.endswith("/") and len(top) < MAX_DEPTH:
                yield from self._matching((*top, name[:-1]), "")
            else:
                yield matches and not name.endswith("/")

    def _below(
        self, top: Segments, after: str, started: int, select: Selection, batch: int
    ) -> Iterator[Entry]:
        pending: list[str] = []
        for name in self._names(top, after, started):
            if not name.endswith("/"):
                pending.append(name)
                if len(pending) == batch:
                    yield from walks.entries(self._directory, top, pending)
                    pending = []
                continue
            below = (*top, name[:-1])
            if len(below) > MAX_DEPTH or not select(below):
                continue
            if pending:
                yield from walks.entries(self._directory, top, pending)
                pending = []
            rest = after.removeprefix(name) if after.startswith(name) else ""
            yield from self._below(below, rest, started, select, batch)
        if pending:
            yield from walks.entries(self._directory, top, pending)

    def _names(self, top: Segments, after: str, started: int) -> Iterator[str]:
        """Yield the names in one directory that follow `after`, or lead to names that do."""
        first, separator, _ = after.partition("/")
        low = first + separator if separator or not first else first + _NEXT
        while True:
            window = self._window(top, low, started)
            for index in range(bisect_left(window.names, low), len(window.names)):
                yield window.names[index]
            if window.complete:
                return
            low = window.names[-1] + _NEXT

    def _window(self, top: Segments, low: str, started: int) -> _Window:
        with self._lock:
            for key, window in self._windows.items():
                if key[0] == top and window.covers(low, started):
                    self._windows.move_to_end(key)
                    return window
        read_at, read = self._clock(), 0

        def following() -> Iterator[str]:
            nonlocal read
            for name in walks.names(self._directory, top):
                read += 1
                if name >= low:
                    yield name

        names, complete = _smallest(following(), WINDOW)
        window = _Window(read_at, low, names, complete)
        if read >= CACHED:
            self._store((top, low), window)
        return window

    def _store(self, key: tuple[Segments, str], window: _Window) -> None:
        with self._lock:
            self._windows[key] = window
            self._windows.move_to_end(key)
            while len(self._windows) > MAX_WINDOWS or self._stored_names() > MAX_NAMES:
                self._windows.popitem(last=False)

    def _stored_names(self) -> int:
        return sum(len(window.names) for window in self._windows.values())


def _smallest(names: Iterable[str], most: int) -> tuple[list[str], bool]:
    """Return the smallest names, sorted, and whether these are all of them."""
    smallest: list[str] = []
    complete = True
    last: str | None = None
    for name in names:
        if last is not None and name > last:
            continue
        smallest.append(name)
        if len(smallest) == 2 * most:
            smallest.sort()
            del smallest[most:]
            last, complete = smallest[-1], False
    smallest.sort()
    if len(smallest) > most:
        del smallest[most:]
        complete = False
    return smallest, complete
