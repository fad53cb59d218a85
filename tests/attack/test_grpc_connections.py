"""Attack: a client occupies connections of a gRPC listener without calls."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.clock import elapse, until
from tests.support.events import RecordedEvents
from verdictd_py.config import Address
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import callers, grpc_connections, grpc_listener, grpc_relay
from verdictd_py.listeners.grpc_connections import GrpcConnections
from verdictd_py.listeners.grpc_listener import GrpcListener
from verdictd_py.listeners.loopback import Endpoint
from verdictd_py.listeners.private_socket import PrivateSocket
from verdictd_py.listeners.shares import ShareLimits
from verdictd_py.listeners.sockets import PROBE_AFTER_SECONDS, PROBE_INTERVAL_SECONDS, PROBES

CONNECTIONS: Final = 3
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def shortened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten one limit: gRPC measures it by a clock that no test can move."""
    assert request.param in dict(grpc_listener._OPTIONS)
    options = dict(grpc_listener._OPTIONS) | {request.param: 300}
    monkeypatch.setattr(grpc_listener, "_OPTIONS", tuple(options.items()))


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
async def listener(events: RecordedEvents) -> AsyncIterator[GrpcListener]:
    found = GrpcListener(
        "client_api",
        [Address("127.0.0.1", 0)],
        lambda server, rules: None,
        events=events,
        connections=CONNECTIONS,
        described=("test",),
    )
    found.bind()
    await found.start()
    yield found
    await found.stop(0)


Connect = Callable[[bytes], Awaitable[Stream]]


@pytest.fixture
async def connect(listener: GrpcListener) -> AsyncIterator[Connect]:
    """Function that returns a connection which has sent some bytes."""
    async with AsyncExitStack() as stack:

        async def connected(sent: bytes) -> Stream:
            address = listener.address
            reader, writer = await asyncio.open_connection(address.host, address.port)
            stack.callback(writer.close)
            writer.write(sent)
            return reader, writer

        yield connected
    await asyncio.sleep(0)  # transports close in the next round


async def closed(connection: Stream) -> None:
    """Wait until the broker closes a connection."""
    while await connection[0].read(1024):
        pass


