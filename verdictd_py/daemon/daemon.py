"""The daemon: its listeners, from the first bind to the last request."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Self

from verdictd_py import __version__
from verdictd_py._generated import clientapi_pb2, keyprovider_pb2, verdictd_v1_pb2
from verdictd_py.config import DEFAULT_DATA_DIR, Address, Settings, Unsafe
from verdictd_py.daemon.clock import Clock, utc_now
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.kbs import listener_of
from verdictd_py.daemon.usecases import use_cases
from verdictd_py.domain.events import (
    DaemonStarted,
    DaemonStopped,
    DaemonStopping,
    KbsAdministrators,
    KbsSelfSigned,
    PolicyEngineCompiling,
    PolicyLoaded,
    UnsafeOption,
    WarningIdentity,
    WarningPolicy,
    WarningStorage,
    WarningUnpinned,
)
from verdictd_py.domain.evidence import Tee
from verdictd_py.errors import ConfigError, NotFound, PolicyInvalid, StorageError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.log import LogEvents
from verdictd_py.listeners import management, management_v1, sockets
from verdictd_py.listeners.attested import AttestedListener
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.client_api import PINNED, ClientApi, protection
from verdictd_py.listeners.errors import unhandled
from verdictd_py.listeners.identity import RenewedIdentity
from verdictd_py.listeners.keyprovider import KeyProviderService
from verdictd_py.listeners.limits import Limits
from verdictd_py.policy import instances
from verdictd_py.policy.appraisal import RegoAppraisalPolicy, unpinned
from verdictd_py.ports import Events
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryCollateralStore
from verdictd_py.tees.intel.roots import read_root_ca
from verdictd_py.tsm import TsmQuotes

READINESS_SECONDS = 30.0
"""Between two looks at whether everything is pinned."""


class Daemon:
    """Every listener on one data directory, built but not started."""

    def __init__(
        self, settings: Settings, unsafe: Unsafe, events: Events, clock: Clock = utc_now
    ) -> None:
        """Checks every setting and opens the data directory.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        _check_unsafe(settings, unsafe)
        self._settings = settings
        self._unsafe = unsafe
        self._events = events
        self._rules, tls = protection(settings, unsafe)
        directory, self._warnings = prepare(
            settings.data_dir, sample=unsafe.insecure_sample_verifier
        )
        self._events = events = self._audit = AuditTrail(settings.data_dir / "audit", events)
        root = unsafe.unsafe_tdx_root_ca
        root_ca = None if root is None else read_root_ca(root, option="--unsafe-tdx-root-ca")
        self._collateral = CollateralService(
            settings,
            DirectoryCollateralStore(directory),
            clock=clock,
            events=events,
            root_ca_der=root_ca,
        )
        self._use_cases = found = use_cases(
            settings,
            unsafe,
            directory,
            collateral=self._collateral.source,
            root_ca_der=root_ca,
            clock=clock,
            events=events,
        )
        identity = RenewedIdentity(
            clock,
            require_certificate=not found.verifiers.accepts_anyone,
            events=events,
            quote_for=TsmQuotes().quote if settings.attester == "tdx" else None,
        )
        limits = _limits(settings)
        self._attested = AttestedListener(
            appraiser=found.appraiser,
            releaser=found.releaser,
            context=identity.context,
            events=events,
            limits=limits,
        )
        self._kbs = listener_of(settings, unsafe, found, clock=clock, events=events, limits=limits)
        self._client_api = ClientApi(tls=tls)
        self._keyprovider_api = ClientApi(tls=tls, option="--keyprovider-api")
        self._started_at = clock()
        self._readiness: asyncio.Task[None] | None = None
        self.listen = settings.listen_address
        self.client_api = settings.client_api_addresses[0]
        self.keyprovider_api = settings.keyprovider_api_address

    @property
    def kbs_url(self) -> str | None:
        """Where HTTP guests are served, None where they are not."""
        return None if self._kbs is None else self._kbs.url

    async def start(self) -> Self:
        """Binds every address, then accepts on all of them.

        Raises:
            ConfigError: an address cannot be had.
        """
        listening = sockets.bind(self.listen, option="--listen")
        try:
            self.client_api = self._bind_client_api()
            if self.keyprovider_api is not None:
                self.keyprovider_api = self._keyprovider_api.bind(self.keyprovider_api)
            if self._kbs is not None:
                self._kbs.bind()
        except ConfigError:
            listening.close()
            if self._kbs is not None:
                self._kbs.unbind()
            raise
        self._audit.open()
        host, port = listening.getsockname()[:2]
        self.listen = Address(host, port)
        await self._register()
        self._collateral.start()
        await self._attested.start(listening)
        if self._kbs is not None:
            await self._kbs.start()
        await self._client_api.start()
        if self.keyprovider_api is not None:
            await self._keyprovider_api.start()
        await self._say_hello()
        self._readiness = asyncio.create_task(self._keep_readiness())
        return self

    async def _register(self) -> None:
        """Puts the services on the two gRPC servers, which are bound and not started."""
        rules, events = replace(self._rules, listener=self.client_api), self._events
        server = self._client_api.server
        self._keyprovider(rules).register(server)
        management.register(server, self._use_cases.administration, rules, events)
        management_v1.register(
            server,
            self._use_cases.administration,
            self._use_cases.history,
            self._status,
            rules,
            events,
        )
        await self._client_api.describe(
            _names(keyprovider_pb2) + _names(clientapi_pb2) + _names(verdictd_v1_pb2)
        )
        if self.keyprovider_api is not None:
            rules = replace(self._rules, listener=self.keyprovider_api)
            self._keyprovider(rules).register(self._keyprovider_api.server)
            await self._keyprovider_api.describe(_names(keyprovider_pb2))

    def _keyprovider(self, rules: CallerRules) -> KeyProviderService:
        provider = self._settings.keyprovider_name
        return KeyProviderService(self._use_cases.wrapper, rules, self._events, provider=provider)

    async def refresh_readiness(self) -> tuple[str, ...]:
        """Says whether every measurement is pinned to who asks the health service.

        Returns:
            Those that are not, `tdx rtmr1`.
        """
        open_ones: list[str] = []
        for tee in self._use_cases.verifiers:
            open_ones += [
                f"{tee} {name}" for name in await self._use_cases.open_measurements.of(tee)
            ]
        await self._client_api.set_ready(PINNED, ready=not open_ones)
        return tuple(open_ones)

    async def _keep_readiness(self) -> None:
        """For ever: files edited by hand count too, and sets expire."""
        while True:
            await self.refresh_readiness()
            await asyncio.sleep(READINESS_SECONDS)

    async def _status(self) -> management_v1.DaemonStatus:
        open_ones = await self.refresh_readiness()
        return management_v1.DaemonStatus(
            version=__version__,
            started_at=self._started_at,
            listen=str(self.listen),
            client_api=str(self.client_api),
            keyprovider_api="" if self.keyprovider_api is None else str(self.keyprovider_api),
            kbs_http=self.kbs_url or "",
            data_dir=str(self._settings.data_dir),
            verifiers=self._use_cases.verifiers.names,
            attester=self._settings.attester,
            unsafe=self._unsafe.chosen(),
            warnings=self._warnings,
            unpinned=open_ones,
        )

    async def stop(self) -> None:
        """Stops accepting, lets requests in flight finish, then ends."""
        self._events.record(DaemonStopping())
        if self._readiness is not None:
            self._readiness.cancel()
        seconds = self._settings.drain_timeout
        await asyncio.gather(
            self._attested.drain(seconds),
            self._client_api.drain(seconds),
            self._keyprovider_api.drain(seconds),
            *(() if self._kbs is None else (self._kbs.drain(),)),
        )
        await self._collateral.stop()
        self._events.record(DaemonStopped())
        self._audit.close()

    async def reload(self) -> None:
        """Reads the policies again and says whether they can be used.

        Every decision reads them anyway; what this adds is the operator's early warning.
        """
        for tee in self._use_cases.verifiers:
            try:
                documents = await self._use_cases.deciding.documents(tee)
            except (NotFound, StorageError, PolicyInvalid) as error:
                self._events.record(WarningPolicy(tee=tee, reason=str(error)))
                continue
            problem = RegoAppraisalPolicy.problem(documents)
            if problem:
                self._events.record(WarningPolicy(tee=tee, reason=problem))
            else:
                self._events.record(PolicyLoaded(tee=tee))
                self._warn_unpinned(tee, unpinned(documents.data, tee))

        if self._kbs is not None:
            for problem in self._kbs.reload():
                self._events.record(WarningIdentity(reason=problem))
            if self._kbs.administrators:
                self._events.record(KbsAdministrators(names=self._kbs.administrators))
        for problem in await self._use_cases.release.problems():
            self._events.record(WarningPolicy(tee="release", reason=problem))

    def _warn_unpinned(self, tee: Tee, names: tuple[str, ...]) -> None:
        if names:
            self._events.record(
                WarningUnpinned(
                    tee=tee,
                    measurements=names,
                    reason="UNPINNED: guests are accepted whatever these measure",
                )
            )

    async def _say_hello(self) -> None:
        for flag in self._unsafe.chosen():
            self._events.record(UnsafeOption(flag=flag))
        for warning in self._warnings:
            self._events.record(WarningStorage(reason=warning))
        await self.reload()
        if self._kbs is not None and self._kbs.fingerprint is not None:
            self._events.record(KbsSelfSigned(sha256=self._kbs.fingerprint))
        self._events.record(
            DaemonStarted(
                version=__version__,
                listen=str(self.listen),
                client_api=str(self.client_api),
                keyprovider_api=None if self.keyprovider_api is None else str(self.keyprovider_api),
                kbs_http=self.kbs_url,
                verifiers=self._use_cases.verifiers.names,
                attester=self._settings.attester,
                data_dir=str(self._settings.data_dir),
            )
        )

    def _bind_client_api(self) -> Address:
        *preferred, last = self._settings.client_api_addresses
        for address in preferred:
            if sockets.exists(address):
                return self._client_api.bind(address)
        return self._client_api.bind(last)


