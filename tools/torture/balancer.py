"""Several brokers, some of which are killed or cut off, and the load balancer before them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from tools.torture.broker import Broker, Site
from tools.torture.changes import Gate
from verdictd_py.guest.rcar.http import KbsLink

PROBE_SECONDS: Final = 0.5
"""Pause between two probes of a broker."""

PATIENCE_SECONDS: Final = 2.0
"""Patience of a probe."""


@dataclass(frozen=True)
class Place:
    """Where a broker runs: its data directory, and its options."""

    site: Site
    options: tuple[str, ...]


class Fleet:
    """The brokers, of which some are running.

    Attributes:
        gates: of the operators of each broker.
        cut: numbers of those that are cut off; they are not killed, and operators avoid them.
    """

    def __init__(self, places: Sequence[Place], choose: random.Random) -> None:
        self._places = places
        self._choose = choose
        self._unready: set[Broker] = set()
        self.gates = [Gate() for _ in places]
        self.running: dict[int, Broker] = {}
        self.cut: set[int] = set()
        self.kills = 0

    async def start(self, number: int) -> None:
        """Start a broker."""
        place = self._places[number]
        broker = await Broker.start(place.site, *place.options)
        self.running[number] = broker
        self.gates[number].open(broker.client_api)

    async def start_all(self) -> None:
        """Start all brokers that do not run."""
        for number in range(len(self._places)):
            if number not in self.running:
                await self.start(number)

    async def kill_one(self) -> None:
        """Kill a broker, if another one runs, and start it again."""
        others = sorted(self.running.keys() - self.cut)
        if len(self.running) < 2 or not others:
            return
        number = self._choose.choice(others)
        broker = self.running.pop(number)
        closing = asyncio.create_task(self.gates[number].close())
        await broker.kill()
        await closing
        self.kills += 1
        await self.start(number)

    async def stop(self) -> None:
        """Kill all brokers."""
        for broker in self.running.values():
            await broker.kill()

    def for_guests(self) -> list[Broker]:
        """Return the running brokers in random order; first those that said that they are ready."""
        brokers = self._shuffled(self.running)
        return sorted(brokers, key=self._unready.__contains__)

    def for_operators(self) -> list[Broker]:
        """Return the running brokers that are not cut off, in random order."""
        return self._shuffled(self.running.keys() - self.cut)

    def _shuffled(self, numbers: Sequence[int] | set[int] | dict[int, Broker]) -> list[Broker]:
        brokers = [self.running[number] for number in sorted(numbers)]
        self._choose.shuffle(brokers)
        return brokers

    async def watch(self) -> None:
        """Probe all brokers again and again, as a load balancer does."""
        while True:
            brokers = list(self.running.values())
            ready = await asyncio.gather(*map(is_ready, brokers))
            self._unready = {b for b, is_one in zip(brokers, ready, strict=True) if not is_one}
            await asyncio.sleep(PROBE_SECONDS)


async def is_ready(broker: Broker) -> bool:
    """Return whether a broker answers that it is ready."""
    host, _, port = broker.status.removeprefix("http://").rpartition(":")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except OSError:  # includes TimeoutError
        return False


class Balancer(httpx.AsyncBaseTransport):
    """Sends each request to a broker at random; to the next one if it cannot connect."""

    def __init__(self, fleet: Fleet, ca: Path) -> None:
        self._fleet = fleet
        self._transport = httpx.AsyncHTTPTransport(
            verify=KbsLink("https://127.0.0.1:1", ca=ca)._context(),  # noqa: SLF001  # the same trust
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=30),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        problem: Exception = httpx.ConnectError("no broker runs")
        for broker in self._fleet.for_guests():
            target = httpx.URL(broker.kbs)
            sent = httpx.Request(  # the guest's own request keeps its URL, which its cookie is for
                request.method,
                request.url.copy_with(host=target.host, port=target.port),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
            try:
                return await self._transport.handle_async_request(sent)
            except httpx.ConnectError as error:
                problem = error
        raise problem

    async def close(self) -> None:
        """Close all connections; unlike `aclose`, which each guest's client calls."""
        await self._transport.aclose()
