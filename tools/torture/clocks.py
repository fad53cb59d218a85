"""Faults of the daemon's clock, with libfaketime and a PCCS whose clock is right.

The broker starts 8 hours ahead, and its clock is set back. Another one is 60 days ahead for a
moment, when all collateral has expired. Afterwards each must serve every client, with a certificate
that is valid now.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from cryptography import x509

from tools.torture.broker import Broker, Site, running
from tools.torture.clients import FAILURES, Clients, Latencies
from tools.torture.faults import RECOVERY_SECONDS, VERDICTS
from tools.torture.scenario import Budget, Row, Scenario
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform, pcs_answer

LIBRARIES: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
)
"""Directories where distributions install libfaketime, in `faketime/` or directly."""

NEW_CONNECTIONS: Final = ("RATS-TLS", "HTTPS", "wrap", "operator")


@dataclass(frozen=True, slots=True)
class Shift:
    """A wrong clock.

    Attributes:
        offset: as libfaketime reads it.
        from_start: the clock is wrong when the daemon starts, else only later for a moment.
    """

    case: str
    offset: str
    from_start: bool


SHIFTS: Final = (
    Shift("started 8 hours ahead, then set back", "+8h", from_start=True),
    Shift("60 days ahead for a moment", "+60d", from_start=False),
)


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Shift the clock of a daemon of its own for each case."""
    library = _library()
    if library is None:
        yield Row.skipped("clock faults", "libfaketime is missing: apt-get install faketime")
        return
    for number, shift in enumerate(SHIFTS[:1] if budget.smoke else SHIFTS):
        directory = budget.directory / str(number)
        directory.mkdir()
        yield await _trial(Site.make(directory), library, shift)


async def _trial(site: Site, library: Path, shift: Shift) -> Row:
    clock = site.directory / "clock"
    clock.write_text(shift.offset if shift.from_start else "+0")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with (
        _pccs(site.platform) as url,
        running(site, "--collateral-url", url, environment=environment) as broker,
    ):
        clients = Clients(broker)
        before = await _probe(clients)
        clock.write_text(shift.offset)
        during = await _probe(clients)
        clock.write_text("+0")
        begin = time.monotonic()
        while any((after := await _probe(clients)).values()) or not await _valid_now(broker):
            if time.monotonic() - begin > RECOVERY_SECONDS:
                break
            await asyncio.sleep(1)
        seconds = time.monotonic() - begin
        valid = await _valid_now(broker)
    verdicts = [name for name, text in during.items() if any(part in text for part in VERDICTS)]
    texts = "; ".join(f"{name}: {text[:90]}" for name, text in during.items() if text)
    figures = (
        f"served before: {_count(before)}, during: {_count(during)}, after: {_count(after)} of "
        f"{len(NEW_CONNECTIONS)}, {seconds:.1f} s after; certificate valid: {valid}; {texts}"
    )
    if verdicts:
        figures += f"; FALSE VERDICT for {', '.join(verdicts)}"
    passed = valid and not any(after.values()) and not verdicts
    return Row.judged(shift.case, figures, passed=passed)


async def _probe(clients: Clients) -> dict[str, str]:
    """Return why each client was not served; empty: it was."""
    outcomes: dict[str, str] = {}
    for name in NEW_CONNECTIONS:
        latencies = Latencies()
        await latencies.measure(clients.kinds[name])
        outcomes[name] = "".join(latencies.failures)
    return outcomes


def _count(outcomes: dict[str, str]) -> int:
    return sum(not text for text in outcomes.values())


async def _valid_now(broker: Broker) -> bool:
    """Return whether the certificate of the attested listener is valid by the right clock."""
    try:
        pem = await asyncio.to_thread(ssl.get_server_certificate, broker.listen, timeout=10)
    except FAILURES:
        return False
    certificate = x509.load_pem_x509_certificate(pem.encode())
    now = app.utc_now()
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


@asynccontextmanager
async def _pccs(platform: SimulatedPlatform) -> AsyncIterator[str]:
    """Run a PCCS on a free port; yield its URL."""

    async def answer(request: web.Request) -> web.Response:
        made = pcs_answer(platform, request.path_qs, app.utc_now())
        return web.Response(status=made.status, headers=dict(made.headers), body=made.body)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _library() -> Path | None:
    names = [
        f"{directory}/{middle}libfaketime.so.1"
        for directory in LIBRARIES
        for middle in ("faketime/", "")
    ]
    return next((path for path in map(Path, names) if path.exists()), None)


CLOCKS_SCENARIO: Final = Scenario("clocks", "the daemon's clock ahead and set back", 1, run)