def _check_unsafe(settings: Settings, unsafe: Unsafe) -> None:
    """What is unsafe is never given the secrets of a real data directory by mistake.

    Raises:
        ConfigError: it would be.
    """
    if unsafe.unsafe_tdx_root_ca and "data_dir" not in settings.model_fields_set:
        raise ConfigError(
            "--unsafe-tdx-root-ca needs an explicit --data-dir, "
            f"so that {DEFAULT_DATA_DIR} is never given to a rehearsal"
        )
    if unsafe.insecure_sample_verifier and not unsafe.insecure_sample_data_dir:
        raise ConfigError(
            f"--insecure-sample-verifier would give every secret in {settings.data_dir} to "
            "anybody; try it with `verdictd-py demo`, or add --insecure-sample-data-dir"
        )
    if unsafe.insecure_sample_data_dir and not unsafe.insecure_sample_verifier:
        raise ConfigError(
            "--insecure-sample-data-dir has no effect without --insecure-sample-verifier; remove it"
        )


def _names(module: ModuleType) -> tuple[str, ...]:
    """Full names of the services in a generated module."""
    return tuple(service.full_name for service in module.DESCRIPTOR.services_by_name.values())


def _limits(settings: Settings) -> Limits:
    age = settings.max_evidence_age
    return Limits(
        handshake=settings.handshake_timeout,
        appraisal=settings.appraisal_timeout,
        request=settings.request_timeout,
        idle=settings.idle_timeout,
        connections=settings.max_connections,
        evidence_age=None if age is None else timedelta(seconds=age),
    )


async def run(settings: Settings, unsafe: Unsafe) -> None:
    """Runs the daemon until SIGTERM or SIGINT; SIGHUP reloads policies.

    Raises:
        ConfigError: it cannot start.
    """
    events = LogEvents(settings.log_format)
    stopping = asyncio.Event()
    reloading = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(unhandled(events))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    daemon = Daemon(settings, unsafe, events)
    await _load_policy_engine(events)
    await daemon.start()
    reloader = asyncio.create_task(_reload_when(reloading, daemon))
    await stopping.wait()
    reloader.cancel()
    await daemon.stop()


async def _load_policy_engine(events: Events) -> None:
    """Load the policy engine, and report when that takes seconds because it must be compiled.

    Raises:
        PolicyInvalid: it cannot be loaded; the message names the cause.
    """
    loop = asyncio.get_running_loop()

    def compiling(reason: str) -> None:  # called in the thread
        loop.call_soon_threadsafe(events.record, PolicyEngineCompiling(reason=reason))

    await asyncio.to_thread(instances.prepare, compiling)


async def _reload_when(asked: asyncio.Event, daemon: Daemon) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await daemon.reload()
