"""Consistent copies of a data directory while brokers use it, and their restoration.

A copy is the state of all files at one instant. Files are replaced, never changed in place, so
that a replaced file has another inode. The directory is listed, what is new in the list is read,
and so on until two lists are equal: no file changed between its place in the first list and its
place in the second, so all of them had these contents when the second one began.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.errors import ConfigError, NotFound, StorageError
from verdictd_py.formats.backup import TOPS, BackedUpFile, Backup
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.documents import OPA

_SECRETS: Final = frozenset({"keys", "resources"})

MAX_PASSES: Final = 100
"""Maximum number of lists. Each one after the first reads only what has changed meanwhile."""

MAX_BYTES: Final = 4 * 1024 * 1024 * 1024
"""Maximum size of a copy, which is made in memory so that no secret is written unencrypted."""

_STAGING: Final = ".tmp-restore-"


def take(
    directory: Directory, listed: Callable[[], object] = lambda: None
) -> tuple[BackedUpFile, ...]:
    """Return all files of a data directory as they were at one instant.

    Args:
        listed: called after each list, for tests.

    Raises:
        StorageError: a file cannot be read, they are too large, or they change too fast.
    """
    read: dict[Segments, tuple[Entry, bytes]] = {}
    before: Mapping[Segments, Entry] | None = None
    for _ in range(MAX_PASSES):
        entries = _list(directory)
        listed()
        if entries == before and entries.keys() == read.keys():
            return tuple(
                BackedUpFile(segments, content, stat.S_IMODE(entry.mode))
                for segments, (entry, content) in sorted(read.items())
            )
        before = entries
        read = _updated(directory, entries, read)
    raise StorageError("the data directory changes too fast for a backup; try again later")


def _list(directory: Directory) -> dict[Segments, Entry]:
    return {
        entry.segments: entry
        for top in sorted(TOPS)
        if directory.exists((top,))
        for entry in directory.walk(top)
        if len(entry.segments) > 1
    }


def _updated(
    directory: Directory,
    entries: Mapping[Segments, Entry],
    read: Mapping[Segments, tuple[Entry, bytes]],
) -> dict[Segments, tuple[Entry, bytes]]:
    """Return the contents of the listed files; read only those that are new or were replaced."""
    updated, size = {}, 0
    for segments, entry in entries.items():
        known = read.get(segments)
        if known is None or known[0] != entry:
            try:
                known = (entry, directory.read(segments))
            except NotFound:  # deleted meanwhile; the next list is another one
                continue
            except StorageError as error:
                raise StorageError(f"{'/'.join(segments)}: {error}") from error
        updated[segments] = known
        size += len(known[1])
        if size > MAX_BYTES:
            raise StorageError(f"the data directory has more than {MAX_BYTES >> 30} GiB")
    return updated


def restore(path: Path, backup: Backup, *, replace: bool = False) -> Path | None:
    """Write the files of a verified backup into a data directory.

    They are written next to their place first. If this is interrupted, the directory has no part
    of the backup, or directories that were moved into place completely, those with secrets last.

    The audit trail and the revisions of documents stay: they prove that older documents return.

    Args:
        replace: move the existing content of the same directories aside instead of refusing.

    Returns:
        The directory that has the former content; None without one.

    Raises:
        ConfigError: the directory is not empty.
        StorageError: it cannot be written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        present = [item for item in path.iterdir() if item.name in TOPS]
        others = [item for item in path.iterdir() if not _may_stay(item)]
        if (present or others) and not replace:
            raise ConfigError(
                f"{path} is not empty: restore into an empty directory, or add --replace to move "
                "its keys, resources and documents aside"
            )
        for item in path.iterdir():
            if item.name.startswith(_STAGING):
                shutil.rmtree(item)
        staging = path / f"{_STAGING}{secrets.token_hex(4)}"
        _write(staging, backup)
        aside = _move_aside(path, present) if present else None
        for item in sorted(staging.iterdir(), key=_last_secrets):
            item.rename(path / item.name)
        staging.rmdir()
        _synchronize(path)
    except OSError as error:
        raise StorageError(f"cannot restore into {path}: {error.strerror}; check it") from error
    return aside


def _may_stay(item: Path) -> bool:
    """Return whether a file does not prevent a restoration: a leftover, or a lock."""
    return item.name.startswith((_STAGING, "."))


def _move_aside(path: Path, present: list[Path]) -> Path:
    """Move the content into a new directory inside, and return it."""
    aside = path / f"before-restore-{secrets.token_hex(4)}"
    aside.mkdir(mode=0o700)
    for item in sorted(present, key=_last_secrets, reverse=True):
        item.rename(aside / item.name)
    return aside


def _last_secrets(item: Path) -> tuple[bool, bool]:
    """Return the place of a directory in the order of a restoration, the policies first.

    A broker that starts after an interrupted one finds no secrets without their policies, which it
    would release by those of the package.
    """
    return item.name in _SECRETS, item.name != OPA


def _write(staging: Path, backup: Backup) -> None:
    staging.mkdir(mode=0o700)
    directories = {staging}
    for file in backup.files:
        target = staging.joinpath(*file.path)
        directory = staging
        for segment in file.path[:-1]:
            directory /= segment
            directory.mkdir(mode=0o700, exist_ok=True)
            directories.add(directory)
        mode = file.mode & ~(stat.S_IWGRP | stat.S_IWOTH)  # nobody else may change it
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.content)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    for directory in directories:
        _synchronize(directory)


def _synchronize(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
