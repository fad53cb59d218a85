"""A guest worker: a process that serves guests on the sockets of the operator process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from verdictd_py.config import Settings
from verdictd_py.daemon.clock import Clock, utc_now
from verdictd_py.daemon.database import SharedStore
from verdictd_py.daemon.foundation import (
    Foundation,
    GuestListeners,
    Records,
    connections_of,
)
from verdictd_py.daemon.health import Check, Health, check_descriptors
from verdictd_py.daemon.kbs import KbsIdentity
from verdictd_py.daemon.measuring import ProcessMetrics
from verdictd_py.daemon.process import (
    EXIT_FAILED,
    EXIT_STOPPED,
    count_floods,
    end_with_parent,
    end_within,
    favour_event_loop,
)
from verdictd_py.daemon.release import release
from verdictd_py.daemon.reload import reload_all, restrict_all
from verdictd_py.daemon.stacks import dump_tasks
from verdictd_py.daemon.supervisor import Supervisor, Work
from verdictd_py.daemon.tracing import Tracing
from verdictd_py.daemon.workers import messages
from verdictd_py.daemon.workers.changes import ForwardedChanges
from verdictd_py.daemon.workers.channel import Channel
from verdictd_py.daemon.workers.shared import WorkerShare
from verdictd_py.daemon.workers.start import Start
from verdictd_py.domain.events import DaemonReady, WarningReadiness
from verdictd_py.domain.eventtypes import Event
from verdictd_py.encoding import JsonValue
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.log import LogEvents
from verdictd_py.events.writer import LogWriter
from verdictd_py.listeners.errors import exception_handler
from verdictd_py.listeners.listener import Listener
from verdictd_py.listeners.reread import Reloadable
from verdictd_py.policy import instances
from verdictd_py.ports import Events
from verdictd_py.storage.directory import Directory
from verdictd_py.tees.registry import known_tees

STALE_SECONDS: Final = 60.0
"""Age at which the state of the broker that the operator process last sent counts as a failure."""

ABANDON_SECONDS: Final = 2.0
"""Time for a worker to end after the operator process has ended or has closed the channel."""

_STANDARD_ERROR: Final = 2
_IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that terminals and service managers send to all processes of a service; the operator
process receives them too, and tells the workers what to do."""