@asynccontextmanager
async def health_of(listener: GrpcListener) -> AsyncIterator[HealthStub]:
    """Yield a client with a connection of its own, which does not connect again."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(listener.endpoint, options=options) as channel:
        yield HealthStub(channel)


async def check(stub: HealthStub) -> None:
    answer = await stub.Check(health.HealthCheckRequest(), timeout=60)
    assert answer.status == health.HealthCheckResponse.SERVING


class TestSilence:
    async def test_a_client_that_sends_nothing_is_disconnected(
        self, listener: GrpcListener, connect: Connect, events: RecordedEvents
    ) -> None:
        connection = await connect(b"")
        await until(lambda: listener._connections._waiting)
        await elapse(grpc_connections.FIRST_BYTE_SECONDS)
        await closed(connection)
        assert events.names == ["connection.timeout"]

    @pytest.mark.parametrize(
        ("shortened", "sent"),
        [
            ("grpc.server_handshake_timeout_ms", PREFACE[:1]),
            ("grpc.max_connection_idle_ms", PREFACE),
        ],
        indirect=["shortened"],
    )
    async def test_grpc_limits_what_follows(
        self, shortened: None, connect: Connect, sent: bytes
    ) -> None:
        await closed(await connect(sent))

    @pytest.mark.parametrize("shortened", ["grpc.max_connection_age_ms"], indirect=True)
    async def test_an_old_connection_takes_no_more_calls(
        self, shortened: None, connect: Connect
    ) -> None:
        reader, _ = await connect(PREFACE)
        await reader.readuntil(b"max_age")  # the reason in gRPC's GOAWAY


async def test_a_client_that_vanished_is_noticed(listener: GrpcListener, connect: Connect) -> None:
    """Accepted connections inherit the options of the listening socket."""
    await connect(b"")
    await until(lambda: listener._connections._waiting)
    (connection,) = listener._connections._waiting
    options = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES),
        (
            socket.IPPROTO_TCP,
            socket.TCP_USER_TIMEOUT,
            1000 * (PROBE_AFTER_SECONDS + PROBES * PROBE_INTERVAL_SECONDS),
        ),
    )
    for level, option, value in options:
        assert connection._accepted.getsockopt(level, option) == value


class TestFlood:
    @pytest.mark.parametrize("sent", [b"", PREFACE], ids=["silent", "idle"])
    async def test_the_oldest_connection_without_a_call_is_closed(
        self, listener: GrpcListener, connect: Connect, events: RecordedEvents, sent: bytes
    ) -> None:
        flood = [await connect(sent) for _ in range(CONNECTIONS)]
        for turn in range(2 * CONNECTIONS):
            async with health_of(listener) as stub:
                await check(stub)
            if turn < CONNECTIONS:
                flood.append(await connect(sent))
        for connection in flood[:CONNECTIONS]:
            await closed(connection)
        assert "this was the oldest" in str(events.named("connection.refused")[0]["reason"])

    async def test_a_connection_with_a_call_is_not_closed(
        self, listener: GrpcListener, connect: Connect
    ) -> None:
        async with health_of(listener) as stub:
            watching = stub.Watch(health.HealthCheckRequest(service="verdictd.ready"))
            assert (await watching.read()).status == health.HealthCheckResponse.NOT_SERVING
            for _ in range(3 * CONNECTIONS):
                await connect(b"")
            await until(lambda: len(listener._connections._waiting) == CONNECTIONS - 1)
            await listener.set_ready("verdictd.ready", ready=True)
            assert (await watching.read()).status == health.HealthCheckResponse.SERVING
            watching.cancel()

    async def test_a_connection_whose_call_has_ended_may_be_closed(
        self, listener: GrpcListener
    ) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(2 * CONNECTIONS):
                await check(await stack.enter_async_context(health_of(listener)))

    async def test_connections_whose_calls_have_ended_do_not_prevent_protection(self) -> None:
        """Three of four connections may be protected."""
        loop = asyncio.get_running_loop()
        with serving(4) as (connections, grpc_socket), ExitStack() as stack:
            names = []
            for _ in range(4):
                client = stack.enter_context(take(connections))
                client.send(b"x")
                inner, name = await loop.sock_accept(grpc_socket)
                stack.callback(inner.close)
                names.append(name[1:].decode())
            for name in names[:3]:
                connections.begin_call(name)()
            end_call = connections.begin_call(names[3])
            for _ in range(3):
                stack.enter_context(take(connections))
            assert [connections.peer(name) is not None for name in names] == [False] * 3 + [True]
            end_call()
            for _ in range(4):
                stack.enter_context(take(connections))
            assert connections.peer(names[3]) is None
            await connections.close()

    async def test_a_new_connection_replaces_one_whose_call_has_ended(self) -> None:
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket), ExitStack() as stack:
            names = []
            for _ in range(CONNECTIONS):
                client = stack.enter_context(take(connections))
                client.send(b"x")
                inner, name = await loop.sock_accept(grpc_socket)
                stack.callback(inner.close)
                names.append(name[1:].decode())
            for end_call in [connections.begin_call(name) for name in names]:
                end_call()
            stack.enter_context(take(connections))
            assert [connections.peer(name) is None for name in names] == [True, False, False]
            assert len(connections._taken) == CONNECTIONS
            await connections.close()

    async def test_a_flood_of_one_user_closes_its_own_connections(
        self, listener: GrpcListener, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uids = iter((0,))

        def owner(client: Endpoint, server: Endpoint) -> int:
            return next(uids, 65534)

        monkeypatch.setattr(callers, "owner", owner)
        operator = await connect(b"")
        await until(lambda: listener._connections._waiting)
        flood = [await connect(b"") for _ in range(3 * CONNECTIONS)]
        for connection in flood[: 2 * CONNECTIONS]:
            await closed(connection)
        operator[1].write(PREFACE)
        assert await operator[0].readexactly(9)  # the header of gRPC's SETTINGS


@contextmanager
def serving(most: int = CONNECTIONS) -> Iterator[tuple[GrpcConnections, socket.socket]]:
    """Yield connections that are relayed to a socket in place of gRPC."""
    connections = GrpcConnections(ShareLimits.of(most), RecordedEvents(), listener="client_api")
    with socket.socket(socket.AF_UNIX) as grpc_socket:

        def listen(address: str) -> None:
            grpc_socket.bind(address.removeprefix("unix:"))
            grpc_socket.listen()
            grpc_socket.setblocking(False)

        connections.serve(PrivateSocket(listen), in_threads=False)
        yield connections, grpc_socket


def take(connections: GrpcConnections) -> socket.socket:
    """Return the client's end of a connection that was taken."""
    client, accepted = connected()
    connections.take(accepted, client.getsockname())
    return client


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    accepted.setblocking(False)
    return client, accepted


