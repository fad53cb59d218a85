"""Floods on every port, with genuine guests and operators alongside.

For each limit of open files: a baseline without attack, each flood alone, and all floods at once.
Served: at least 99 % of the clients, each with the right answer; the 99th percentile of each kind
is at most a second, or ten times that of the same kind in the baseline of the same run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from tools.torture.attacks import Attack
from tools.torture.broker import CHECKOUT, Broker, Site, running, with_files
from tools.torture.clients import SCRAPE, Clients, Latencies
from tools.torture.scenario import Budget, Row, Scenario

LIMITS: Final = (1024, 20_000)
SERVED_PART: Final = 0.99
P99_SECONDS: Final = 1.0
P99_FACTOR: Final = 10
SCRAPE_SECONDS: Final = 0.1
"""The same as `P99_SECONDS` for scrapes of the metrics."""
CLIENTS_PER_SECOND: Final = 3.0
"""Of each kind."""
START_SECONDS: Final = 300.0
"""Within which all attackers must have started, on a busy machine too."""
_MARGIN_SECONDS: Final = 60.0
"""How long clients and attackers may continue after a phase, which bounds a phase that hangs."""

RATSTLS, HTTPS, GRPC = "RATS-TLS", "HTTPS", "gRPC"


@dataclass(frozen=True, slots=True)
class Flood:
    """A kind of attack on a listener.

    Attributes:
        peers: at once.
        rate: connections, or requests on connections that stay, a second.
    """

    kind: str
    port: str
    peers: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.kind} on {self.port}, {self.peers} peers, {self.rate:g}/s"


SMOKE_FLOODS: Final = (
    Flood("wrong-certificate", RATSTLS, 5, 10),
    Flood("huge-body", HTTPS, 5, 10),
    Flood("streams", GRPC, 2, 10),
)

FLOODS: Final = (
    Flood("silent", RATSTLS, 600, 300),
    Flood("silent", HTTPS, 600, 300),
    Flood("silent", GRPC, 600, 300),
    Flood("slow-hello", RATSTLS, 300, 100),
    Flood("slow-hello", HTTPS, 300, 100),
    Flood("half-handshake", RATSTLS, 300, 100),
    Flood("half-handshake", HTTPS, 300, 100),
    Flood("wrong-certificate", RATSTLS, 50, 30),
    Flood("slow-headers", HTTPS, 300, 50),
    Flood("huge-body", HTTPS, 100, 20),
    Flood("many-auth", HTTPS, 20, 100),
    Flood("idle-http2", GRPC, 300, 100),
    Flood("pings", GRPC, 20, 20),
    Flood("streams", GRPC, 8, 4),
    Flood("wraps", GRPC, 20, 10),
)


_PART_TEXT: Final = ", each with a quarter of its peers and rate"


def _part(flood: Flood) -> Flood:
    """Return a quarter of a flood: all attackers have to run on the same machine."""
    return replace(flood, peers=max(1, flood.peers // 4), rate=flood.rate / 4)


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Run all floods under each limit of open files."""
    limits = LIMITS[:1] if budget.smoke else LIMITS
    floods = [flood for flood in FLOODS if budget.only in flood.name and not budget.smoke]
    at_once = SMOKE_FLOODS if budget.smoke else tuple(map(_part, FLOODS))
    phases = len(floods) + 2
    seconds = budget.seconds / len(limits) / phases
    for limit in limits:
        directory = budget.directory / f"files-{limit}"
        directory.mkdir()
        site = Site.make(directory)
        async with (
            running(site, wrapper=with_files(limit)) as broker,
            Clients(broker) as clients,
        ):
            trial = _Trial(broker, clients, limit, smoke=budget.smoke)
            yield await trial.baseline(seconds)
            for flood in floods:
                yield await trial.under((flood,), flood.name, seconds)
            yield await trial.under(at_once, f"{len(at_once)} floods at once{_PART_TEXT}", seconds)