class GuestWorker:
    """The parts of a worker, built and not started.

    Args:
        start: what the operator process has sent.
        channel: connects this process to the operator process.
        log: the log.
        on_failure: called when a listener can no longer accept connections.

    Raises:
        ConfigError: a setting cannot be used; the message has the cause and the remedy.
    """

    def __init__(
        self,
        start: Start,
        channel: Channel,
        log: Events,
        clock: Clock = utc_now,
        *,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        settings, unsafe = start.settings, start.unsafe
        tees = known_tees(settings.verifier)
        self.metrics = ProcessMetrics.of_worker(start.descriptors, start.number, tees)
        if self.metrics is not None:
            log = self.metrics.events(log)
        meter = None if self.metrics is None else self.metrics.meter
        self._tracing = tracing = Tracing.of(settings, log)
        if tracing is not None:
            log, meter = tracing.events, tracing.meter(meter)
        self._changes = ForwardedChanges()
        self._share = share = WorkerShare.of(start, channel)
        records = Records.of(settings, unsafe, log, writer=f"-worker{start.number}")
        self._shared = shared = SharedStore.of(settings, unsafe, records.noted, worker=True)
        self._base = base = Foundation.lay(
            settings,
            unsafe,
            records,
            Directory.open(settings.data_dir, unsafe_writable=unsafe.unsafe_writable_files),
            tees=tees,
            connections=connections_of(settings, guests=True, operators=False),
            changes=self._changes,
            clock=clock,
            elsewhere=partial(messages.fetch_collateral, channel),
            judgements=share.judgements,
            meter=meter,
            shared=shared,
        )
        if self.metrics is not None:
            self.metrics.watch_audit(base.audit)
        share.connect(base.cases.connected)
        self._changes.forward = partial(channel.notify, "changed")
        self._examine = asyncio.Event()
        base.cases.digests.changed = partial(self._note_changed_file, channel)
        self._parts: Mapping[str, bool] = {}
        self._parts_at = 0.0
        checks: dict[str, Check] = {
            "audit": base.audit.examine,
            "collateral": base.collateral.problem,
            "descriptors": check_descriptors,
        }
        if base.sealing is not None:
            checks["seal"] = base.sealing.problem
        if shared is not None:
            checks |= shared.checks()
        build = GuestListeners(base, _adopted(start.sockets), share.census, share.sessions)
        http = build.kbs(_identity(start, clock), checks.setdefault)
        self._closing = () if base.sealing is None else (base.sealing.sealer.close,)
        if shared is not None:
            self._closing = (shared.close,)
        self._listeners: tuple[Listener, ...] = (build.attested(),)
        self._files: Sequence[Reloadable] = ()
        if http is not None:
            self._listeners += (http,)
            self._files = http.files
            http.parts = self.parts
            if self.metrics is not None and http.session_counts is not None:
                self.metrics.watch_sessions(http.session_counts)
        self._health = Health(checks, _WithoutReadiness(base.audit))
        if shared is not None:
            shared.objects.flipped.append(self._health.request)
        self.supervisor = Supervisor(base.audit, on_failure=on_failure)

    async def start(self) -> str:
        """Serve guests; return the path of the audit file.

        Raises:
            ConfigError: the audit trail cannot be written, or a listener cannot start.
        """
        base = self._base
        base.audit.open()
        if self._shared is not None:
            await self._shared.start()
        await base.deciding.prepare()
        await base.cases.prepare()
        await self._health.examine()
        self._share.census.start()
        for listener in self._listeners:
            listener.bind()
            await listener.start(self._run)
        for work in (
            *base.collateral.background,
            *self._share.background,
            Work("check health", self._health.keep_examined),
            Work("prepare policies", self._keep_prepared),
            Work("appraise connected guests", base.cases.connected.keep_appraised),
            Work("count omitted events", base.audit.keep_counting),
            *(() if self.metrics is None else self.metrics.background),
            *(() if self._shared is None else self._shared.background),
        ):
            self.supervisor.start(work)
        return base.audit.state[0]

    def problems(self) -> dict[str, JsonValue]:
        """Return the problems that were last found, by part of the broker."""
        return dict(self._health.problems)

    def parts(self) -> dict[str, bool]:
        """Return whether each part of the whole broker is usable, for `/readyz`."""
        is_current = asyncio.get_running_loop().time() - self._parts_at < STALE_SECONDS
        return {**self._parts, "operators": is_current and bool(self._parts)}

    def note_parts(self, parts: Mapping[str, bool]) -> None:
        """Note the state of the broker's parts, as the operator process has examined them."""
        self._parts, self._parts_at = parts, asyncio.get_running_loop().time()

    def note_change(self) -> None:
        """Note that another process has announced a change."""
        self._changes.receive()
        self._examine.set()

    async def restrict(self) -> None:
        """Put in force only that rights were removed from the operator's files."""
        await restrict_all(self._files)

    async def reload(self, settings: Settings) -> Event:
        """Put the limits of new settings in force, and read the operator's files again."""
        self._base.apply(settings, connections_of(settings, guests=True, operators=False))
        report = await reload_all(self._files, self._base.deciding.prepare)
        self._changes.receive()
        self._examine.set()
        return report

    async def stop(self, seconds: float) -> tuple[str, int, str]:
        """Finish requests in flight, and close everything; return the last state of the trail."""
        await release(
            self.supervisor,
            self._listeners,
            (
                self._base.close,
                *self._closing,
                *(() if self._tracing is None else (self._tracing.close,)),
            ),
            self._base.audit,
            seconds=seconds,
        )
        return self._base.audit.close()

    def abandon(self) -> None:
        """Write what the trail still has to write: the operator process has ended."""
        self._base.audit.close()

    def _run(
        self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False
    ) -> asyncio.Task[None]:
        return self.supervisor.start(Work(name, run, essential))

    def _note_changed_file(self, channel: Channel) -> None:
        self._examine.set()
        channel.notify("examine")

    async def _keep_prepared(self) -> None:
        """Compile what decides now after each change, so that the next guest need not wait."""
        while True:
            await self._examine.wait()
            self._examine.clear()
            await self._base.cases.prepare()


async def run(connected: socket.socket) -> int:
    """Run a worker until the operator process closes the channel; return the exit status.

    Args:
        connected: the worker's end of the channel.
    """
    end_with_parent(ABANDON_SECONDS)
    start = Start.receive(connected)
    writer = LogWriter(_STANDARD_ERROR)
    settings = start.settings
    log = LogEvents(
        writer.write, settings.log_format, level=settings.log_level, worker=start.number
    )
    writer.on_dropped = log.report_dropped
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler(log))
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        loop.add_signal_handler(number, dump_tasks, log)
    served = _Served(start, await Channel.open(connected, log), log, writer)
    try:
        await served.channel.wait_closed()
    finally:
        end_within(ABANDON_SECONDS)
        served.abandon()
        log.end_minute()
        writer.close()
    return EXIT_STOPPED if served.drained else EXIT_FAILED


