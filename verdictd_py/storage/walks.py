"""Walks through directories with very many files, which are neither sorted nor held in memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from verdictd_py.errors import NotFound
from verdictd_py.storage import files, links
from verdictd_py.storage.directory import (
    MAX_DEPTH,
    Directory,
    Entry,
    Segments,
    entry_of,
    status_of,
)

_SKIPPED: Final = (links.HIDDEN, files.TEMPORARY)


def names(directory: Directory, top: Segments) -> Iterator[str]:
    """Yield the names in a directory as the system returns them, in no order.

    Files are not examined. The name of a directory ends with `/`. Temporary files, other things
    than files and directories, and links that are not followed are omitted.

    Args:
        top: the directory: at least one segment.

    Raises:
        StorageError: the directory cannot be read.
    """
    with (
        suppress(NotFound),
        directory.opened(top) as descriptor,
        os.scandir(descriptor) as items,
    ):
        for item in items:
            name = item.name
            if name.startswith(_SKIPPED):
                continue
            if item.is_file(follow_symlinks=False):
                yield name
                continue
            mode = _mode_of_link(item, descriptor)
            if item.is_dir(follow_symlinks=False) or stat.S_ISDIR(mode):
                yield f"{name}/"
            elif stat.S_ISREG(mode):
                yield name


def entries(directory: Directory, top: Segments, of: Iterable[str]) -> list[Entry]:
    """Return the metadata of the regular files with these names in one directory, in their order.

    What has been deleted is omitted.

    Raises:
        StorageError: the directory cannot be read.
    """
    found: list[Entry] = []
    with suppress(NotFound), directory.opened(top) as descriptor:
        for name in of:
            with suppress(FileNotFoundError, NotFound):
                found.append(entry_of((*top, name), files.status(descriptor, name)))
    return found


def examine(directory: Directory, *top: str) -> Iterator[Entry | tuple[Segments, OSError] | None]:
    """Yield everything below `top`, in no order, while the directories are being read.

    Yields:
        An entry for each regular file, temporary files included; a name and the error for each
        link that is not followed; None for each directory.

    Raises:
        StorageError: the directory, or one below it, cannot be read.
    """
    with (
        suppress(NotFound),
        directory.opened(top) as descriptor,
        os.scandir(descriptor) as items,
    ):
        for item in items:
            if item.name.startswith(links.HIDDEN):
                continue
            segments = (*top, item.name)
            try:
                status = status_of(item, descriptor)
            except FileNotFoundError:
                continue
            if isinstance(status, OSError):
                yield segments, status
            elif stat.S_ISREG(status.st_mode):
                yield entry_of(segments, status)
            elif stat.S_ISDIR(status.st_mode) and len(segments) <= MAX_DEPTH:
                yield None
                yield from examine(directory, *segments)


def _mode_of_link(item: os.DirEntry[str], directory: int) -> int:
    """Return the mode of what a link leads to; 0 for anything else, and if it is not followed."""
    if item.is_symlink():
        with suppress(OSError):
            return links.status(directory, item.name).st_mode
    return 0
