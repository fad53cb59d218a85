"""A whole broker in this process, on free loopback ports, trusting a simulated platform."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from tests.support.events import RecordedEvents
from verdictd_py import daemon as app
from verdictd_py.config import Settings, Unsafe
from verdictd_py.guest.attesters import Attester, SimulatedAttester, guest_context
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.listeners.attested import AttestedListener
from verdictd_py.listeners.kbs import KbsListener
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform, collateral_json

KID = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
KEY = b"1234567890123456789012345678901\n"

HANDSHAKE_SECONDS = 60.0
REQUEST_SECONDS = 70.0
IDLE_SECONDS = 300.0
APPRAISAL_SECONDS = 7200.0
DRAIN_SECONDS = 3600.0
"""Limits of time, which differ so that a test can tell which one ended a connection.

No busy machine reaches them. A test reaches them by `tests.support.clock.elapse`.
"""


@dataclass
class RunningBroker:
    """What a test needs to talk to it."""

    daemon: app.Daemon
    platform: SimulatedPlatform
    data: Path
    events: RecordedEvents
    now: datetime

    @property
    def address(self) -> tuple[str, int]:
        listening = self.daemon.listener("listen").address
        return listening.host, listening.port

    @property
    def attested(self) -> AttestedListener:
        """The listener of guests over RATS-TLS."""
        found = self.daemon.listener("listen")
        assert isinstance(found, AttestedListener)
        return found

    @property
    def kbs(self) -> KbsListener:
        """The listener of HTTP guests."""
        found = self.daemon.listener("kbs_http")
        assert isinstance(found, KbsListener)
        return found

    @property
    def client_api(self) -> str:
        return self.daemon.listener("client_api").endpoint

    def attester(self, **more: Any) -> SimulatedAttester:
        return SimulatedAttester(self.platform, **more)

    def context(self, attester: Attester | None, form: Form = Form.CURRENT) -> SSL.Context:
        return guest_context(attester, form, now=self.now)

    @asynccontextmanager
    async def guest(
        self, attester: Attester | None = None, form: Form = Form.CURRENT
    ) -> AsyncIterator[GuestConnection]:
        """An attested connection; of a good guest unless told otherwise."""
        context = self.context(attester or self.attester(), form)
        async with GuestConnection.open(*self.address, context, timeout_seconds=60) as connection:
            yield connection


@asynccontextmanager
async def running_broker(
    directory: Path,
    platform: SimulatedPlatform,
    *,
    unsafe: dict[str, Any] | None = None,
    clock: Callable[[], datetime] = app.utc_now,
    reread: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    starting: Callable[[Path], object] = lambda data: None,
    **settings: Any,
) -> AsyncIterator[RunningBroker]:
    """Starts a broker under `directory` and stops it at the end.

    Args:
        unsafe: more fields of `Unsafe`.
        clock: the broker's clock.
        reread: returns the settings of a reload, from those of the start.
        starting: called with the data directory once the daemon is built, before it starts.
        settings: more fields of `Settings`, over the defaults for tests.
    """
    now = app.utc_now()
    root = directory / "root.pem"
    root.write_text(platform.root_ca_pem)
    collateral = directory / "collateral.json"
    collateral.write_text(collateral_json(platform.collateral(now)))
    data = directory / "data"
    (data / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / "keys" / KID).write_bytes(KEY)
    chosen = {
        "listen": "127.0.0.1:0",
        "client_api": "127.0.0.1:0",
        "data_dir": data,
        "collateral": collateral,
        "collateral_url": (),
        "handshake_timeout": HANDSHAKE_SECONDS,
        "request_timeout": REQUEST_SECONDS,
        "appraisal_timeout": APPRAISAL_SECONDS,
        "idle_timeout": IDLE_SECONDS,
        "drain_timeout": DRAIN_SECONDS,
        "audit_reserve_bytes": 0,
        **settings,
    }
    events = RecordedEvents()
    daemon = app.build_daemon(
        Settings(**chosen),
        Unsafe(**{"unsafe_tdx_root_ca": root, **(unsafe or {})}),
        events,
        clock,
        reread=None if reread is None else lambda: Settings(**reread(chosen)),
    )
    starting(data)
    await daemon.start()
    try:
        yield RunningBroker(daemon, platform, data, events, now)
    finally:
        await daemon.stop()