class _Trial:
    """The phases of one broker."""

    def __init__(self, broker: Broker, clients: Clients, limit: int, *, smoke: bool) -> None:
        self._broker = broker
        self._clients = clients
        self._limit = limit
        self._smoke = smoke
        self._baseline: Mapping[str, Latencies] = {}

    async def baseline(self, seconds: float) -> Row:
        self._baseline = await self._serve(seconds)
        return self._row("no flood", self._baseline, "")

    async def under(self, floods: Sequence[Flood], name: str, seconds: float) -> Row:
        """Serve genuine clients while floods run."""
        written = self._broker.log.stat().st_size
        async with _flooding(self._broker, floods, seconds) as counts:
            began, used = time.monotonic(), self._broker.cpu_seconds()
            found = await self._serve(seconds)
            if self._broker.running:
                used = self._broker.cpu_seconds() - used
            part = used / (time.monotonic() - began)
        attackers = ", ".join(f"{what} {number}" for what, number in sorted(counts.items()))
        log = (self._broker.log.stat().st_size - written) / 1024
        memory = self._broker.resident_bytes() / 1024**2 if self._broker.running else 0
        cost = f"log {log:.0f} KiB, {memory:.0f} MiB, {part:.0%} of a CPU"
        return self._row(name, found, f"; peers: {attackers}; {cost}")

    async def _serve(self, seconds: float) -> dict[str, Latencies]:
        """Start clients of each kind at a fixed rate, whether earlier ones are served or not."""
        found = {name: Latencies() for name in self._clients.kinds}
        async with asyncio.TaskGroup() as group:
            for _ in range(max(2, int(seconds * CLIENTS_PER_SECOND))):
                for name, client in self._clients.kinds.items():
                    # The connected guest sends one request at a time, as guests do.
                    if name == "connected":
                        await found[name].measure(client)
                    else:
                        group.create_task(found[name].measure(client))
                    await asyncio.sleep(1 / CLIENTS_PER_SECOND / len(found))
        return found

    def _row(self, name: str, found: Mapping[str, Latencies], more: str) -> Row:
        served = sum(len(one.seconds) for one in found.values())
        count = sum(one.count for one in found.values())
        texts = [f"{kind} {one.quantile(0.99):.2f}" for kind, one in found.items()]
        failures = [text for one in found.values() for text in one.failures]
        example = f"; e.g. {failures[0]}" if failures else ""
        passed = self._broker.running and served >= SERVED_PART * count
        in_time = all(one.quantile(0.99) <= self._bound(kind) for kind, one in found.items())
        return Row.judged(
            f"{self._limit} files: {name}",
            f"served {served}/{count}, p99 s: {', '.join(texts)}{more}{example}",
            passed=passed and (in_time or self._smoke),
        )

    def _bound(self, kind: str) -> float:
        """Return the longest p99 of a kind of client, in seconds."""
        baseline = self._baseline[kind]
        least = SCRAPE_SECONDS if kind == SCRAPE else P99_SECONDS
        return max(least, P99_FACTOR * baseline.quantile(0.99) if baseline.seconds else 0.0)


@asynccontextmanager
async def _flooding(
    broker: Broker, floods: Sequence[Flood], seconds: float
) -> AsyncIterator[Counter[str]]:
    """Run attackers; the counts are complete when the context ends."""
    counts: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(_attacker(_attack(broker, flood, seconds)))
            for flood in floods
        ]
        for process in processes:
            if await _line(process) != b"ready\n":
                raise ChildProcessError("an attacker did not start; its error is above")
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        yield counts
        for process in processes:
            counts.update(json.loads(await _line(process, seconds + _MARGIN_SECONDS)))


@asynccontextmanager
async def _attacker(attack: Attack) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.torture.attacks", attack.encode()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process, seconds: float = START_SECONDS) -> bytes:
    if process.stdout is None:
        raise ChildProcessError("the attacker has no standard output")
    async with asyncio.timeout(seconds):
        return await process.stdout.readline()


def _attack(broker: Broker, flood: Flood, seconds: float) -> Attack:
    host, port = _target(broker, flood.port)
    return Attack(
        kind=flood.kind,
        host=host,
        port=port,
        seconds=seconds,
        peers=flood.peers,
        rate=flood.rate,
        ca=str(broker.site.ca),
        platform=str(broker.site.directory / "platform"),
        as_nobody=flood.port == GRPC,
    )


def _target(broker: Broker, port: str) -> tuple[str, int]:
    if port == RATSTLS:
        return broker.listen
    address = broker.kbs.removeprefix("https://") if port == HTTPS else broker.client_api
    host, _, number = address.rpartition(":")
    return host, int(number)


FLOODS_SCENARIO: Final = Scenario(
    "floods", "floods on every port, with genuine guests and operators alongside", 5, run
)
