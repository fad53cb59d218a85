"""Sealing of a whole data directory while brokers use it: seal, rotate, unseal, verify.

The work is done in batches. Each is one change of the index under the lock of the directory, so
that a process that is killed leaves every object readable, and the next run continues. A file that
a broker has changed meanwhile is read again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.errors import NotFound, StorageError
from verdictd_py.formats.sealed import is_sealed, parse_header
from verdictd_py.formats.sealindex import key_of
from verdictd_py.ports.sealing import SealBroken, SealUnavailable
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory, Segments
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps
from verdictd_py.storage.objects import (
    Changed,
    Found,
    Prepared,
    SealedObjects,
    require_same,
    stored_bytes,
)
from verdictd_py.storage.sealedindex import TOKEN_KEYS, objects_in

BATCH: Final = 32
"""Maximum number of objects in a batch: brokers that change something wait for its end."""

BATCH_BYTES: Final = 8 * 1024 * 1024
"""Size of the objects of a batch after which no other is added."""

_PASSES: Final = 10
"""Passes over the directory while brokers change what is being sealed."""

MAX_PROBLEMS: Final = 1000

Progress = Callable[[int, int], None]
"""Receives the number of objects that were examined, and of all."""


@dataclass(slots=True)
class Report:
    """Result of the work on a directory.

    Attributes:
        objects: number of objects.
        sealed: number of objects that are sealed now.
        changed: number of objects that were written.
        problems: a line for each object that is refused; at most `MAX_PROBLEMS`.
        missing: number of objects that the index names and that do not exist.
        versions: number of sealed objects by the version of the KEK.
    """

    objects: int = 0
    sealed: int = 0
    changed: int = 0
    problems: list[str] = field(default_factory=list)
    missing: int = 0
    versions: dict[str, int] = field(default_factory=dict)

    def add_problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A file that is to be replaced."""

    segments: Segments
    found: Found
    prepared: Prepared


_Plan = Callable[[Segments, Report], Awaitable[_Planned | None]]


