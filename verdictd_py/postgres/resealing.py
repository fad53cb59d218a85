"""Rotation of the key-encryption key of a database, and verification of all of its objects.

An object that is sealed again has the same revision: its content is the same. Brokers may change
objects meanwhile, and every instant may be the last one: each object is replaced by one statement,
which changes nothing if the object has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.formats.sealed import parse_header
from verdictd_py.postgres.database import Raced
from verdictd_py.postgres.objects import Objects
from verdictd_py.storage.resealing import Progress, Report

_PASSES: Final = 5


class DatabaseResealing:
    """Work on the objects of one database; see `storage.resealing.Resealing`.

    Args:
        current: returns the newest version of the key.
        progress: called with the numbers of objects that are done and of all.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        current: Callable[[], str],
        progress: Progress = lambda done, total: None,  # noqa: ARG005  # not displayed
    ) -> None:
        self._objects = objects
        self._current = current
        self._progress = progress

    async def rotate(self) -> Report:
        """Seal every object again that the newest version of the key has not sealed.

        Raises:
            StorageError: the database cannot be used.
        """
        changed = 0
        for _ in range(_PASSES):
            report = await self._pass()
            changed += report.changed
            if not report.changed:
                break
        report.changed = changed
        return report

    async def _pass(self) -> Report:
        report = Report()
        paths = await self._objects.paths("")
        for number, path in enumerate(paths):
            self._progress(number, len(paths))
            report.objects += 1
            try:
                await self._rotate(path, report)
            except StorageError as error:
                report.add_problem(f"{path} is not sealed again: {error}")
        report.changed += await self._objects.reseal_ledger_key(self._current())
        return report

    async def _rotate(self, path: str, report: Report) -> None:
        entry, sealed = await self._objects.row_of(path)
        if entry is None or sealed is None:
            return
        if parse_header(sealed).version == self._current():
            report.sealed += 1
            return
        with suppress(Raced):
            report.changed += await self._objects.reseal(entry, sealed)

    async def verify(self, *, forget: bool = False) -> Report:
        """Unseal every object, and compare it with the ledger.

        Args:
            forget: not possible: an object that does not exist looks the same as a removed row.

        Raises:
            ConfigError: `forget` is requested.
            StorageError: the database cannot be used, or its ledger is not valid.
        """
        if forget:
            raise ConfigError("--forget has no effect on a database; remove it")
        report = Report()
        await self._objects.confirm()
        paths = await self._objects.paths("")
        for number, path in enumerate(paths):
            self._progress(number, len(paths))
            report.objects += 1
            try:
                await self._objects.read(path)
                report.sealed += 1
            except StorageError as error:
                report.add_problem(str(error))
        return report
