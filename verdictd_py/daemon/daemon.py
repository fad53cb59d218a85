"""Lifecycle of the daemon: bind, start, reload, drain, stop. `composition` builds its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from verdictd_py.config import Settings
from verdictd_py.daemon.about import About
from verdictd_py.daemon.database import SharedStore
from verdictd_py.daemon.decidingfiles import DecidingFiles
from verdictd_py.daemon.health import Health
from verdictd_py.daemon.measuring import ProcessMetrics
from verdictd_py.daemon.readiness import Readiness
from verdictd_py.daemon.release import CLOSE_SECONDS, SLACK_SECONDS, release
from verdictd_py.daemon.reload import merged, reload_all
from verdictd_py.daemon.stacks import dump_tasks
from verdictd_py.daemon.supervisor import Supervisor, Work
from verdictd_py.daemon.workers.pool import DRAIN_SLACK_SECONDS, Workers
from verdictd_py.domain.events import DaemonReloaded, DaemonStopped, DaemonStopping
from verdictd_py.errors import StorageError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Listener
from verdictd_py.listeners.reread import Reloadable
from verdictd_py.ports import Events


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a daemon, built and not started.

    Attributes:
        events: the audit trail, which passes all events on to the log.
        background: work that runs while the daemon runs.
        closing: functions to call, at the same time, after all listeners have stopped.
        limits: limits of the listeners of guests, with the time limit for requests in flight when
            the daemon stops.
        deciding: the files of the settings that determine decisions.
        files: what is read again on SIGHUP.
        reconsider: has connected guests appraised again after a reload.
        workers: the guest workers; None if this process serves guests itself.
        settings: returns the settings in force, for the workers.
        metrics: metrics of this process; None without.
        shared: the database of `--store`; None without.
    """

    events: Events
    audit: AuditTrail
    listeners: tuple[Listener, ...]
    background: tuple[Work, ...]
    readiness: Readiness
    health: Health
    about: About
    closing: tuple[Callable[[], Awaitable[None]], ...]
    limits: Limits
    deciding: DecidingFiles
    reconsider: Callable[[], None]
    files: tuple[Reloadable, ...] = ()
    workers: Workers | None = None
    settings: Callable[[], Settings] = Settings
    metrics: ProcessMetrics | None = None
    shared: SharedStore | None = None


class Daemon:
    """Running broker.

    Args:
        on_failure: called when essential work has failed; the caller then stops the daemon.
    """

    def __init__(self, parts: Parts, *, on_failure: Callable[[], None] = lambda: None) -> None:
        self._parts = parts
        self._events = parts.events
        self._stopped = False
        self._reloaded = True
        self.listeners = parts.listeners
        self.supervisor = Supervisor(parts.events, on_failure=on_failure)

    @property
    def stop_seconds(self) -> float:
        """The longest time that `stop` takes, with the writing of the last lines of the log."""
        # Background work ends, then everything that serves, the rest, the sinks, and the log.
        closing = 3 * CLOSE_SECONDS + self._parts.audit.sinks_close_seconds
        return self._parts.limits.drain + self._slack + closing

    @property
    def status(self) -> str:
        """One line for the service manager: what is served, or which parts have failed."""
        failed = [name for name, usable in self._parts.health.parts.items() if not usable]
        if failed:
            status = f"not ready: {', '.join(failed)} failed; warning.readiness has the cause"
        else:
            status = "serving " + ", ".join(one.endpoint for one in self.listeners)
            if self._parts.workers is not None:
                status += f" with {len(self._parts.workers.numbers)} guest workers"
        return status if self._reloaded else f"{status}; the last reload failed: warning.reload"

    def watch_log(self, length: Callable[[], int]) -> None:
        """Have the metrics measure the queue of the log."""
        if self._parts.metrics is not None:
            self._parts.metrics.watch_log(length)

    def report_status(self, report: Callable[[str], None]) -> None:
        """Have the status reported whenever the health has changed."""
        self._parts.health.changed = lambda: report(self.status)

    def listener(self, name: str) -> Listener:
        """Return the listener of that name.

        Raises:
            KeyError: there is none.
        """
        return {listener.name: listener for listener in self.listeners}[name]

    async def start(self) -> Self:
        """Bind every address, then serve clients on all of them.

        Raises:
            ConfigError: an address cannot be bound, or the audit trail cannot be written.
                Everything that was bound is released.
        """
        try:
            for listener in self.listeners:
                listener.bind()
            self._parts.audit.open()
            if self._parts.shared is not None:
                await self._parts.shared.start()
            await self._parts.deciding.prepare()
            for listener in self.listeners:
                await listener.start(self._run)
            if self._parts.workers is not None:
                await self._parts.workers.start(self._run)
            self._parts.about.warn(self._events)
            await self._parts.readiness.report()
            await self._parts.health.examine()
            self._parts.about.announce(self._events)
        except BaseException:
            await self._release(0)
            raise
        for work in self._parts.background:
            self.supervisor.start(work)
        return self

    async def reload(self) -> None:
        """Read files that the operator may have replaced again; record what changed, in one event.

        A file that cannot be used leaves the old content in force, and does not keep the others
        from being read. While other users may change a file, or a change cannot be recorded, only
        the rights that were removed end.
        """
        # Documents last: checking them may fail or wait for a disk, and a file may end rights.
        if self._parts.workers is not None:
            self._parts.workers.notify_each("restrict")
        report = await reload_all(self._parts.files, self._parts.deciding.prepare)
        if self._parts.workers is not None:
            more = await self._parts.workers.reload(self._parts.settings().exported())
            report = merged(report, *more)
        self._reloaded = isinstance(report, DaemonReloaded)
        try:
            await self._parts.readiness.refresh()
        finally:
            self._parts.reconsider()
            await self._parts.audit.report(report)

    async def stop(self) -> None:
        """Stop accepting, let requests in flight finish, then stop. Later calls do nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._events.record(DaemonStopping())
        await self._parts.health.stop()
        await self._release(self._parts.limits.drain)

    def _run(
        self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False
    ) -> asyncio.Task[None]:
        return self.supervisor.start(Work(name, run, essential))

    def dump_tasks(self, log: Events) -> None:
        """Write to the log where each task waits, of all processes."""
        dump_tasks(log)
        if self._parts.workers is not None:
            self._parts.workers.notify_each("tasks")

    @property
    def _slack(self) -> float:
        """Additional time for everything that serves to stop."""
        return SLACK_SECONDS if self._parts.workers is None else DRAIN_SLACK_SECONDS + CLOSE_SECONDS

    async def _release(self, seconds: float) -> None:
        """Stop all listeners at the same time and with one deadline, then close the rest."""
        workers = () if self._parts.workers is None else (self._parts.workers,)
        await release(
            self.supervisor,
            (*self.listeners, *workers),
            self._parts.closing,
            self._events,
            seconds=seconds,
            slack=self._slack,
        )
        if self._stopped:
            with suppress(StorageError):  # the trail logs its number of failures when it closes
                self._events.record(DaemonStopped())
        self._parts.audit.close()
