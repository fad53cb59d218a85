"""The web console in the operator process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from verdictd_py.config import Settings
from verdictd_py.console.service import ConsoleService
from verdictd_py.console.sessions import Sessions
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.measuring import BrokerMetrics
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.grpc_listener import Register
from verdictd_py.listeners.protection import Protection
from verdictd_py.ports import Events, Tees

if TYPE_CHECKING:
    from verdictd_py.console.server import ConsoleListener


@dataclass(slots=True)
class Console:
    """The console of a broker: its listener, and the service that makes links to it.

    Attributes:
        listener: the listener; None without an address in the settings.
    """

    events: Events
    sessions: Sessions = field(default_factory=lambda: Sessions(time.monotonic))
    listener: ConsoleListener | None = None
    _with_certificates: bool = False

    @classmethod
    def build(
        cls,
        settings: Settings,
        protected: Protection,
        register: Register,
        tees: Tees,
        events: Events,
        collateral: CollateralService,
        metrics: BrokerMetrics | None,
    ) -> Console:
        """Build it.

        Args:
            register: adds the services of the management API to a server.
            metrics: numbers of the broker; required if there is a console.

        Raises:
            ConfigError: the address needs TLS.
        """
        built = cls(events)
        if settings.console is not None and metrics is not None:
            from verdictd_py.daemon import consolelistener  # noqa: PLC0415  # late, see there

            built.listener, built._with_certificates = consolelistener.build(
                settings,
                protected,
                register,
                tees,
                events=events,
                sessions=built.sessions,
                collateral=collateral,
                metrics=metrics,
            )
            built.listener.measure(metrics.own.meter)
        return built

    def register(self, server: grpc.aio.Server, rules: CallerRules) -> None:
        """Add the service for links to the client API."""
        ConsoleService(
            rules,
            self.events,
            self.sessions,
            lambda: "" if self.listener is None else self.listener.endpoint,
            with_certificates=self._with_certificates,
        ).register(server)
