"""Inspection of a data directory: removal of leftovers, and warnings about its content.

A directory may contain a million files. The start examines a fixed number of them, so that it does
not depend on their number, and the rest is examined in slices while the daemon runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from verdictd_py.domain.events import WarningStorage
from verdictd_py.domain.secrets import KEY_BYTES
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.formats.sealed import is_sealed
from verdictd_py.formats.stored import ALIASES, COLLATERAL, KEYS, RESOURCES
from verdictd_py.ports import Events
from verdictd_py.storage import files, links, pools, walks
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.stores import README

AUDIT: Final = "audit"

DIRECTORIES: Final = (KEYS, "image", "gpg", OPA, RESOURCES, COLLATERAL, AUDIT)
"""Directories of the data directory, which exist while it is whole."""

EXAMINED_AT_START: Final = 1000
"""Number of files and directories that the start examines, in about 10 ms."""

SLICE: Final = 250
"""Number of files and directories in a slice, a few milliseconds."""

_REST: Final = 9
"""Pause after a slice, as a multiple of its time."""

MAX_WARNINGS: Final = 100
"""Maximum number of warnings; a last line counts the others."""

_ORDER: Final = ("image", "gpg", OPA, COLLATERAL, RESOURCES, KEYS, AUDIT)
"""Order of the examination: directories that may have very many files are the last ones."""

_PRIVATE: Final = (KEYS, "image", "gpg", RESOURCES)
"""Directories whose files only the broker's user should be able to read."""


@dataclass(slots=True)
class _Warnings:
    """The first `MAX_WARNINGS` warnings of one type, and the number of all of them."""

    by_file: dict[Segments, str] = field(default_factory=dict)
    count: int = 0

    def add(self, segments: Segments, text: str) -> None:
        self.count += 1
        if len(self.by_file) < MAX_WARNINGS:
            self.by_file[segments] = text

    def texts(self) -> tuple[str, ...]:
        """Return the warnings in the order of `DIRECTORIES` and names."""

        def place(segments: Segments) -> tuple[int, Segments]:
            return DIRECTORIES.index(segments[0]), segments

        return tuple(self.by_file[segments] for segments in sorted(self.by_file, key=place))


class Inspection:
    """One inspection of a data directory, which the caller advances.

    Temporary files of brokers that died are removed. Warnings are about resources that hide
    image files, links that are not followed, keys of a wrong size, files that this user cannot
    read, and files that other users may read.

    Attributes:
        is_complete: whether everything was examined.
    """

    def __init__(self, directory: Directory) -> None:
        self.is_complete = False
        self._directory = directory
        self._examined = self._all()
        self._shadows = _shadow_warnings(directory)
        self._links, self._keys, self._modes = _Warnings(), _Warnings(), _Warnings()

    def advance(self, number: int) -> None:
        """Examine the next files and directories, at most so many.

        Raises:
            StorageError: a directory cannot be read. The inspection has then ended.
        """
        examined = 0
        try:
            for _ in islice(self._examined, number):
                examined += 1
        except StorageError:
            self.is_complete = True
            raise
        self.is_complete = examined < number

    async def complete(self, events: Events) -> None:
        """Examine the rest, in about a tenth of the time, and record the further warnings."""
        clock, before = asyncio.get_running_loop().time, self.warnings
        while not self.is_complete:
            begun = clock()
            try:
                await pools.walk(self.advance, SLICE)
            except StorageError as error:
                events.record(WarningStorage(reason=f"the inspection has ended: {error}"))
            await asyncio.sleep(_REST * (clock() - begun))
        for warning in self.warnings:
            if warning not in before:
                events.record(WarningStorage(reason=warning))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings so far, one line each; those about modes last, because there may be many."""
        found = (self._links, self._keys, self._modes)
        texts = [*self._shadows, *(text for warnings in found for text in warnings.texts())]
        number = len(self._shadows) + sum(warnings.count for warnings in found)
        if number > MAX_WARNINGS:
            texts[MAX_WARNINGS:] = [f"and {number - MAX_WARNINGS} more"]
        return tuple(texts)

    def _all(self) -> Iterator[None]:
        for top in _ORDER:
            for item in walks.examine(self._directory, top):
                if isinstance(item, Entry):
                    self._examine(item)
                elif item is not None:
                    segments, error = item
                    self._examine_link(segments, error)
                yield

    def _examine(self, entry: Entry) -> None:
        top, name = entry.segments[0], "/".join(entry.segments)
        if files.is_temporary(entry.segments[-1]):
            self._directory.remove_leftover(entry.segments)
            return
        if top in _PRIVATE and _is_unreadable(entry):
            self._modes.add(
                entry.segments,
                f"{name} belongs to the user {entry.owner} (mode {entry.mode:04o}) and cannot be "
                f"read, so that it is not served; run chown {os.geteuid()} on it",
            )
            return
        if (
            top == KEYS
            and entry.size != KEY_BYTES
            and entry.segments[-1] != README
            and not self._is_sealed(entry)
        ):
            self._keys.add(
                entry.segments,
                f"key {name.removeprefix('keys/')} has {entry.size} bytes and is not served: a key "
                f"has exactly {KEY_BYTES}, without a newline",
            )
        if top in _PRIVATE and entry.mode & 0o077:
            self._modes.add(
                entry.segments,
                f"{name} has mode {entry.mode:04o}: other users may read it; run chmod 600 on it",
            )

    def _is_sealed(self, entry: Entry) -> bool:
        with suppress(NotFound, StorageError):
            return is_sealed(self._directory.read(entry.segments))
        return False

    def _examine_link(self, segments: Segments, error: OSError) -> None:
        if segments[0] == AUDIT:
            return
        self._links.add(
            segments,
            f"{'/'.join(segments)} is a link that {links.cause(error)} and is not followed; put a "
            "file in its place",
        )


def _is_unreadable(entry: Entry) -> bool:
    """Return whether no rule of its mode lets this user read a file, as after a restore by root."""
    own = os.geteuid()
    return own != 0 and not entry.mode & (0o400 if entry.owner == own else 0o044)


def _shadow_warnings(directory: Directory) -> tuple[str, ...]:
    warnings: list[str] = []
    for path, alias in ALIASES.items():
        shadow = (RESOURCES, *path)
        with suppress(StorageError):
            if directory.exists(shadow):
                warnings.append(f"{'/'.join(shadow)} is served instead of {'/'.join(alias)}")
    return tuple(warnings)
