"""Clients of all servers, in a process of their own that executes commands.

Usage: python -m benchmarks.clients DIRECTORY

Each command is a line of JSON with the name of a method of `Clients` and its arguments. What costs
the client most, keys and quotes, is made before the clock starts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from OpenSSL import SSL

from benchmarks.datasets import KID, PLATFORM
from benchmarks.guests import Address, Guest, new_guest
from benchmarks.http_guests import RESOURCE_PATH, Connection, HttpGuest
from verdictd_py._generated import keyprovider_pb2 as keyprovider
from verdictd_py._generated import keyprovider_pb2_grpc as keyprovider_grpc
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.errors import VerdictdError
from verdictd_py.simulator import SimulatedPlatform

EMPTY_METHOD: Final = "/benchmark.Empty/Call"
PATIENCE_SECONDS: Final = 600.0
"""Time limit of one client. Whether the broker is fast enough is judged by its CPU time."""

_CHANNEL: Final = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
_FAILURES: Final = (VerdictdError, grpc.aio.AioRpcError, OSError, ValueError, SSL.Error)
_REPORTED: Final = 5

Call = Callable[[], Awaitable[None]]
Answer = dict[str, Any]


class Clients:
    """Commands; each public method is one. Those that return a measurement have its members:
    `count`, `seconds` of wall time for all of them, and the first texts of `failures`.
    """

    def __init__(self, platform: SimulatedPlatform) -> None:
        self._platform = platform
        self._seen = new_guest(platform)
        self._storm: list[SSL.Context] = []
        self._guests: list[Guest] = []
        self._http: Connection | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def attested(
        self,
        address: Address,
        count: int,
        *,
        unseen: bool,
        unseen_claims: bool = False,
        at_once: int = 1,
    ) -> Answer:
        """Attest, get a key and disconnect; each guest is unseen, or all are the same."""
        contexts = self._contexts(count, unseen=unseen, unseen_claims=unseen_claims)

        async def session(context: SSL.Context) -> None:
            guest = await Guest.connect(address, context)
            await guest.key()
            guest.close()

        return await _measured((_bound(session, each) for each in contexts), at_once)

    async def handshakes(self, address: Address, count: int, *, unseen: bool) -> Answer:
        """Complete handshakes with a server that then closes the connection."""

        async def handshake(context: SSL.Context) -> None:
            guest = await Guest.connect(address, context)
            await guest.wait_closed()

        contexts = self._contexts(count, unseen=unseen)
        return await _measured(_bound(handshake, each) for each in contexts)

    async def hold(self, address: Address, count: int) -> Answer:
        """Attest further guests and get a key for each; the connections stay open."""

        async def hold(context: SSL.Context) -> None:
            guest = await Guest.connect(address, context)
            await guest.key()
            self._guests.append(guest)

        contexts = self._contexts(count, unseen=True)
        return await _measured(_bound(hold, each) for each in contexts)

    async def kept(self, count: int) -> Answer:
        """Get a key on the last connection that is held. The answer has `latencies` as well."""
        return await _each([self._guests[-1].key] * count)

    async def release(self) -> Answer:
        """Close the connections that are held."""
        for guest in self._guests:
            guest.close()
        self._guests.clear()
        return {}

    async def prepare_storm(self, count: int) -> Answer:
        """Make the guests of a storm."""
        self._storm = self._contexts(count, unseen=True)
        return {}

    async def storm(self, address: Address) -> Answer:
        """Attest all prepared guests at once, each from an address of its own.

        The answer also has the latencies: `median` and `last` in seconds.
        """
        begun = time.perf_counter()
        latencies: list[float] = []

        async def boot(number: int, context: SSL.Context) -> None:
            source = f"127.1.{number // 250}.{number % 250 + 1}"
            guest = await Guest.connect(address, context, source=source)
            await guest.key()
            latencies.append(time.perf_counter() - begun)
            guest.close()

        calls = [_bound(boot, *each) for each in enumerate(self._storm)]
        answer = await _measured(calls, len(calls))
        self._storm = []
        ordered = sorted(latencies) or [0.0]
        return {**answer, "median": ordered[len(ordered) // 2], "last": ordered[-1]}

    async def http_sessions(
        self, url: str, count: int, *, tdx: bool, connections: int = 1, at_once: int = 1
    ) -> Answer:
        """Attest over HTTP and get a resource; every guest has a new key."""
        platform = self._platform if tdx else None
        guests = [HttpGuest(url, platform) for _ in range(count)]
        return await _measured((_bound(each.session, connections) for each in guests), at_once)

    async def http_open(self, url: str) -> Answer:
        """Attest over HTTP, for `http_resources`."""
        guest = HttpGuest(url, self._platform)
        self._http = await guest.attested()
        guest.open(await self._http.request("GET", RESOURCE_PATH))
        return {}

    async def http_resources(self, count: int) -> Answer:
        """Get a resource on the connection of the attested guest, with `latencies` as well."""
        connection = self._http
        if connection is None:
            raise ValueError("no guest has attested")
        return await _each([_bound(connection.request, "GET", RESOURCE_PATH)] * count)

    async def http_empty(self, url: str, count: int, *, connections: int, requests: int) -> Answer:
        """Send empty requests: some on each of some new connections, `count` times."""

        async def several() -> None:
            for _ in range(connections):
                connection = await Connection.open(url)
                for _ in range(requests):
                    await connection.request("GET", "/")
                await connection.close()

        return await _measured([several] * count)

    async def http_empty_kept(self, url: str, count: int) -> Answer:
        """Send empty requests on one connection."""
        connection = await Connection.open(url)
        answer = await _measured([_bound(connection.request, "GET", "/")] * count)
        await connection.close()
        return answer

    async def wrap(self, address: str, count: int, *, kept: bool) -> Answer:
        """Wrap a layer key, each on a new connection, or all on one."""

        async def call(channel: grpc.aio.Channel) -> None:
            stub: Any = keyprovider_grpc.KeyProviderServiceStub(channel)
            answer = await stub.WrapKey(_WRAP, timeout=PATIENCE_SECONDS)
            json.loads(answer.KeyProviderKeyWrapProtocolOutput)["keywrapresults"]

        return await self._calls(address, call, count, kept=kept)

    async def grpc_empty(self, address: str, count: int, *, kept: bool) -> Answer:
        """Call an empty method, each on a new connection, or all on one."""

        async def call(channel: Any) -> None:  # noqa: ANN401  # its stubs require serializers
            await channel.unary_unary(EMPTY_METHOD)(b"", timeout=PATIENCE_SECONDS)

        return await self._calls(address, call, count, kept=kept)

    async def key_pages(self, address: str, count: int, *, size: int) -> Answer:
        """List the first page of the keys, and the next one if there is any."""

        async def call(channel: grpc.aio.Channel) -> None:
            stub: Any = v1_grpc.KeyServiceStub(channel)
            token = ""
            for _ in range(2):
                request = v1.ListKeysRequest(page_size=size, page_token=token)
                token = (await stub.ListKeys(request, timeout=PATIENCE_SECONDS)).next_page_token
                if not token:
                    return

        return await self._calls(address, call, count, kept=True)

    async def _calls(
        self,
        address: str,
        call: Callable[[grpc.aio.Channel], Awaitable[None]],
        count: int,
        *,
        kept: bool,
    ) -> Answer:
        if kept:
            if address not in self._channels:
                self._channels[address] = _channel(address)
            return await _measured([_bound(call, self._channels[address])] * count)

        async def on_new() -> None:
            async with _channel(address) as channel:
                await call(channel)

        return await _measured([on_new] * count)

    def _contexts(
        self, count: int, *, unseen: bool, unseen_claims: bool = False
    ) -> list[SSL.Context]:
        if not unseen:
            return [self._seen] * count
        return [new_guest(self._platform, unseen_claims=unseen_claims) for _ in range(count)]


_WRAP: Final = keyprovider.keyProviderKeyWrapProtocolInput(
    KeyProviderKeyWrapProtocolInput=json.dumps(
        {
            "op": "keywrap",
            "keywrapparams": {
                "ec": {
                    "Parameters": {"attestation-agent": [base64.b64encode(KID.encode()).decode()]},
                    "DecryptConfig": {},
                },
                "optsdata": base64.b64encode(b'{"symkey":"the key of a layer"}').decode(),
            },
            "keyunwrapparams": {"dc": None, "annotation": None},
        }
    ).encode()
)


def _channel(address: str) -> grpc.aio.Channel:
    """Return a channel with a connection of its own, as each call of ocicrypt has one."""
    return grpc.aio.insecure_channel(address, options=_CHANNEL)


def _bound(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Call:  # noqa: ANN401
    async def bound() -> None:
        await call(*arguments)

    return bound


async def _measured(calls: Iterable[Call], at_once: int = 1) -> Answer:
    """Make all calls, a number of them at a time, and measure the wall time of all."""
    waiting = iter(list(calls))
    done, failures = 0, []

    async def worker() -> None:
        nonlocal done
        for call in waiting:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await call()
            except _FAILURES as error:
                failures.append(f"{type(error).__name__}: {error}"[:300])
            done += 1

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    seconds = time.perf_counter() - begun
    return {
        "count": done,
        "seconds": seconds,
        "failures": failures[:_REPORTED],
        "failed": len(failures),
    }


async def _each(calls: Sequence[Call]) -> Answer:
    """Make calls one after the other, and measure each: the answer has `latencies` in ms."""
    latencies: list[float] = []

    async def timed(call: Call) -> None:
        begun = time.perf_counter()
        await call()
        latencies.append(round(1000 * (time.perf_counter() - begun), 4))

    answer = await _measured(_bound(timed, call) for call in calls)
    return {**answer, "latencies": latencies}


async def execute(clients: Clients, line: bytes) -> Answer:
    """Execute a command; a command that fails is answered with `error`."""
    command = json.loads(line)
    try:
        answer: Answer = await getattr(clients, command.pop("call"))(**command)
    except _FAILURES as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return answer


async def main(directory: Path) -> None:
    clients = Clients(SimulatedPlatform.load(directory / PLATFORM))
    loop = asyncio.get_running_loop()
    print(json.dumps({"ready": True}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        print(json.dumps(await execute(clients, line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
