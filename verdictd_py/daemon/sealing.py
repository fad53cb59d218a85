"""Sealing in a process of the broker: what `--seal` names, its objects, and its health."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from verdictd_py.config import Settings
from verdictd_py.domain.events import SealOpened, SealRefused, WarningStorage
from verdictd_py.errors import AlreadyExists, ConfigError, StorageError
from verdictd_py.ports import Events
from verdictd_py.ports.sealing import SealBroken
from verdictd_py.sealing.datakeys import DataKeys
from verdictd_py.sealing.registry import open_key
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.directory import Directory, Segments
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps
from verdictd_py.storage.layout import IMAGE_DEFAULTS
from verdictd_py.storage.objects import SealedObjects

AGAIN_SECONDS: Final = 10.0
"""Pause before a sealed directory is prepared again that could not be prepared."""

MIGRATING: Final = (
    "plain objects are read as well, until 'verdictd-py store seal' has sealed all of them"
)


@dataclass(frozen=True, slots=True)
class Sealing:
    """Sealer and sealed objects of one process."""

    sealer: EnvelopeSealer
    objects: SealedObjects

    @classmethod
    def of(cls, settings: Settings, directory: Directory, events: Events) -> Sealing | None:
        """Open what `--seal` names; None if the settings name nothing.

        Raises:
            ConfigError: the settings cannot be used; the message has the cause and the remedy.
        """
        sealer = sealer_of(settings)
        if sealer is None:
            return None
        objects = SealedObjects(
            directory, sealer, strict=settings.seal_strict, warn=partial(_warn, events)
        )
        return cls(sealer, objects)

    async def problem(self) -> str:
        """Return why nothing can be unsealed now; empty if everything can be. For the health."""
        try:
            await self.sealer.check()
            await self.objects.index.prepare()
            await self.objects.index.root()
        except StorageError as error:
            return str(error)
        return ""

    async def prepare(self, directory: Directory, events: Events) -> None:
        """Open the index, and write the defaults that are missing; repeat it until it succeeds."""
        while True:
            with suppress(StorageError):  # the health reports it
                await self._prepare(directory, events)
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def _prepare(self, directory: Directory, events: Events) -> None:
        index = self.objects.index
        await self.sealer.check()
        await index.prepare()
        for segments, content in IMAGE_DEFAULTS:
            await self._write_default(directory, segments, content)
        root = await index.root()
        await events.commit(
            SealOpened(generation=root.generation, strict=root.strict, key=self.sealer.key.current)
        )
        if not root.strict:
            events.record(WarningStorage(reason=MIGRATING))

    async def _write_default(
        self, directory: Directory, segments: Segments, content: bytes
    ) -> None:
        """Write a sealed default, unless the file exists or an index names it."""
        path = "/".join(segments)
        if directory.exists(segments) or 0 not in (await self.objects.index.state(path)).revisions:
            return
        prepared = await self.objects.prepare(segments, content)

        def change() -> Steps[None]:
            if directory.exists(segments):
                raise AlreadyExists("exists already")
            yield from self.objects.changing(
                {segments: prepared}, lambda: directory.creating(segments, prepared.stored)
            )

        with suppress(AlreadyExists):
            await exclusively(directory, change)


def sealer_of(settings: Settings) -> EnvelopeSealer | None:
    """Return the sealer of `--seal`; None without it. PostgreSQL and commands use it, too.

    Raises:
        ConfigError: the settings cannot be used; the message has the cause and the remedy.
    """
    refuse_settings_without_effect(settings)
    if settings.seal is None:
        return None
    seconds = settings.seal_cache_seconds
    cache = None if seconds is None else DataKeys(seconds)
    return EnvelopeSealer(open_key(settings.seal), cache)


def refuse_settings_without_effect(settings: Settings) -> None:
    """Refuse settings of the seal without it.

    Raises:
        ConfigError: there is one.
    """
    if settings.seal is None and (settings.seal_strict or settings.seal_cache_seconds is not None):
        raise ConfigError(
            "--seal-strict and --seal-cache-seconds have no effect without --seal; add it, or "
            "remove them"
        )


def _warn(events: Events, path: str, error: StorageError) -> None:
    if isinstance(error, SealBroken):
        events.record(SealRefused(path=path, reason=str(error)))
    else:
        events.record(WarningStorage(reason=str(error)))
