"""Transports of HTTP connections, which depend on parts of asyncio that are not documented.

If a test fails with a new version of Python, compare `asyncio/sslproto.py` and
`asyncio/selector_events.py` of this version with the comments in `listeners/kbs/transports.py`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from tests.support.clock import elapse, until
from verdictd_py.listeners.buffers import READ_BYTES
from verdictd_py.listeners.kbs import transports

SENT = 300_000
SECONDS = 60.0


class Receiver(asyncio.Protocol):
    """Protocol that stores the sizes of what it received."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.transport: Any = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        del exc
        self.lost = True


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The sockets of broker and client."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def context() -> ssl.SSLContext:
    """TLS settings of the broker."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(server)
    return server


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The TLS protocols that `connect` creates."""
    found: list[Any] = []

    class Recorded(transports._SmallTls):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            found.append(self)

    monkeypatch.setattr(transports, "_SmallTls", Recorded)
    return found


@asynccontextmanager
async def client(theirs: socket.socket, *, tls: bool) -> AsyncIterator[asyncio.Transport]:
    """A client whose connection is complete."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    transport, receiver = await loop.create_connection(
        Receiver,
        sock=theirs,
        ssl=trusting if tls else None,
        server_hostname="" if tls else None,
    )
    try:
        yield transport
    finally:
        transport.close()
        await until(lambda: receiver.lost)


@pytest.mark.parametrize("tls", [True, False])
async def test_one_read_is_small(
    sockets: tuple[socket.socket, socket.socket], context: ssl.SSLContext, tls: bool
) -> None:
    """A read of asyncio has up to 256 KiB."""
    ours, theirs = sockets
    receiver = Receiver()
    connecting = transports.connect(
        ours, lambda: receiver, context if tls else None, seconds=SECONDS
    )
    connected = asyncio.ensure_future(connecting)
    async with client(theirs, tls=tls) as sender:
        await connected
        sender.write(bytes(SENT))
        await until(lambda: sum(receiver.sizes) == SENT)
    # One read of TLS may complete a record of which most was received before.
    assert max(receiver.sizes) <= READ_BYTES * (2 if tls else 1)
    await until(lambda: receiver.lost)


async def test_the_buffer_of_a_tls_connection_is_small(
    sockets: tuple[socket.socket, socket.socket], context: ssl.SSLContext, created: list[Any]
) -> None:
    """That of asyncio has 256 KiB, from the first byte of the handshake on."""
    ours, theirs = sockets
    receiver = Receiver()
    connecting = asyncio.ensure_future(
        transports.connect(ours, lambda: receiver, context, seconds=SECONDS)
    )
    await until(lambda: created)
    (protocol,) = created
    assert isinstance(protocol, asyncio.BufferedProtocol)
    assert memoryview(protocol.get_buffer(-1)).nbytes == READ_BYTES
    async with client(theirs, tls=True):
        await connecting
    await until(lambda: receiver.lost)


def test_the_state_of_a_tls_connection_is_small(context: ssl.SSLContext) -> None:
    """Whatever this version of Python allocates, under whatever name."""
    loop = asyncio.new_event_loop()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    complete = loop.create_future()
    protocol = transports._SmallTls(loop, Receiver(), context, complete, server_side=True)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    complete.cancel()
    protocol.connection_lost(None)
    loop.close()
    assert isinstance(protocol, asyncio.BufferedProtocol)
    assert READ_BYTES <= taken < 3 * READ_BYTES


async def test_the_protocol_gets_its_connection_when_the_handshake_is_complete(
    sockets: tuple[socket.socket, socket.socket], context: ssl.SSLContext
) -> None:
    ours, theirs = sockets
    receivers: list[Receiver] = []

    def create() -> Receiver:
        receivers.append(Receiver())
        return receivers[-1]

    connecting = asyncio.ensure_future(transports.connect(ours, create, context, seconds=SECONDS))
    await elapse(1)
    assert receivers == []
    async with client(theirs, tls=True):
        await connecting
        (receiver,) = receivers
        assert receiver.transport.get_protocol() is receiver
        assert receiver.transport.get_extra_info("cipher") is not None
    await until(lambda: receiver.lost)


async def test_a_failed_handshake_is_reported(
    sockets: tuple[socket.socket, socket.socket], context: ssl.SSLContext
) -> None:
    ours, theirs = sockets
    theirs.send(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        await transports.connect(ours, Receiver, context, seconds=SECONDS)


async def test_a_handshake_has_a_time_limit(
    sockets: tuple[socket.socket, socket.socket], context: ssl.SSLContext
) -> None:
    connecting = asyncio.ensure_future(
        transports.connect(sockets[0], Receiver, context, seconds=SECONDS)
    )
    await elapse(SECONDS - 1)
    assert not connecting.done()
    await elapse(2)
    with pytest.raises(OSError, match=r"longer than"):
        await connecting
