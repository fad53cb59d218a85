"""Construction of a daemon from its settings; no other module connects concrete parts.

A new listener is one class (see `listeners.listener`) and one line in `candidates` below.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import ModuleType

import grpc

from verdictd_py._generated import clientapi_pb2, keyprovider_pb2, verdictd_v1_pb2
from verdictd_py.broker.connected import Changes
from verdictd_py.config import DEFAULT_DATA_DIR, UNSAFE_ROOT_OPTION, Settings, Unsafe
from verdictd_py.daemon import descriptors
from verdictd_py.daemon.about import About
from verdictd_py.daemon.clock import Clock, utc_now
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.daemon import Daemon, Parts
from verdictd_py.daemon.decidingfiles import DecidingFiles
from verdictd_py.daemon.descriptors import Connections
from verdictd_py.daemon.health import (
    POLICIES,
    Check,
    Health,
    check_descriptors,
    directory_check,
    space_check,
)
from verdictd_py.daemon.kbs import kbs_listener
from verdictd_py.daemon.readiness import Probe, Readiness
from verdictd_py.daemon.reload import LiveSettings
from verdictd_py.daemon.supervisor import Work
from verdictd_py.daemon.systemd import passed_sockets
from verdictd_py.daemon.usecases import UseCases, use_cases
from verdictd_py.errors import ConfigError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.listeners import management, management_v1
from verdictd_py.listeners.attested import AttestedListener
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.grpc_listener import GrpcListener
from verdictd_py.listeners.identity import RenewedIdentity
from verdictd_py.listeners.kbs import KbsListener
from verdictd_py.listeners.keyprovider import KeyProviderService
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Listener
from verdictd_py.listeners.protection import Protection, protection
from verdictd_py.listeners.proxies import Proxies
from verdictd_py.ports import Events
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.inspection import DIRECTORIES
from verdictd_py.storage.layout import prepare, share_audit
from verdictd_py.storage.presence import Presence
from verdictd_py.storage.stores import DirectoryCollateralStore
from verdictd_py.tees.intel.roots import read_root_ca
from verdictd_py.tees.registry import known_tees
from verdictd_py.tsm import TsmQuotes


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
    _check_unsafe(settings, unsafe)
    audit = AuditTrail(settings.data_dir / "audit", events, mode=int(settings.audit_mode, base=8))
    deciding = DecidingFiles(settings, unsafe, DigestLog(audit))
    deciding.require_own()
    protected = protection(settings, unsafe)
    connections = _connections(settings)
    tees = known_tees(settings.verifier)
    sample = unsafe.insecure_sample_verifier
    directory, inspection = prepare(
        settings.data_dir,
        [tee.documents for tee in tees if tee.proves or sample],
        unsafe_writable=unsafe.unsafe_writable_files,
    )
    share_audit(settings.data_dir, settings.audit_mode, settings.audit_group)
    root = unsafe.root_ca
    root_ca = None if root is None else read_root_ca(root, option=UNSAFE_ROOT_OPTION)
    changes = Changes()
    collateral = CollateralService(
        settings,
        DirectoryCollateralStore(directory),
        clock=clock,
        events=audit,
        root_ca_der=root_ca,
        changed=changes.announce,
    )
    cases = use_cases(
        settings,
        unsafe,
        directory,
        tees=tees,
        intel=collateral.intel,
        root_ca_der=root_ca,
        clock=clock,
        events=audit,
        changes=changes,
    )
    presence = Presence(directory, clock)
    about = About(
        settings,
        unsafe,
        presence=presence,
        verifiers=cases.verifiers.names,
        inspection=inspection,
        limits_warning=connections.warning,
        started_at=clock(),
    )
    limits = _limits(settings, connections)
    passed = passed_sockets()
    build = _Listeners(
        settings, unsafe, cases, protected, audit, clock, connections, limits, passed
    )
    probes: dict[str, Probe] = {
        "data directory": partial(asyncio.to_thread, directory.fault, *DIRECTORIES)
    }
    http = build.kbs(probes.setdefault)
    candidates: tuple[Listener | None, ...] = (
        build.attested(),
        build.client_api(about),
        build.keyprovider_api(),
        http,
    )
    listeners = tuple(listener for listener in candidates if listener is not None)
    publish = [listener.set_ready for listener in listeners if isinstance(listener, GrpcListener)]
    readiness = Readiness(cases, audit, publish=publish, probes=probes)
    cases.digests.changed = readiness.request

    def apply(new: Settings) -> None:
        limits.adopt(_limits(new, _connections(new)))
        cases.appraiser.seconds = new.appraisal_timeout
        cases.wrapper.limit_new_keys(new.max_new_keys_per_minute)

    live = () if reread is None else (LiveSettings(settings, reread, apply),)
    checks: dict[str, Check] = {
        "audit": directory_check(settings.data_dir / "audit", writable=True),
        POLICIES: readiness.problem,
        "keys": directory_check(settings.data_dir / "keys", writable=False),
        "collateral": collateral.problem,
        "disk": space_check(_written(settings)),
        "descriptors": check_descriptors,
    }
    if "sessions" in probes:
        checks["sessions"] = probes["sessions"]
    health = Health(checks, audit, publish=publish)
    readiness.changed = health.request
    if http is not None:
        http.parts = lambda: health.parts
    about.listeners, about.readiness, about.health = listeners, readiness, health
    parts = Parts(
        events=audit,
        audit=audit,
        listeners=listeners,
        background=(
            *collateral.background,
            Work("check readiness", readiness.keep_fresh),
            Work("check health", health.keep_examined),
            Work("appraise connected guests", cases.connected.keep_appraised),
            Work("count omitted events", audit.keep_counting),
            Work("detect other daemons", partial(presence.announce, audit)),
            Work("examine the data directory", partial(inspection.complete, audit)),
        ),
        readiness=readiness,
        health=health,
        about=about,
        closing=(collateral.close, presence.close),
        limits=limits,
        deciding=deciding,
        reconsider=changes.announce,
        files=(*protected.files, *(() if http is None else http.files), *live),
    )
    return Daemon(parts, on_failure=on_failure)


@dataclass(frozen=True, slots=True)
class _Listeners:
    """Builder of the listeners; None for those without an address in the settings."""

    settings: Settings
    unsafe: Unsafe
    cases: UseCases
    protected: Protection
    events: Events
    clock: Clock
    connections: Connections
    limits: Limits
    passed: Mapping[str, socket.socket]

    def attested(self) -> Listener:
        identity = RenewedIdentity(
            require_certificate=not self.cases.verifiers.accepts_anyone,
            events=self.events,
            quote_for=TsmQuotes().quote if self.settings.attests else None,
        )
        return AttestedListener(
            self.settings.listen_address,
            guests=self.cases.connected,
            tees=self.cases.tees,
            releaser=self.cases.releaser,
            context=identity.context,
            events=self.events,
            limits=self.limits,
            proxies=Proxies(proxy_protocol=self.settings.proxy_protocol_from),
            passed=self.passed.get("listen"),
        )

    def client_api(self, about: About) -> Listener:
        def register(server: grpc.aio.Server, rules: CallerRules) -> None:
            self._register_keyprovider(server, rules)
            administration = self.cases.administration
            management.register(server, administration, rules, self.events)
            management_v1.register(
                server,
                administration,
                self.cases.history,
                self.cases.explainer,
                self.cases.connected,
                about.status,
                rules,
                self.events,
            )

        return GrpcListener(
            "client_api",
            self.settings.client_api_addresses,
            register,
            events=self.events,
            connections=self.connections.grpc,
            described=_names(keyprovider_pb2, clientapi_pb2, verdictd_v1_pb2),
            rules=self.protected.rules,
            tls=self.protected.tls,
        )

    def keyprovider_api(self) -> Listener | None:
        address = self.settings.keyprovider_api_address
        if address is None:
            return None
        return GrpcListener(
            "keyprovider_api",
            [address],
            self._register_keyprovider,
            events=self.events,
            connections=self.connections.grpc,
            described=_names(keyprovider_pb2),
            rules=self.protected.rules,
            tls=self.protected.tls,
        )

    def kbs(self, watch: Callable[[str, Probe], object]) -> KbsListener | None:
        return kbs_listener(
            self.settings,
            self.unsafe,
            self.cases,
            clock=self.clock,
            events=self.events,
            limits=self.limits,
            watch=watch,
            passed=self.passed.get("kbs_http"),
        )

    def _register_keyprovider(self, server: grpc.aio.Server, rules: CallerRules) -> None:
        provider = self.settings.keyprovider_name
        service = KeyProviderService(self.cases.wrapper, rules, self.events, provider=provider)
        service.register(server)


def _written(settings: Settings) -> dict[str, Path]:
    """Return the directories that the broker writes, by a name for operators."""
    written = {f"{name}/": settings.data_dir / name for name in DIRECTORIES}
    if settings.kbs_sessions is not None:
        written["the directory of --kbs-sessions"] = settings.kbs_sessions.parent
    return {"the data directory": settings.data_dir, **written}


def _connections(settings: Settings) -> Connections:
    return descriptors.divide(
        descriptors.limit(),
        guests=settings.max_connections,
        guest_listeners=1 if settings.kbs_http is None else 2,
        grpc_listeners=1 if settings.keyprovider_api is None else 2,
    )


def _limits(settings: Settings, connections: Connections) -> Limits:
    age = settings.max_evidence_age
    return Limits(
        handshake=settings.handshake_timeout,
        appraisal=settings.appraisal_timeout,
        request=settings.request_timeout,
        idle=settings.idle_timeout,
        connections=connections.guests,
        per_address=settings.max_unattested_per_address,
        per_platform=settings.max_connections_per_platform,
        evidence_age=None if age is None else timedelta(seconds=age),
        drain=settings.drain_timeout,
    )


def _check_unsafe(settings: Settings, unsafe: Unsafe) -> None:
    """Refuse unsafe options that would disclose the secrets of a real data directory.

    Raises:
        ConfigError: refused; the message has the cause and the remedy.
    """
    if unsafe.root_ca and "data_dir" not in settings.model_fields_set:
        raise ConfigError(
            f"{UNSAFE_ROOT_OPTION} needs an explicit --data-dir, "
            f"so that a rehearsal never uses {DEFAULT_DATA_DIR}"
        )
    if unsafe.insecure_sample_verifier and not unsafe.insecure_sample_data_dir:
        raise ConfigError(
            f"--insecure-sample-verifier would release every secret in {settings.data_dir} to "
            "any client; try it with `verdictd-py demo`, or add --insecure-sample-data-dir"
        )
    if unsafe.insecure_sample_data_dir and not unsafe.insecure_sample_verifier:
        raise ConfigError(
            "--insecure-sample-data-dir has no effect without --insecure-sample-verifier; remove it"
        )


def _names(*modules: ModuleType) -> tuple[str, ...]:
    """Return the full names of the services in generated modules."""
    return tuple(
        service.full_name
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
    )
