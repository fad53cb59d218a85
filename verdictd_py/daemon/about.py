"""Reports of the daemon about itself: at its start, and in answer to status requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from verdictd_py import __version__
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.health import POLICIES, Health
from verdictd_py.daemon.readiness import Readiness, Standing, not_served
from verdictd_py.daemon.workers.pool import Workers
from verdictd_py.domain.events import (
    DaemonStarted,
    ListenerStarted,
    UnsafeOption,
    WarningLimits,
    WarningStorage,
)
from verdictd_py.listeners.listener import Listener
from verdictd_py.listeners.management_v1 import DaemonStatus
from verdictd_py.ports import Events
from verdictd_py.storage.inspection import Inspection
from verdictd_py.storage.presence import Presence


class About:
    """Description of the daemon.

    Args:
        presence: detects other daemons on the data directory.
        verifiers: names of the verifiers.
        inspection: of the data directory, with its warnings.
        limits_warning: why limits are lower than the settings; empty if they are not.

    Attributes:
        listeners: the daemon's listeners. They are set after construction, because one of
            them, the client API, reports this description.
        readiness, health: of the daemon, set likewise.
        workers: the guest workers, set likewise; None without.
    """

    listeners: Sequence[Listener]
    readiness: Readiness
    health: Health

    def __init__(
        self,
        settings: Settings,
        unsafe: Unsafe,
        *,
        presence: Presence,
        verifiers: tuple[str, ...],
        inspection: Inspection,
        limits_warning: str = "",
        started_at: datetime,
    ) -> None:
        self._settings = settings
        self._unsafe = unsafe
        self._presence = presence
        self._verifiers = verifiers
        self._inspection = inspection
        self._limits_warning = limits_warning
        self._started_at = started_at
        self.listeners = ()
        self.workers: Workers | None = None

    def warn(self, events: Events) -> None:
        """Record every unsafe option, defects of the data directory, and lowered limits."""
        for flag in self._unsafe.chosen():
            events.record(UnsafeOption(flag=flag))
        for warning in self._inspection.warnings:
            events.record(WarningStorage(reason=warning))
        if self._limits_warning:
            events.record(WarningLimits(reason=self._limits_warning))

    def announce(self, events: Events) -> None:
        """Record that the daemon serves its listeners."""
        endpoints = self._endpoints()
        for name, endpoint in endpoints.items():
            events.record(ListenerStarted(name=name, endpoint=endpoint))
        events.record(
            DaemonStarted(
                version=__version__,
                listen=endpoints.get("listen", ""),
                client_api=endpoints.get("client_api", ""),
                keyprovider_api=endpoints.get("keyprovider_api"),
                kbs_http=endpoints.get("kbs_http"),
                verifiers=self._verifiers,
                attester=self._settings.attester,
                data_dir=str(self._settings.data_dir),
                workers=None if self.workers is None else self.workers.count,
            )
        )

    def _problems(self, standing: Standing) -> tuple[str, ...]:
        """Return every problem once: policies are examined now, the rest some seconds ago."""
        health = self.health.problems.items()
        others = (f"{name}: {problem}" for name, problem in health if name != POLICIES)
        return tuple(dict.fromkeys((*standing.causes, *others)))

    async def status(self) -> DaemonStatus:
        """Describe the daemon as it is now."""
        standing = await self.readiness.refresh()
        closed = sorted(standing.not_served)
        others = await self._presence.others()
        return DaemonStatus(
            version=__version__,
            started_at=self._started_at,
            endpoints=self._endpoints(),
            data_dir=str(self._settings.data_dir),
            verifiers=self._verifiers,
            attester=self._settings.attester,
            unsafe=self._unsafe.chosen(),
            warnings=(
                *self._inspection.warnings,
                *map(str, others),
                *standing.contents.values(),
                *map(not_served, closed),
            ),
            unpinned=standing.open_measurements,
            problems=self._problems(standing),
            workers=0 if self.workers is None else self.workers.count,
            workers_serving=0 if self.workers is None else len(self.workers.numbers),
            unread=tuple(f"{name}: {text}" for name, text in standing.unread.items()),
            store=self._settings.store or "",
            seal=(self._settings.seal or "").partition(":")[0],  # the rest may name a secret
            kbs_sessions=self._settings.kbs_sessions or "",
        )

    def _endpoints(self) -> dict[str, str]:
        return {listener.name: listener.endpoint for listener in self.listeners}
