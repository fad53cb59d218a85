"""Attacks of unattested peers on one listener, in a process of its own.

    python -m tools.torture.attacks JSON

JSON is an `Attack`. The process prints `ready`, waits for the end of its standard input, attacks
for the given time, and prints the counts as a JSON object. It keeps a number of peers, at a limited
rate of connections or requests, from several loopback addresses. Run by root, it attacks the gRPC
listener as the user `nobody`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from OpenSSL import SSL

from tools.torture.broker import KID
from tools.torture.clients import FAILURES, channel_to, wrap
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.protocols.ratstls.session import TlsSession
from verdictd_py.simulator import Flaw, SimulatedPlatform

NOBODY: Final = 65534
NICENESS: Final = 10
ADDRESSES: Final = 32
"""Source addresses, 127.0.0.2 and up. Genuine clients have 127.0.0.1."""

BODY_BYTES: Final = 2 * 1024 * 1024
WRAP_BYTES: Final = 1_000_000
STREAMS_OF_CHANNEL: Final = 60
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""Connection preface and an empty SETTINGS frame (RFC 9113, 3.4 and 6.5)."""
_PING: Final = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
"""PING frame (RFC 9113, 6.7)."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack.

    Attributes:
        kind: a name of `KINDS`.
        peers: number of peers at once.
        rate: connections a second of all peers together; requests, where connections stay.
        ca: file with the CA of the HTTPS listener.
        platform: directory of the simulated platform, whose evidence is tampered with.
        as_nobody: whether the attacker is another local user than root.
    """

    kind: str
    host: str
    port: int
    seconds: float
    peers: int
    rate: float
    ca: str
    platform: str
    as_nobody: bool = False

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        return cls(**json.loads(text))


class Attacker:
    """The state of a running attack.

    Attributes:
        counts: what happened: `connected`, `closed` by the broker, `failed`, `answered`.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.counts: Counter[str] = Counter()
        self._end = self._next = 0.0
        self._numbers = itertools.count()
        self.tls = ssl.create_default_context(cafile=attack.ca)
        self.turns = itertools.cycle((False, True))
        self.contexts = _wrong_contexts(Path(attack.platform))

    def begin(self) -> None:
        """Start the time of the attack."""
        self._next = time.monotonic()
        self._end = self._next + self.attack.seconds

    @property
    def over(self) -> bool:
        """Whether the time of the attack has passed."""
        return time.monotonic() >= self._end

    async def pace(self) -> None:
        """Wait for the next turn at the attack's rate."""
        self._next = max(self._next + 1 / self.attack.rate, time.monotonic())
        await asyncio.sleep(self._next - time.monotonic())

    @asynccontextmanager
    async def connection(self, *, tls: bool = False) -> AsyncIterator[Stream]:
        """Open a connection from the next source address."""
        await self.pace()
        source = f"127.0.0.{2 + next(self._numbers) % ADDRESSES}"
        reader, writer = await asyncio.open_connection(
            self.attack.host,
            self.attack.port,
            local_addr=(source, 0),
            ssl=self.tls if tls else None,
        )
        self.counts["connected"] += 1
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def until_closed(self, reader: asyncio.StreamReader) -> None:
        """Discard what the broker sends until it closes the connection."""
        while await reader.read(65_536):
            pass
        self.counts["closed"] += 1

    async def drip(self, stream: Stream, data: bytes) -> None:
        """Send a byte a second until the broker closes the connection."""
        reader, writer = stream
        closed = asyncio.ensure_future(self.until_closed(reader))
        try:
            for byte in data:
                writer.write(bytes([byte]))
                done, _ = await asyncio.wait([closed], timeout=1)
                if done:
                    break
            await closed
        finally:
            closed.cancel()

    async def run(self) -> None:
        """Keep the number of peers until the attack ends."""
        peer = KINDS[self.attack.kind]

        async def peers() -> None:
            while not self.over:
                try:
                    await peer(self)
                except FAILURES:
                    self.counts["failed"] += 1
                    await self.pace()

        with suppress(TimeoutError):
            async with asyncio.timeout(self.attack.seconds):
                await asyncio.gather(*(peers() for _ in range(self.attack.peers)))


async def silent(attacker: Attacker) -> None:
    """Connect and send nothing."""
    async with attacker.connection() as (reader, _):
        await attacker.until_closed(reader)


async def slow_hello(attacker: Attacker) -> None:
    """Send a ClientHello, a byte a second."""
    async with attacker.connection() as stream:
        await attacker.drip(stream, _client_hello())


async def half_handshake(attacker: Attacker) -> None:
    """Send a ClientHello and nothing more."""
    async with attacker.connection() as (reader, writer):
        writer.write(_client_hello())
        await attacker.until_closed(reader)


async def wrong_certificate(attacker: Attacker) -> None:
    """Complete handshakes with no, tampered or wrongly signed evidence."""
    async with attacker.connection() as (reader, writer):
        session = TlsSession(next(attacker.contexts), server=False)
        while not session.handshake():
            writer.write(session.outgoing())
            session.receive(await reader.read(65_536))
        writer.write(session.outgoing())
        await attacker.until_closed(reader)