class TestRelay:
    async def test_a_call_is_never_attributed_to_a_later_connection(self) -> None:
        loop = asyncio.get_running_loop()
        names: list[str] = []
        with serving() as (connections, grpc_socket):
            for _ in range(3):
                client = take(connections)
                client.send(b"x")
                inner, name = await loop.sock_accept(grpc_socket)
                names.append(f"unix-abstract:{name[1:].decode()}")
                peer = connections.peer(names[-1])
                assert peer is not None
                assert peer.port == client.getsockname()[1]
                client.close()
                await until(lambda: not connections._open)
                assert [connections.peer(name) for name in names] == [None] * len(names)
                inner.close()
            await connections.close()
        assert len(set(names)) == len(names)

    async def test_what_has_arrived_is_relayed_without_a_round_of_the_loop(self) -> None:
        """Clients of gRPC send at once. A client that does not is waited for."""
        with serving() as (connections, grpc_socket), ExitStack() as stack:
            client, accepted = connected()
            silent, silent_accepted = connected()
            for each in (client, silent, grpc_socket):
                stack.callback(each.close)
            client.send(b"x")
            connections.take(accepted, client.getsockname())
            connections.take(silent_accepted, silent.getsockname())
            inner, _ = grpc_socket.accept()
            stack.callback(inner.close)
            assert inner.recv(2) == b"x"
            assert len(connections._waiting) == 1
            with pytest.raises(BlockingIOError):
                grpc_socket.accept()
            await connections.close()

    async def test_no_user_can_take_the_name_of_the_next_connection(self) -> None:
        """Names in use are public (/proc/net/unix), and must not show the names after them."""
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket), ExitStack() as stack:
            clients = [stack.enter_context(take(connections)) for _ in range(2)]
            names = []
            for client in clients:
                client.send(b"x")
                inner, name = await loop.sock_accept(grpc_socket)
                stack.callback(inner.close)
                names.append(name.decode())
            same = [a == b for a, b in zip(*names, strict=True)]
            assert same.count(True) < len(same) - 16
            await connections.close()

    async def test_a_reset_connection_is_not_that_of_the_next_user_of_its_port(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the client sent before its reset can still be received, but with no rights."""
        client, accepted = connected()

        def owner(*_: Endpoint) -> int:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return 0  # root has connected from the same port meanwhile

        monkeypatch.setattr(callers, "owner", owner)
        with serving() as (connections, grpc_socket):
            client.send(b"x")
            connections.take(accepted, client.getsockname())
            await elapse(0)
            assert not connections._taken
            with pytest.raises(BlockingIOError):  # nothing was relayed
                grpc_socket.accept()
            await connections.close()

    async def test_a_client_that_reads_nothing_is_disconnected(self) -> None:
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket), take(connections) as client:
            client.send(b"x")
            inner, _ = await loop.sock_accept(grpc_socket)
            sending = asyncio.ensure_future(loop.sock_sendall(inner, bytes(64 << 20)))
            for _ in range(1000):  # until the kernel stores no more
                await asyncio.sleep(0)
            assert connections._open
            assert not sending.done()
            await elapse(grpc_relay.SEND_SECONDS)
            with pytest.raises(ConnectionError):
                await sending
            await until(lambda: not connections._taken)
            inner.close()
            await connections.close()

    async def test_the_last_frames_of_grpc_reach_a_client_that_still_sends(self) -> None:
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket), take(connections) as client:
            client.send(b"x")
            inner, _ = await loop.sock_accept(grpc_socket)
            size = inner.send(bytes(150_000))  # several rounds of the loop
            inner.close()
            client.send(b"y")
            client.setblocking(False)
            received = 0
            while data := await loop.sock_recv(client, size):
                received += len(data)
            assert received == size
            await connections.close()

    async def test_grpc_can_be_reached_by_no_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with serving() as (connections, _), take(connections) as client:
            assert list(tmp_path.iterdir()) == []
            client.send(b"x")
            await until(lambda: connections._open)
            client.close()
            await connections.close()

    async def test_a_directory_that_cannot_be_written_is_refused_with_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        with pytest.raises(ConfigError, match="set TMPDIR"), serving():
            pass


class TestChunks:
    """What the relay stores, and in which order it works."""

    async def test_a_client_is_read_only_as_fast_as_grpc_reads(self) -> None:
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket), take(connections) as client:
            client.setblocking(False)
            client.send(b"x")
            inner, _ = await loop.sock_accept(grpc_socket)
            sent = bytes(range(256)) * (64 << 10)
            sending = asyncio.ensure_future(loop.sock_sendall(client, sent))
            (connection,) = connections._taken
            assert connection._relay is not None
            requests = connection._relay._requests
            await until(lambda: requests._rest)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not sending.done()
            assert 0 < len(requests._rest) <= grpc_relay.CHUNK_BYTES
            received = bytearray()
            while len(received) <= len(sent):
                received += await loop.sock_recv(inner, 1 << 20)
            assert bytes(received) == b"x" + sent
            await sending
            assert not requests._rest
            inner.close()
            await connections.close()

    async def test_answers_arrive_complete_at_a_client_that_reads_slowly(self) -> None:
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket), take(connections) as client:
            client.setblocking(False)
            client.send(b"x")
            inner, _ = await loop.sock_accept(grpc_socket)
            sent = bytes(range(256)) * (64 << 10)
            sending = asyncio.ensure_future(loop.sock_sendall(inner, sent))
            (connection,) = connections._taken
            assert connection._relay is not None
            answers = connection._relay._answers
            await until(lambda: answers._rest)
            assert answers._timer is not None
            received = bytearray()
            while len(received) < len(sent):
                received += await loop.sock_recv(client, 100_000)
            assert bytes(received) == sent
            await sending
            await elapse(grpc_relay.SEND_SECONDS)
            assert connections._taken  # it took some bytes in time
            inner.close()
            await connections.close()
            await until(lambda: not connections._taken)

    async def test_an_ended_connection_leaves_no_callbacks(self) -> None:
        loop = asyncio.get_running_loop()
        with serving() as (connections, grpc_socket):
            client = take(connections)
            client.send(b"x")
            inner, _ = await loop.sock_accept(grpc_socket)
            (connection,) = connections._taken
            assert connection._inner is not None
            numbers = connection._accepted.fileno(), connection._inner.fileno()
            client.close()
            await until(lambda: not connections._taken)
            assert [loop.remove_reader(number) for number in numbers] == [False, False]
            assert [loop.remove_writer(number) for number in numbers] == [False, False]
            inner.close()
            await connections.close()
