"""Reload on SIGHUP: the settings that can change while the daemon runs, and its report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from verdictd_py.config import Settings
from verdictd_py.domain.events import DaemonReloaded, WarningReload
from verdictd_py.domain.eventtypes import Event, RenderedValue
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.reread import Reloadable

_REFUSED: Final = (
    "rights that were removed have ended; all else stays in force until SIGHUP is sent after that"
)

LIVE: Final = (
    "max_connections",
    "max_unattested_per_address",
    "max_connections_per_platform",
    "max_new_keys_per_minute",
    "max_evidence_age",
    "handshake_timeout",
    "appraisal_timeout",
    "request_timeout",
    "idle_timeout",
    "drain_timeout",
)
"""Settings that take effect without a restart: the limits."""


class LiveSettings(Reloadable):
    """Settings of the TOML file, read again (see `Reloadable`).

    Args:
        read: reads all settings again: file, environment and command line.
        apply: puts the limits of new settings in force.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings], apply: Callable[[Settings], None]
    ) -> None:
        self._settings = settings
        self._read = read
        self._apply = apply

    def reload(self) -> tuple[str, ...]:
        new, old = self._read(), self._settings
        changed = [
            name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)
        ]
        live = {name: getattr(new, name) for name in changed if name in LIVE}
        if live:
            settings = old.model_copy(update=live)
            self._apply(settings)
            self._settings = settings
        return tuple(
            f"{name}: {getattr(old, name)}, now {getattr(new, name)}"
            if name in LIVE
            else f"{name}: in force after a restart"
            for name in changed
        )


async def reload_all(files: Sequence[Reloadable], prepare: Callable[[], Awaitable[None]]) -> Event:
    """Read everything again, whatever cannot be used; return the event that reports it.

    Rights that were removed end first, whatever prevents the rest.

    Args:
        prepare: does what must be done before anything else may take effect; it raises
            `ConfigError`, or waits, if that is impossible.
    """
    unusable = await restrict_all(files)
    try:
        await prepare()
    except ConfigError as error:
        removed = tuple(change for each in files for change in each.removed())
        return WarningReload(changed=removed, problems=(f"{error} ({_REFUSED})", *unusable))
    changed: list[str] = []
    problems: list[str] = []
    for each in files:
        try:
            changed += await asyncio.to_thread(each.reload)
        except ConfigError as error:
            problems.append(_unchanged(error))
    if problems:
        return WarningReload(changed=tuple(changed), problems=tuple(problems))
    return DaemonReloaded(changed=tuple(changed))


def merged(report: Event, changed: Sequence[str], problems: Sequence[str]) -> Event:
    """Return a report with what other processes have changed, and their problems, once each."""
    before = report.rendered()
    both = tuple(dict.fromkeys((*_texts(before, "changed"), *changed)))
    failed = tuple(dict.fromkeys((*_texts(before, "problems"), *problems)))
    return WarningReload(changed=both, problems=failed) if failed else DaemonReloaded(changed=both)


def _texts(rendered: Mapping[str, RenderedValue], name: str) -> list[str]:
    value = rendered.get(name)
    return value if isinstance(value, list) else []


async def restrict_all(files: Sequence[Reloadable]) -> list[str]:
    """End the rights that were removed, whatever cannot be read; return the problems."""
    problems: list[str] = []
    for each in files:
        try:
            await asyncio.to_thread(each.restrict)
        except ConfigError as error:
            problems.append(_unchanged(error))
    return problems


def _unchanged(error: ConfigError) -> str:
    return f"{error} (the old content stays in force)"