async def slow_headers(attacker: Attacker) -> None:
    """Send the header of an HTTP request, a byte a second."""
    async with attacker.connection(tls=True) as stream:
        await attacker.drip(stream, b"GET /kbs/v0/resource/a/b/c HTTP/1.1\r\nHost: kbs\r\n")


async def huge_body(attacker: Attacker) -> None:
    """Send large evidence, at 64 KiB/s, half of the peers with the cookie of a session."""
    with_session = next(attacker.turns)
    async with attacker.connection(tls=True) as (reader, writer):
        cookie = await _cookie(reader, writer) if with_session else ""
        head = f"POST /kbs/v0/attest HTTP/1.1\r\nHost: kbs\r\nContent-Length: {BODY_BYTES}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n{cookie}\r\n".encode())
        closed = asyncio.ensure_future(attacker.until_closed(reader))
        try:
            for _ in range(BODY_BYTES // 65_536):
                writer.write(b'"' * 65_536)
                await writer.drain()
                if (await asyncio.wait([closed], timeout=1))[0]:
                    break
            await closed
        finally:
            closed.cancel()


async def many_auth(attacker: Attacker) -> None:
    """Request challenges on connections that stay open."""
    async with attacker.connection(tls=True) as (reader, writer):
        while not attacker.over:
            await attacker.pace()
            await _cookie(reader, writer)
            attacker.counts["answered"] += 1


async def idle_http2(attacker: Attacker) -> None:
    """Open an HTTP/2 connection and make no call."""
    async with attacker.connection() as (reader, writer):
        writer.write(_PREFACE)
        await attacker.until_closed(reader)


async def pings(attacker: Attacker) -> None:
    """Send 100 pings a second on each connection."""
    async with attacker.connection() as (reader, writer):
        writer.write(_PREFACE)
        closed = asyncio.ensure_future(attacker.until_closed(reader))
        try:
            while not (await asyncio.wait([closed], timeout=0.1))[0]:
                writer.write(_PING * 10)
        finally:
            closed.cancel()


async def streams(attacker: Attacker) -> None:
    """Open `Health/Watch` streams and keep them."""
    await attacker.pace()
    async with channel_to(f"{attacker.attack.host}:{attacker.attack.port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def watch() -> None:
            try:
                async for _ in stub.Watch(health_pb2.HealthCheckRequest()):
                    attacker.counts["answered"] += 1
            except grpc.aio.AioRpcError:
                attacker.counts["closed"] += 1

        await asyncio.gather(*(watch() for _ in range(STREAMS_OF_CHANNEL)))


async def wraps(attacker: Attacker) -> None:
    """Wrap large layer keys with the key that every local user may wrap with."""
    async with channel_to(f"{attacker.attack.host}:{attacker.attack.port}") as channel:
        while not attacker.over:
            await attacker.pace()
            try:
                await wrap(channel, KID, padding=WRAP_BYTES)
                attacker.counts["answered"] += 1
            except grpc.aio.AioRpcError:
                attacker.counts["closed"] += 1


KINDS: Final[Mapping[str, Callable[[Attacker], Awaitable[None]]]] = {
    "silent": silent,
    "slow-hello": slow_hello,
    "half-handshake": half_handshake,
    "wrong-certificate": wrong_certificate,
    "slow-headers": slow_headers,
    "huge-body": huge_body,
    "many-auth": many_auth,
    "idle-http2": idle_http2,
    "pings": pings,
    "streams": streams,
    "wraps": wraps,
}


def _client_hello() -> bytes:
    """Return the first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="broker.test")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _wrong_contexts(directory: Path) -> itertools.cycle[SSL.Context]:
    """Return TLS settings of guests that must be refused, endlessly."""
    now = app.utc_now()
    platform = SimulatedPlatform.load(directory)
    attesters = (
        None,
        SimulatedAttester(platform, flaw=Flaw.CHANGED_AFTER_SIGNING),
        SimulatedAttester(SimulatedPlatform.create(now=now)),  # another root
    )
    return itertools.cycle([guest_context(one, Form.CURRENT, now=now) for one in attesters])


async def _cookie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Request a challenge; return the header line with its cookie.

    Raises:
        ConnectionError: there was no such answer.
    """
    body = b'{"version":"0.4.0","tee":"tdx","extra-params":{}}'
    head = "POST /kbs/v0/auth HTTP/1.1\r\nHost: kbs\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in headers[1:])
        fields = {name.lower(): text for name, _, text in pairs}
        await reader.readexactly(int(fields["content-length"]))
        return f"Cookie: {fields['set-cookie'].partition(';')[0]}\r\n"
    except (asyncio.IncompleteReadError, KeyError) as error:
        raise ConnectionError("no challenge") from error


async def main(attack: Attack) -> None:
    """Run the attack and print its counts."""
    # Real attackers have their own processors. Only the broker's work for them may delay clients.
    os.nice(NICENESS)
    attacker = Attacker(attack)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    attacker.begin()
    if os.geteuid() == 0 and attack.as_nobody:
        os.setuid(NOBODY)
    await attacker.run()
    print(json.dumps(attacker.counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Attack.decode(sys.argv[1])))
