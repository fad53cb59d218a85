"""Construction of a daemon from its settings; no other module connects concrete parts.

A new listener is one class (see `listeners.listener`) and one line in `candidates` below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import ModuleType

import grpc

from verdictd_py._generated import clientapi_pb2, keyprovider_pb2, verdictd_v1_pb2
from verdictd_py.broker.everyguest import GuestDirectory
from verdictd_py.broker.historykeeper import HistoryKeeper
from verdictd_py.broker.revisions import Revisions
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.about import About
from verdictd_py.daemon.clock import Clock, utc_now
from verdictd_py.daemon.console import Console
from verdictd_py.daemon.contradictions import refuse_disclosure
from verdictd_py.daemon.daemon import Daemon, Parts
from verdictd_py.daemon.database import NotedHeads, SharedStore
from verdictd_py.daemon.descriptors import Connections
from verdictd_py.daemon.foundation import Foundation, GuestListeners, Records, connections_of
from verdictd_py.daemon.guestside import GuestSide, OwnGuests, SeparateGuests
from verdictd_py.daemon.health import (
    POLICIES,
    Check,
    Health,
    check_descriptors,
    directory_check,
    last_problem,
    space_check,
)
from verdictd_py.daemon.kbs import kbs_identity
from verdictd_py.daemon.measuring import BrokerMetrics
from verdictd_py.daemon.readiness import Probe, Readiness
from verdictd_py.daemon.readings import Sources
from verdictd_py.daemon.reload import LiveSettings
from verdictd_py.daemon.supervisor import Work
from verdictd_py.daemon.systemd import passed_sockets
from verdictd_py.daemon.tracing import Tracing
from verdictd_py.daemon.workers.changes import ForwardedChanges
from verdictd_py.daemon.workers.cores import worker_count
from verdictd_py.listeners import management, management_v1
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.grpc_listener import GrpcListener, Register
from verdictd_py.listeners.kbs.certificates import ServerCertificate, first_end
from verdictd_py.listeners.keyprovider import KeyProviderService
from verdictd_py.listeners.listener import Listener
from verdictd_py.listeners.protection import Protection, protection
from verdictd_py.listeners.shares import Shares
from verdictd_py.ports import Events, Tees
from verdictd_py.ports.history import HistoryStore
from verdictd_py.ports.tees import Documents
from verdictd_py.stages import Meter
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.inspection import DIRECTORIES
from verdictd_py.storage.layout import prepare, share_audit
from verdictd_py.storage.presence import Presence
from verdictd_py.storage.sqlite_history import SqliteHistory
from verdictd_py.tees.registry import known_tees


def build_daemon(
    settings: Settings,
    unsafe: Unsafe,
    events: Events,
    clock: Clock = utc_now,
    *,
    on_failure: Callable[[], None] = lambda: None,
    reread: Callable[[], Settings] | None = None,
) -> Daemon:
    """Check every setting, open the data directory, and build a daemon that is not started.

    Args:
        events: the log.
        on_failure: see `Daemon`.
        reread: reads the settings again on SIGHUP; None for settings that do not change.

    Raises:
        ConfigError: a setting cannot be used; the message has the cause and the remedy.
    """
    refuse_disclosure(settings, unsafe)
    count = worker_count(settings.workers)
    tees = known_tees(settings.verifier)
    observed = _Observed.of(settings, tees, count, events)
    metrics, tracing = observed.metrics, observed.tracing
    records = Records.of(settings, unsafe, observed.events)
    records.deciding.require_own()
    protected = protection(settings, unsafe)
    connections = _connections(settings, separate=count > 1)
    sample = unsafe.insecure_sample_verifier
    documents = [tee.documents for tee in tees if tee.proves or sample]
    directory, inspection = prepare(
        settings.data_dir,
        documents,
        unsafe_writable=unsafe.unsafe_writable_files,
        sealed=settings.seal is not None,
    )
    share_audit(settings.data_dir, settings.audit_mode, settings.audit_group)
    shared = _shared_store(settings, unsafe, records.noted, documents)
    changes = ForwardedChanges()
    base = Foundation.lay(
        settings,
        unsafe,
        records,
        directory,
        tees=tees,
        connections=connections,
        changes=changes,
        clock=clock,
        meter=observed.meter,
        shared=shared,
    )
    presence = Presence(directory, clock)
    about = About(
        settings,
        unsafe,
        presence=presence,
        verifiers=base.cases.verifiers.names,
        inspection=inspection,
        limits_warning=connections.warning,
        started_at=clock(),
    )
    probes: dict[str, Probe] = {
        "data directory": partial(asyncio.to_thread, directory.fault, *DIRECTORIES)
    }
    guests = _guest_side(base, count, changes, probes, metrics)
    address = settings.status_address
    status = None if metrics is None or address is None else metrics.listener(address, base.audit)
    operators = _OperatorListeners(base, protected, guests.connected)
    services = partial(operators.register_management, about)
    console = Console.build(
        settings, protected, services, tees, base.audit, base.collateral, metrics
    )
    candidates: tuple[Listener | None, ...] = (
        guests.attested,
        operators.client_api(services, console),
        operators.keyprovider_api(),
        guests.kbs,
        status,
        console.listener,
    )
    listeners = tuple(listener for listener in candidates if listener is not None)
    publish = [listener.set_ready for listener in listeners if isinstance(listener, GrpcListener)]
    readiness = Readiness(base.cases, base.audit, publish=publish, probes=probes)
    revisions = base.cases.administration.revisions
    live = _Live(base, guests, settings)
    files = () if reread is None else (LiveSettings(settings, reread, live.apply),)
    health = Health(
        guests.checks(_checks(base, readiness, probes)),
        base.audit,
        publish=[*publish, *guests.publish],
    )
    _connect(base, readiness, health)
    guests.connect(readiness, health, lambda: live.settings)
    about.listeners, about.readiness, about.health = listeners, readiness, health
    about.workers = guests.workers
    history = HistoryKeeper(
        base.cases.history,
        _history_store(base),
        books=(base.cases.history.uses, revisions),
    )
    if metrics is not None:
        metrics.own.watch_audit(base.audit)
        metrics.connect(_sources(base, guests, listeners, protected, health, clock()))
    parts = Parts(
        events=base.audit,
        audit=base.audit,
        listeners=listeners,
        background=(
            *base.collateral.background,
            Work("check readiness", readiness.keep_fresh),
            Work("check health", health.keep_examined),
            Work("appraise connected guests", base.cases.connected.keep_appraised),
            Work("store the history", history.keep),
            Work("store texts that decide", revisions.keep_observing),
            Work("count omitted events", base.audit.keep_counting),
            Work("detect other daemons", partial(presence.announce, base.audit)),
            Work("examine the data directory", partial(inspection.complete, base.audit)),
            *(() if metrics is None else metrics.background),
            *_sealing_work(base, directory),
            *(() if shared is None else shared.background),
        ),
        readiness=readiness,
        health=health,
        about=about,
        closing=(
            base.close,
            guests.close,
            presence.close,
            history.close if shared is None else partial(shared.close, history.close),
            *(() if base.sealing is None else (base.sealing.sealer.close,)),
            *(() if status is None else (status.close,)),
            *(() if tracing is None else (tracing.close,)),
            *(() if metrics is None else (metrics.close,)),
        ),
        limits=base.limits,
        deciding=base.deciding,
        reconsider=changes.announce,
        files=(*protected.files, *guests.files, *files),
        workers=guests.workers,
        settings=lambda: live.settings,
        metrics=None if metrics is None else metrics.own,
        shared=shared,
    )
    return Daemon(parts, on_failure=on_failure)


@dataclass(frozen=True, slots=True)
class _Observed:
    """What observes the broker: metrics and traces, each None if the settings do not ask for it.

    Attributes:
        events: passes each event to both, then to the log.
        meter: measures connections; None if nothing is measured.
    """

    metrics: BrokerMetrics | None
    tracing: Tracing | None
    events: Events
    meter: Meter | None

    @classmethod
    def of(cls, settings: Settings, tees: Tees, count: int, events: Events) -> _Observed:
        """Build it for that number of workers, in front of the log.

        Raises:
            ConfigError: a setting cannot be used; the message has the cause and the remedy.
        """
        metrics, meter = None, None
        if settings.status is not None or settings.console is not None:
            metrics = BrokerMetrics(tees, count if count > 1 else 0)
            events, meter = metrics.events(events), metrics.own.meter
        tracing = Tracing.of(settings, events)
        if tracing is not None:
            events, meter = tracing.events, tracing.meter(meter)
        return cls(metrics, tracing, events, meter)


def _documents_changed(readiness: Readiness, revisions: Revisions) -> None:
    """Have documents that have changed examined, and their texts stored."""
    readiness.request()
    revisions.request()


def _guest_side(
    base: Foundation,
    count: int,
    changes: ForwardedChanges,
    probes: dict[str, Probe],
    metrics: BrokerMetrics | None,
) -> GuestSide:
    """Build what serves guests: listeners of this process, or workers.

    Args:
        probes: receives those of the storage of the listeners.
    """
    passed = passed_sockets()
    identity = kbs_identity(base.settings, base.unsafe, base.clock, passed.get("kbs_http"))
    if count > 1:
        separate = SeparateGuests.build(base, count, changes, identity, passed)
        if metrics is not None:
            separate.share.descriptors |= metrics.descriptors
            separate.workers.ended.append(metrics.worker_ended)
        return separate
    build = GuestListeners(base, passed)
    kbs = build.kbs(identity, probes.setdefault)
    if metrics is not None and kbs is not None and kbs.session_counts is not None:
        metrics.own.watch_sessions(kbs.session_counts)
    return OwnGuests(build.attested(), kbs, base.cases.connected)


def _sources(  # the parts that gauges are read from
    base: Foundation,
    guests: GuestSide,
    listeners: Sequence[Listener],
    protected: Protection,
    health: Health,
    started_at: datetime,
) -> Sources:
    """Return what the gauges of the metrics are read from."""
    workers = guests.workers

    def connections() -> dict[str, Mapping[str, int]]:
        own = {
            listener.name: shares.states
            for listener in listeners
            if isinstance(shares := getattr(listener, "shares", None), Shares)
        }
        return {**guests.connections(), **own}

    def limits() -> dict[str, int]:
        return {
            name: base.limits.connections
            for name in ("listen", "kbs_http")
            if name == "listen" or guests.kbs is not None
        }

    def certificates() -> dict[str, datetime]:
        ends = guests.certificates()
        if protected.tls is not None:
            own = ServerCertificate.read(protected.tls.current.certificate)
            if own is not None:
                ends["client_api"] = own.not_after
        return ends

    return Sources(
        started_at=started_at,
        health=health,
        connections=connections,
        limits=limits,
        workers=lambda: (0, 0) if workers is None else (workers.count, len(workers.numbers)),
        collateral=lambda: base.collateral.validity,
        certificates=certificates,
        client_ca=lambda: None if protected.tls is None else first_end(protected.tls.current.ca),
        unsafe=len(base.unsafe.chosen()),
    )


def _checks(
    base: Foundation, readiness: Readiness, probes: Mapping[str, Probe]
) -> dict[str, Check]:
    """Return the checks of the health of this process."""
    data = base.settings.data_dir
    checks: dict[str, Check] = {
        "audit": last_problem(base.audit.examine, directory_check(data / "audit", writable=True)),
        POLICIES: readiness.problem,
        "keys": directory_check(data / "keys", writable=False),
        "collateral": base.collateral.problem,
        "disk": space_check(_written(base.settings)),
        "descriptors": check_descriptors,
    }
    if base.sealing is not None:
        checks["seal"] = base.sealing.problem
    if base.shared is not None:
        checks |= base.shared.checks()
    if "sessions" in probes:
        checks["sessions"] = probes["sessions"]
    return checks


def _connect(base: Foundation, readiness: Readiness, health: Health) -> None:
    """Have readiness and health examined again when something that they depend on has changed."""
    revisions = base.cases.administration.revisions
    base.cases.digests.changed = partial(_documents_changed, readiness, revisions)
    readiness.changed = health.request
    if base.shared is not None:
        base.shared.objects.flipped.append(health.request)


def _shared_store(
    settings: Settings, unsafe: Unsafe, noted: NotedHeads, documents: Iterable[Documents]
) -> SharedStore | None:
    """Return the database of `--store`, which gets the defaults that are missing."""
    shared = SharedStore.of(settings, unsafe, noted)
    if shared is not None:
        shared.write_defaults(documents)
    return shared


def _history_store(base: Foundation) -> HistoryStore:
    """Return the store of the history."""
    if base.shared is not None:
        return base.shared.history(base.audit)
    return SqliteHistory(base.settings.data_dir / "history" / "appraisals.sqlite", base.audit)


def _sealing_work(base: Foundation, directory: Directory) -> tuple[Work, ...]:
    """Return the work that prepares a sealed directory."""
    sealing = base.sealing
    if sealing is None:
        return ()
    return (Work("prepare sealed objects", partial(sealing.prepare, directory, base.audit)),)


class _Live:
    """The settings in force, whose limits a reload changes.

    Attributes:
        settings: the settings in force.
    """

    def __init__(self, base: Foundation, guests: GuestSide, settings: Settings) -> None:
        self._base = base
        self._separate = guests.workers is not None
        self.settings = settings

    def apply(self, new: Settings) -> None:
        """Put the limits of new settings in force in this process."""
        self._base.apply(new, _connections(new, separate=self._separate))
        self.settings = new


@dataclass(frozen=True, slots=True)
class _OperatorListeners:
    """Builder of the listeners of operators; None for those without an address in the settings."""

    base: Foundation
    protected: Protection
    connected: GuestDirectory

    def register_management(
        self, about: About, server: grpc.aio.Server, rules: CallerRules
    ) -> None:
        """Add the services of the management API to a server."""
        administration = self.base.cases.administration
        management.register(server, administration, rules, self.base.audit)
        management_v1.register(
            server,
            administration,
            self.base.cases.history,
            self.base.cases.explainer,
            self.connected,
            about.status,
            rules,
            self.base.audit,
        )

    def client_api(self, register_management: Register, console: Console) -> Listener:
        def register(server: grpc.aio.Server, rules: CallerRules) -> None:
            self._register_keyprovider(server, rules)
            register_management(server, rules)
            console.register(server, rules)

        return GrpcListener(
            "client_api",
            self.base.settings.client_api_addresses,
            register,
            events=self.base.audit,
            connections=self.base.connections.grpc,
            described=_names(keyprovider_pb2, clientapi_pb2, verdictd_v1_pb2),
            rules=self.protected.rules,
            tls=self.protected.tls,
            meter=self.base.meter,
        )

    def keyprovider_api(self) -> Listener | None:
        address = self.base.settings.keyprovider_api_address
        if address is None:
            return None
        return GrpcListener(
            "keyprovider_api",
            [address],
            self._register_keyprovider,
            events=self.base.audit,
            connections=self.base.connections.grpc,
            described=_names(keyprovider_pb2),
            rules=self.protected.rules,
            tls=self.protected.tls,
            meter=self.base.meter,
        )

    def _register_keyprovider(self, server: grpc.aio.Server, rules: CallerRules) -> None:
        provider = self.base.settings.keyprovider_name
        service = KeyProviderService(
            self.base.cases.wrapper, rules, self.base.audit, provider=provider
        )
        service.register(server)


def _written(settings: Settings) -> dict[str, Path]:
    """Return the directories that the broker writes, by a name for operators."""
    written = {f"{name}/": settings.data_dir / name for name in DIRECTORIES}
    if settings.kbs_sessions_file is not None:
        written["the directory of --kbs-sessions"] = settings.kbs_sessions_file.parent
    return {"the data directory": settings.data_dir, **written}


def _connections(settings: Settings, *, separate: bool) -> Connections:
    """Divide the descriptors of this process, and of a worker if guests have separate processes."""
    if not separate:
        return connections_of(settings, guests=True, operators=True)
    # This process needs more than a worker: its refusal names what is enough for both.
    own = connections_of(settings, guests=False, operators=True)
    workers = connections_of(settings, guests=True, operators=False)
    return Connections(workers.guests, own.grpc, workers.warning or own.warning)


def _names(*modules: ModuleType) -> tuple[str, ...]:
    """Return the full names of the services in generated modules."""
    return tuple(
        service.full_name
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
    )
