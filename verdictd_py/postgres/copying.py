"""Copy of all objects of a site, from a data directory to a database or the reverse.

Each batch is stored completely or not at all, and what the target has already is skipped. Therefore
a copy that was interrupted at any instant is continued by the same command. At the end, each object
is read again from both sides and compared.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Protocol

from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.formats.stored import COLLATERAL, KEYS, RESOURCES
from verdictd_py.postgres.objects import Objects, State, Write
from verdictd_py.postgres.stores import kind_of
from verdictd_py.storage import pools, walks
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps, is_temporary
from verdictd_py.storage.objects import Objects as Files
from verdictd_py.storage.stores import README

TOPS: Final = (KEYS, RESOURCES, "image", "gpg", OPA, COLLATERAL)
"""Directories whose files are copied."""

BATCH_OBJECTS: Final = 100
BATCH_BYTES: Final = 4 * 1024 * 1024
MAX_PROBLEMS: Final = 20

_UNSEALED: Final = (OPA, COLLATERAL)
"""Directories whose files are never sealed."""

Item = tuple[str, bytes]
"""Path and content of an object."""


class Side(Protocol):
    """Source or target of a copy. Paths are canonical, as in `StoredObject`."""

    async def paths(self) -> Sequence[str]:
        """Return the paths of all objects, sorted.

        Raises:
            StorageError: they cannot be listed.
        """
        ...

    async def read(self, path: str) -> bytes | None:
        """Return the content of an object, None if there is none.

        Raises:
            StorageError: it cannot be read; the message may lack its path.
        """
        ...

    async def write(self, items: Sequence[Item]) -> None:
        """Create or replace objects.

        Raises:
            StorageError: they cannot be stored.
        """
        ...


@dataclass(slots=True)
class Report:
    """Result of a copy.

    Attributes:
        objects: number of objects of the source.
        copied: number of those that the target did not have.
        extra: number of objects that only the target has; they are left.
        problems: the first problems, one sentence each.
        more: number of further problems.
    """

    objects: int = 0
    copied: int = 0
    extra: int = 0
    problems: list[str] = field(default_factory=list)
    more: int = 0

    def add_problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        else:
            self.more += 1


class DatabaseSide:
    """Objects of a database (see `Side`)."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def paths(self) -> Sequence[str]:
        paths = await self._objects.paths("")
        return [path for path in paths if path.partition("/")[0] in TOPS]

    async def read(self, path: str) -> bytes | None:
        return await self._objects.read(path)

    async def write(self, items: Sequence[Item]) -> None:
        async def plan(state: State) -> Sequence[Write]:
            del state
            return [Write(path, kind_of(path), content) for path, content in items]

        await self._objects.change(plan)


class DirectorySide:
    """Files of a data directory (see `Side`).

    Args:
        files: reads and writes keys, resources and files of images, which may be sealed.
    """

    def __init__(self, directory: Directory, files: Files) -> None:
        self._directory = directory
        self._files = files

    async def paths(self) -> Sequence[str]:
        return await pools.walk(lambda: sorted(self._paths()))

    def _paths(self) -> Iterator[str]:
        tops = [top for top in TOPS if self._directory.exists((top,))]
        for item in chain.from_iterable(walks.examine(self._directory, top) for top in tops):
            if not isinstance(item, Entry):
                continue
            segments = item.segments
            is_readme = segments[0] == KEYS and segments[-1] == README
            if not is_temporary(segments[-1]) and not is_readme:
                yield "/".join(segments)

    async def read(self, path: str) -> bytes | None:
        segments = tuple(path.split("/"))
        with suppress(NotFound):
            if segments[0] in _UNSEALED:
                return await pools.read(self._directory.read, segments)
            return (await self._files.read(segments)).content
        return None

    async def write(self, items: Sequence[Item]) -> None:
        for path, content in items:
            await self._write(tuple(path.split("/")), content)

    async def _write(self, segments: Segments, content: bytes) -> None:
        if segments[0] in _UNSEALED:
            await exclusively(self._directory, lambda: self._directory.replacing(segments, content))
            return
        await self._files.ready()
        prepared = await self._files.prepare(segments, content)

        def change() -> Steps[None]:
            yield from self._files.changing(
                {segments: prepared},
                lambda: self._directory.replacing(segments, prepared.stored),
            )

        await exclusively(self._directory, change)


async def copy(
    source: Side,
    target: Side,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Report:
    """Copy all objects, and verify the result.

    Args:
        overwrite: whether objects that differ in the target are replaced; otherwise they are
            problems.
        progress: called with the numbers of objects that are done and of all.

    Raises:
        StorageError: a side cannot be used.
    """
    report = Report()
    paths = await source.paths()
    report.objects = len(paths)
    batch: list[Item] = []
    for number, path in enumerate(paths):
        progress(number, 2 * len(paths))
        item = await _missing(source, target, path, report, overwrite=overwrite)
        if item is not None:
            batch.append(item)
        if len(batch) >= BATCH_OBJECTS or sum(len(each) for _, each in batch) >= BATCH_BYTES:
            await target.write(batch)
            report.copied += len(batch)
            batch = []
    if batch:
        await target.write(batch)
        report.copied += len(batch)
    await _verify(source, target, paths, report, progress)
    return report


async def _missing(
    source: Side, target: Side, path: str, report: Report, *, overwrite: bool
) -> Item | None:
    """Return an object that has to be stored in the target; None if there is nothing to do."""
    try:
        content = await source.read(path)
        present = await target.read(path)
    except (StorageError, AlreadyExists) as error:
        report.add_problem(f"{path} is not copied: {error}")
        return None
    if content is None or (present is not None and hmac.compare_digest(content, present)):
        return None
    if present is not None and not overwrite:
        return None  # `_verify` reports it
    return path, content


async def _verify(
    source: Side,
    target: Side,
    paths: Sequence[str],
    report: Report,
    progress: Callable[[int, int], None],
) -> None:
    for number, path in enumerate(paths):
        progress(len(paths) + number, 2 * len(paths))
        try:
            content, present = await source.read(path), await target.read(path)
        except StorageError as error:
            report.add_problem(f"{path} is not verified: {error}")
            continue
        if content is None:
            continue
        if present is None:
            report.add_problem(f"{path} is missing in the target; run the command again")
        elif not hmac.compare_digest(content, present):
            report.add_problem(
                f"{path} differs in the target: it was changed there, or changed meanwhile; run "
                "the command again, with --overwrite if the target's is not needed"
            )
    report.extra = len(set(await target.paths()) - set(paths))