class Resealing:
    """Work on the objects of one data directory.

    Args:
        current: returns the newest version of the KEK.
    """

    def __init__(
        self,
        directory: Directory,
        objects: SealedObjects,
        *,
        current: Callable[[], str],
        progress: Progress = lambda done, total: None,  # noqa: ARG005  # not displayed
    ) -> None:
        self._directory = directory
        self._objects = objects
        self._current = current
        self._progress = progress

    async def seal(self, *, accept_plain: bool = False) -> Report:
        """Seal every plain object; have plain objects refused from then on.

        Args:
            accept_plain: whether objects are sealed that must have been sealed before: an operator
                has put them there.

        Raises:
            SealUnavailable: the KEK is not available. What was sealed before remains sealed.
            SealBroken, StorageError: the index, or the directory, cannot be used.
        """
        await self._objects.index.prepare()

        async def plan(segments: Segments, report: Report) -> _Planned | None:
            if not accept_plain and await self._is_unused(segments):
                return None
            found = await self._plain(segments, report, accept=accept_plain)
            if found is None:
                return None
            return _Planned(segments, found, await self._objects.sealed(segments, found.content))

        report = await self._passes(plan)
        if not report.problems:
            await self._objects.index.require_sealed(strict=True)
        return report

    async def rotate(self) -> Report:
        """Seal each object again that an older version of the KEK has sealed.

        Raises:
            SealUnavailable, SealBroken, StorageError: see `seal`.
        """
        await self._objects.index.reseal_key()

        async def plan(segments: Segments, report: Report) -> _Planned | None:
            stored = await stored_bytes(self._directory, segments)
            if not is_sealed(stored):
                return None
            if parse_header(stored).version == self._current():
                self._count(stored, report)
                return None
            found = await self._objects.examine(segments)
            return _Planned(segments, found, await self._objects.sealed(segments, found.content))

        return await self._passes(plan)

    async def unseal(self) -> Report:
        """Replace each sealed object by a plain one.

        Raises:
            SealUnavailable, SealBroken, StorageError: see `seal`.
        """
        await self._objects.index.require_sealed(strict=False)

        async def plan(segments: Segments, report: Report) -> _Planned | None:
            del report
            if not is_sealed(await stored_bytes(self._directory, segments)):
                return None
            found = await self._objects.examine(segments)
            return _Planned(segments, found, Prepared(found.content))

        return await self._passes(plan)

    async def verify(self, *, forget: bool = False) -> Report:
        """Unseal every object and compare it with the index; change nothing.

        Args:
            forget: whether entries of the index are removed whose objects do not exist.

        Raises:
            SealUnavailable, SealBroken, StorageError: see `seal`.
        """
        await self._objects.index.prepare()

        async def plan(segments: Segments, report: Report) -> _Planned | None:
            found = await self._objects.examine(segments)
            self._count(found.stored, report)
            return None

        report = await self._passes(plan)
        report.missing = await self._objects.index.count_missing(forget=forget)
        return report

    async def rebuild_index(self) -> int:
        """Build the index again from the sealed objects, all of which are unsealed.

        The caller has decided that they are the newest ones: nothing can prove it.

        Returns:
            Number of sealed objects.

        Raises:
            SealBroken: an object does not authenticate. It is named.
        """
        revisions: dict[str, int] = {}
        for segments in await self._names():
            stored = await stored_bytes(self._directory, segments)
            if is_sealed(stored):
                revision = parse_header(stored).revision
                await self._objects.unsealed(segments, revision, stored)
                revisions["/".join(segments)] = revision
        await self._objects.index.rebuild(revisions)
        return len(revisions)

    async def _passes(self, plan: _Plan) -> Report:
        """Plan and make changes until a pass finds nothing to do.

        The last pass finds what brokers have stored meanwhile that they had prepared before.
        """
        changed = 0
        for _ in range(_PASSES):
            report, is_complete = await self._pass(plan)
            changed, is_last = changed + report.changed, not report.changed
            report.changed = changed
            if is_complete and is_last:
                return report
        raise StorageError("the store changes too fast; try again")

    async def _pass(self, plan: _Plan) -> tuple[Report, bool]:
        names = await self._names()
        report = Report(objects=len(names))
        batch: list[_Planned] = []
        is_complete = True
        for done, segments in enumerate(names):
            self._progress(done, len(names))
            try:
                planned = await plan(segments, report)
            except NotFound:  # deleted meanwhile
                continue
            except SealUnavailable:
                raise
            except StorageError as error:
                path = "/".join(segments)
                text = str(error)
                report.add_problem(text if text.startswith(path) else f"{path} {text}")
                continue
            if planned is None:
                continue
            batch.append(planned)
            if len(batch) >= BATCH or _size(batch) >= BATCH_BYTES:
                is_complete &= await self._replace(batch, report)
                batch = []
        if batch:
            is_complete &= await self._replace(batch, report)
        self._progress(len(names), len(names))
        return report, is_complete

    async def _replace(self, batch: Sequence[_Planned], report: Report) -> bool:
        """Replace files in one change; return whether no broker has changed one meanwhile."""
        done: list[_Planned] = []

        def change() -> Steps[None]:
            done.clear()
            for each in batch:
                with suppress(Changed):
                    require_same(self._directory, each.segments, each.found)
                    done.append(each)
            changes: Mapping[Segments, Prepared | None] = {
                each.segments: each.prepared if each.prepared.revision else None for each in done
            }

            def write() -> Steps[None]:
                for each in done:
                    yield from self._directory.replacing(each.segments, each.prepared.stored)

            if done:
                yield from self._objects.changing(changes, write)

        await exclusively(self._directory, change)
        report.changed += len(done)
        return len(done) == len(batch)

    async def _is_unused(self, segments: Segments) -> bool:
        """Return whether these are plain token keys: brokers replace them and never use them.

        An attacker may have put them there, and would be able to sign tokens if they were sealed.
        """
        if segments != TOKEN_KEYS:
            return False
        return not is_sealed(await stored_bytes(self._directory, segments))

    async def _plain(self, segments: Segments, report: Report, *, accept: bool) -> Found | None:
        """Return an object that is plain and may be sealed; None if it is sealed.

        Raises:
            SealBroken: it must have been sealed before, and `accept` is not given.
        """
        if await pools.read(self._directory.is_link, segments):
            raise SealBroken("is a link; put a regular file in its place")
        stored = await stored_bytes(self._directory, segments)
        if not (accept and not is_sealed(stored)):
            stored, revision = await self._objects.stored(segments)
            if revision:
                self._count(stored, report)
                return None
        return Found(stored, stored)

    @staticmethod
    def _count(stored: bytes, report: Report) -> None:
        """Count a sealed object by the version of the KEK."""
        if is_sealed(stored):
            report.sealed += 1
            version = parse_header(stored).version
            report.versions[version] = report.versions.get(version, 0) + 1

    async def _names(self) -> list[Segments]:
        """Return the names of all objects, in the order of the index: a batch has few shards."""

        def names() -> list[Segments]:
            found = [entry.segments for entry in objects_in(self._directory)]
            return sorted(found, key=lambda segments: key_of("/".join(segments)))

        return await pools.walk(names)


def _size(batch: Sequence[_Planned]) -> int:
    return sum(len(each.found.stored) for each in batch)
