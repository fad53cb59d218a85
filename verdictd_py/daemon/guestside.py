"""Where guests are served: in the process of the operators, or in workers of their own (ADR 20)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from verdictd_py.broker.everyguest import GuestDirectory
from verdictd_py.config import Settings
from verdictd_py.daemon.foundation import Foundation
from verdictd_py.daemon.health import Check, Health
from verdictd_py.daemon.kbs import KbsIdentity
from verdictd_py.daemon.readiness import Readiness, SetReady
from verdictd_py.daemon.workers import messages
from verdictd_py.daemon.workers.changes import ForwardedChanges
from verdictd_py.daemon.workers.held import HeldListener
from verdictd_py.daemon.workers.pool import Workers
from verdictd_py.daemon.workers.shared import OperatorShare
from verdictd_py.daemon.workers.start import Start
from verdictd_py.encoding import JsonValue
from verdictd_py.listeners.kbs import KbsListener
from verdictd_py.listeners.listener import Listener
from verdictd_py.listeners.reread import Reloadable

_PARTS_OF_WORKERS: Final = ("audit", "collateral", "descriptors", "seal", "sessions", "store")
"""Parts of the broker that each worker examines for itself."""


class GuestSide(Protocol):
    """What serves guests, as the operator process uses it.

    Attributes:
        attested, kbs: the listeners; the second one is None if the settings have no address.
        files: files of the operator that this process reads again on SIGHUP.
        publish: functions that publish the readiness.
        workers: the guest workers; None without separate processes.
        connected: the connected guests of the broker, for operators.
    """

    @property
    def attested(self) -> Listener: ...

    @property
    def kbs(self) -> Listener | None: ...

    @property
    def files(self) -> Sequence[Reloadable]: ...

    @property
    def publish(self) -> Sequence[SetReady]: ...

    @property
    def workers(self) -> Workers | None: ...

    @property
    def connected(self) -> GuestDirectory: ...

    def checks(self, own: Mapping[str, Check]) -> dict[str, Check]:
        """Return the checks of the health, given those of this process."""
        ...

    def connections(self) -> dict[str, dict[str, int]]:
        """Return the numbers of connections by state of listeners that other processes serve."""
        ...

    def certificates(self) -> dict[str, datetime]:
        """Return when the certificates expire, by listener."""
        ...

    def connect(
        self, readiness: Readiness, health: Health, settings: Callable[[], Settings]
    ) -> None:
        """Connect it to the parts that are built after it.

        Args:
            settings: returns the settings in force.
        """
        ...

    async def close(self) -> None:
        """Close what the listeners of guests do not close."""
        ...


@dataclass(frozen=True, slots=True)
class OwnGuests:
    """Guests that the operator process serves itself (see `GuestSide`)."""

    attested: Listener
    kbs: KbsListener | None
    connected: GuestDirectory
    publish: Sequence[SetReady] = ()
    workers: None = None

    @property
    def files(self) -> Sequence[Reloadable]:
        return () if self.kbs is None else self.kbs.files

    def checks(self, own: Mapping[str, Check]) -> dict[str, Check]:
        return dict(own)

    def connections(self) -> dict[str, dict[str, int]]:
        return {}

    def certificates(self) -> dict[str, datetime]:
        end = None if self.kbs is None else self.kbs.certificate_end
        return {} if end is None else {"kbs_http": end}

    def connect(
        self, readiness: Readiness, health: Health, settings: Callable[[], Settings]
    ) -> None:
        del readiness, settings
        if self.kbs is not None:
            self.kbs.parts = lambda: health.parts

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class SeparateGuests:
    """Guests that workers serve, on sockets that this process holds (see `GuestSide`)."""

    base: Foundation
    changes: ForwardedChanges
    identity: KbsIdentity | None
    attested: HeldListener
    kbs: HeldListener | None
    share: OperatorShare
    workers: Workers = field(init=False)
    connected: GuestDirectory = field(init=False)
    files: Sequence[Reloadable] = ()
    _parts: Callable[[], Mapping[str, bool]] = field(init=False, default=dict)
    _settings: Callable[[], Settings] = field(init=False)

    @classmethod
    def build(
        cls,
        base: Foundation,
        count: int,
        changes: ForwardedChanges,
        identity: KbsIdentity | None,
        passed: Mapping[str, socket.socket],
    ) -> SeparateGuests:
        """Build them.

        Args:
            identity: keys of the HTTP listener; None without it.
            passed: listening sockets of the service manager, by name of the listener.
        """
        attested = HeldListener("listen", base.settings.listen_address, passed=passed.get("listen"))
        kbs = None
        if identity is not None:
            kbs = HeldListener(
                "kbs_http",
                identity.address,
                scheme=f"{identity.scheme}://",
                passed=passed.get("kbs_http"),
            )
        share = OperatorShare(count, base.settings)
        built = cls(base, changes, identity, attested, kbs, share)
        built._settings = lambda: base.settings
        built.workers = Workers(count, built._start_of, base.audit, base.audit.report)
        built.connected = share.connect(built.workers, base.cases.history, base.audit)
        return built

    @property
    def publish(self) -> Sequence[SetReady]:
        return (self._publish,)

    def checks(self, own: Mapping[str, Check]) -> dict[str, Check]:
        workers = self.workers
        checks = {**own, "workers": workers.problem}
        for part in _PARTS_OF_WORKERS:
            if part in own or (part == "sessions" and self.kbs is not None):
                checks[part] = workers.problem_of(part, own.get(part))
        return checks

    def connections(self) -> dict[str, dict[str, int]]:
        names = ("listen",) if self.kbs is None else ("listen", "kbs_http")
        return {name: self.share.states(name) for name in names}

    def certificates(self) -> dict[str, datetime]:
        tls = None if self.identity is None else self.identity.tls
        end = None if tls is None else tls.end
        return {} if end is None else {"kbs_http": end}

    def connect(
        self, readiness: Readiness, health: Health, settings: Callable[[], Settings]
    ) -> None:
        self._settings = settings
        self._parts = lambda: health.parts
        workers = self.workers

        async def changed(number: int, body: JsonValue) -> JsonValue:
            del body
            self.changes.receive()
            workers.notify_each("changed", but=number)
            readiness.request()
            return None

        async def examine(number: int, body: JsonValue) -> JsonValue:
            del number, body
            readiness.request()
            return None

        def note() -> None:
            health.request()
            self._send_parts()

        workers.handle("changed", changed)
        workers.handle("examine", examine)
        workers.handle(messages.COLLATERAL, partial(messages.send_collateral, self.base.collateral))
        workers.changed = note
        self.changes.forward = partial(workers.notify_each, "changed")

    def _start_of(self, number: int) -> Start:
        sockets = {"listen": self.attested.descriptor}
        if self.kbs is not None:
            sockets["kbs_http"] = self.kbs.descriptor
        return Start(
            number,
            self.workers.count,
            self._settings(),
            self.base.unsafe,
            sockets,
            self.share.descriptors,
            None if self.identity is None else self.identity.exported(),
        )

    async def close(self) -> None:
        await self.share.close()

    async def _publish(self, detail: str, *, ready: bool) -> None:
        del detail, ready
        self._send_parts()

    def _send_parts(self) -> None:
        self.workers.notify_each("parts", dict(self._parts()))