class _Served:
    """A worker that does what the operator process requests.

    Attributes:
        drained: whether the operator process has had the worker stop.
    """

    def __init__(self, start: Start, channel: Channel, log: LogEvents, writer: LogWriter) -> None:
        self._writer = writer
        self._start_message = start
        self._log = log
        self._worker: GuestWorker | None = None
        self.channel = channel
        self.drained = False
        for name, handler in {
            "start": self._start,
            "ping": self._ping,
            "parts": self._parts,
            "changed": self._changed,
            "restrict": self._restrict,
            "reload": self._reload,
            "tasks": self._tasks,
            "drain": self._drain,
        }.items():
            channel.handle(name, handler)

    def abandon(self) -> None:
        if self._worker is not None and not self.drained:
            self._worker.abandon()

    async def _start(self, body: JsonValue) -> JsonValue:
        del body
        await asyncio.to_thread(instances.prepare, lambda reason: None)  # noqa: ARG005  # compiled
        worker = GuestWorker(
            self._start_message, self.channel, self._log, on_failure=self.channel.close
        )
        if worker.metrics is not None:
            worker.metrics.watch_log(lambda: self._writer.queue_length)
        file = await worker.start()
        worker.supervisor.start(Work("count floods in the log", partial(count_floods, self._log)))
        self._worker = worker
        favour_event_loop()
        return file

    async def _ping(self, body: JsonValue) -> JsonValue:
        del body
        return {} if self._worker is None else self._worker.problems()

    async def _parts(self, body: JsonValue) -> JsonValue:
        if self._worker is not None:
            self._worker.note_parts(cast("dict[str, bool]", body))
        return None

    async def _changed(self, body: JsonValue) -> JsonValue:
        del body
        if self._worker is not None:
            self._worker.note_change()
        return None

    async def _restrict(self, body: JsonValue) -> JsonValue:
        del body
        if self._worker is not None:
            await self._worker.restrict()
        return None

    async def _reload(self, body: JsonValue) -> JsonValue:
        if self._worker is None:
            return {"changed": [], "problems": []}
        settings = Settings.imported(cast("dict[str, Any]", body))
        report = (await self._worker.reload(settings)).rendered()
        return {
            "changed": cast("JsonValue", report["changed"]),
            "problems": cast("JsonValue", report.get("problems", [])),
        }

    async def _tasks(self, body: JsonValue) -> JsonValue:
        del body
        dump_tasks(self._log)
        return None

    async def _drain(self, body: JsonValue) -> JsonValue:
        self.drained = True
        if self._worker is None:
            return ["", 0, ""]
        return list(await self._worker.stop(float(cast("float", body))))


class _WithoutReadiness:
    """Events without those of the readiness, which the operator process records for all."""

    def __init__(self, audit: AuditTrail) -> None:
        self._audit = audit

    def record(self, event: Event) -> None:
        if not isinstance(event, WarningReadiness | DaemonReady):
            self._audit.record(event)

    async def commit(self, *events: Event) -> None:
        await self._audit.commit(*events)


def _adopted(descriptors: Mapping[str, int]) -> dict[str, socket.socket]:
    """Return the inherited listening sockets by name."""
    adopted = {name: socket.socket(fileno=number) for name, number in descriptors.items()}
    for listening in adopted.values():
        listening.set_inheritable(False)  # its only form
    return adopted


def _identity(start: Start, clock: Clock) -> KbsIdentity | None:
    if start.kbs is None:
        return None
    return KbsIdentity.imported(start.kbs, start.settings, start.unsafe, clock)
