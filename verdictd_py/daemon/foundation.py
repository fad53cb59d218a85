"""Parts that every process of a broker has, whatever it serves: use cases on the data directory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from verdictd_py.broker.connected import Changes
from verdictd_py.broker.history import JudgementSink
from verdictd_py.config import UNSAFE_ROOT_OPTION, Settings, Unsafe
from verdictd_py.daemon import descriptors
from verdictd_py.daemon.clock import Clock
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.database import NotedHeads, SharedStore
from verdictd_py.daemon.decidingfiles import DecidingFiles
from verdictd_py.daemon.descriptors import Connections
from verdictd_py.daemon.kbs import KbsIdentity, kbs_listener
from verdictd_py.daemon.readiness import Probe
from verdictd_py.daemon.sealing import Sealing
from verdictd_py.daemon.stores import Stores
from verdictd_py.daemon.usecases import UseCases, use_cases
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.heads import HeadSigner
from verdictd_py.events.retention import Retention, Rotation
from verdictd_py.events.sinks.sink import Delivery
from verdictd_py.listeners.attested import AttestedListener
from verdictd_py.listeners.census import Census
from verdictd_py.listeners.identity import RenewedIdentity
from verdictd_py.listeners.kbs import KbsListener
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.proxies import Proxies
from verdictd_py.ports import Events, Tees
from verdictd_py.ports.tokenkeys import TokenKeyStore
from verdictd_py.stages import Meter
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.sharedsessions import SharedSessionStore
from verdictd_py.storage.tokenkeys import DirectoryTokenKeys
from verdictd_py.tees.intel.collateral.cache import Fetch
from verdictd_py.tees.intel.roots import read_root_ca
from verdictd_py.tsm import TsmQuotes


@dataclass(frozen=True, slots=True)
class Records:
    """The audit trail of a process, and the files of the settings whose changes it records."""

    audit: AuditTrail
    deciding: DecidingFiles
    noted: NotedHeads

    @classmethod
    def of(cls, settings: Settings, unsafe: Unsafe, log: Events, *, writer: str = "") -> Records:
        """Build them, unopened.

        Args:
            log: receives all events after the trail.
            writer: end of the names of the audit files, for a guest worker.

        Raises:
            ConfigError: the key or a sink of the audit trail cannot be used.
        """
        key, noted = settings.audit_key, NotedHeads(log)
        audit = AuditTrail(
            settings.data_dir / "audit",
            noted,
            mode=int(settings.audit_mode, base=8),
            writer=writer,
            signer=None if key is None else HeadSigner.read(key),
            rotation=_rotation(settings),
            reserve_bytes=settings.audit_reserve_bytes,
            sinks=_sinks(settings.audit_sink),
            retention=_retention(settings) if not writer else None,
        )
        return cls(audit, DecidingFiles(settings, unsafe, DigestLog(audit)), noted)


def _sinks(texts: Sequence[str]) -> tuple[Delivery, ...]:
    if not texts:
        return ()
    from verdictd_py.events.sinks.choice import deliveries  # noqa: PLC0415  # rare, and slow

    return deliveries(texts)


def _rotation(settings: Settings) -> Rotation:
    hours = settings.audit_rotate_hours
    return Rotation(settings.audit_rotate_bytes, None if hours is None else hours * 3600)


def _retention(settings: Settings) -> Retention | None:
    days, size = settings.audit_keep_days, settings.audit_keep_bytes
    if days is None and size is None:
        return None
    return Retention(None if days is None else days * 86_400, size)


@dataclass(frozen=True, slots=True)
class Foundation:
    """The use cases of a process, and what they are built from.

    Attributes:
        limits: limits of the listeners of guests.
        connections: division of the descriptors of the process.
        changes: announced changes after which connected guests are appraised again.
        token_keys: store of the keys of attestation tokens, for brokers that share an engine.
        meter: measures connections; None if nothing is measured.
        sealing: seals the objects of the data directory; None if they are plain.
        shared: the database of `--store`; None for the data directory.
        directory: the data directory.
    """

    settings: Settings
    unsafe: Unsafe
    clock: Clock
    audit: AuditTrail
    deciding: DecidingFiles
    connections: Connections
    limits: Limits
    changes: Changes
    collateral: CollateralService
    cases: UseCases
    directory: Directory
    token_keys: TokenKeyStore
    meter: Meter | None = None
    sealing: Sealing | None = None
    shared: SharedStore | None = None

    @classmethod
    def lay(  # noqa: PLR0913  # what it is built from, all by keyword
        cls,
        settings: Settings,
        unsafe: Unsafe,
        records: Records,
        directory: Directory,
        *,
        tees: Tees,
        connections: Connections,
        changes: Changes,
        clock: Clock,
        elsewhere: Fetch | None = None,
        judgements: JudgementSink | None = None,
        meter: Meter | None = None,
        shared: SharedStore | None = None,
    ) -> Foundation:
        """Build the use cases.

        Args:
            elsewhere: see `CollateralService`.
            judgements: see `use_cases`.
            shared: the database of `--store`; None for the data directory.

        Raises:
            ConfigError: a setting cannot be used; the message has the cause and the remedy.
        """
        root = unsafe.root_ca
        root_ca = None if root is None else read_root_ca(root, option=UNSAFE_ROOT_OPTION)
        sealing = None if shared is not None else Sealing.of(settings, directory, records.audit)
        if shared is not None:
            stores = shared.stores(tees, records.audit)
            shared.announce_to(changes.announce, stores.digests)
        else:
            objects = None if sealing is None else sealing.objects
            stores = Stores.on(directory, tees, records.audit, objects)
        collateral = CollateralService(
            settings,
            stores.collateral,
            clock=clock,
            events=records.audit,
            root_ca_der=root_ca,
            changed=changes.announce,
            elsewhere=elsewhere,
        )
        cases = use_cases(
            settings,
            unsafe,
            directory,
            tees=tees,
            intel=collateral.intel,
            root_ca_der=root_ca,
            clock=clock,
            events=records.audit,
            changes=changes,
            judgements=judgements,
            stores=stores,
        )
        return cls(
            settings,
            unsafe,
            clock,
            records.audit,
            records.deciding,
            connections,
            limits_of(settings, connections),
            changes,
            collateral,
            cases,
            directory,
            DirectoryTokenKeys(directory, None if sealing is None else sealing.objects)
            if shared is None
            else shared.token_keys(),
            meter,
            sealing,
            shared,
        )

    async def close(self) -> None:
        """Close what the use cases have open. Everything that uses them has stopped."""
        self.directory.close()
        await self.collateral.close()
        await self.cases.sources.close()

    def apply(self, new: Settings, connections: Connections) -> None:
        """Put the limits of new settings in force."""
        self.limits.adopt(limits_of(new, connections))
        self.cases.appraiser.seconds = new.appraisal_timeout
        self.cases.wrapper.limit_new_keys(new.max_new_keys_per_minute)


@dataclass(frozen=True, slots=True)
class GuestListeners:
    """Builder of the listeners of guests.

    Args:
        sockets: listening sockets that exist already, by name of the listener.
        census: counters of all workers; None for one process.
        sessions: sessions of all workers; None for one process.
    """

    base: Foundation
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    census: Census | None = None
    sessions: SharedSessionStore | None = None

    def attested(self) -> AttestedListener:
        base, settings = self.base, self.base.settings
        identity = RenewedIdentity(
            require_certificate=not base.cases.verifiers.accepts_anyone,
            events=base.audit,
            quote_for=TsmQuotes().quote if settings.attests else None,
        )
        return AttestedListener(
            settings.listen_address,
            guests=base.cases.connected,
            tees=base.cases.tees,
            releaser=base.cases.releaser,
            context=identity.context,
            events=base.audit,
            limits=base.limits,
            proxies=Proxies(proxy_protocol=settings.proxy_protocol_from),
            passed=self.sockets.get("listen"),
            census=None if self.census is None else self.census.listener("listen"),
            meter=base.meter,
        )

    def kbs(
        self, identity: KbsIdentity | None, watch: Callable[[str, Probe], object]
    ) -> KbsListener | None:
        """Return the HTTP listener; None without an identity.

        Args:
            watch: receives the probe of the sessions.
        """
        if identity is None:
            return None
        return kbs_listener(
            self.base.settings,
            self.base.cases,
            identity,
            clock=self.base.clock,
            events=self.base.audit,
            limits=self.base.limits,
            watch=watch,
            token_keys=self.base.token_keys,
            unsafe=self.base.unsafe,
            passed=self.sockets.get("kbs_http"),
            shared=self.sessions,
            census=None if self.census is None else self.census.listener("kbs_http"),
            meter=self.base.meter,
        )


def connections_of(
    settings: Settings, *, guests: bool, operators: bool, open_files: int | None = None
) -> Connections:
    """Divide the descriptors of a process among the listeners that it serves.

    Args:
        guests, operators: whether the process serves guests, and operators.
        open_files: how many it may open; None for the limit of this process.

    Raises:
        ConfigError: there are too few descriptors.
    """
    return descriptors.divide(
        descriptors.limit() if open_files is None else open_files,
        guests=settings.max_connections if guests else 0,
        guest_listeners=(1 if settings.kbs_http is None else 2) if guests else 0,
        grpc_listeners=(1 if settings.keyprovider_api is None else 2) if operators else 0,
    )


def limits_of(settings: Settings, connections: Connections) -> Limits:
    """Return the limits of the listeners of guests."""
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
