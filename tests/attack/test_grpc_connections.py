"""Attack: a client occupies connections of a gRPC listener without calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.events import RecordedEvents
from verdictd_py.config import Address
from verdictd_py.listeners import grpc_listener
from verdictd_py.listeners.grpc_listener import GrpcListener

CONNECTIONS = 3


@pytest.fixture
def shortened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten one limit: gRPC measures it by a clock that no test can move."""
    assert request.param in dict(grpc_listener._OPTIONS)
    options = dict(grpc_listener._OPTIONS) | {request.param: 300}
    monkeypatch.setattr(grpc_listener, "_OPTIONS", tuple(options.items()))


@pytest.fixture
async def listener() -> AsyncIterator[GrpcListener]:
    found = GrpcListener(
        "client_api",
        [Address("127.0.0.1", 0)],
        lambda server, rules: None,
        events=RecordedEvents(),
        connections=CONNECTIONS,
        described=("test",),
    )
    found.bind()
    await found.start()
    yield found
    await found.stop(0)


@pytest.mark.usefixtures("shortened")
class TestSilence:
    @pytest.mark.parametrize("shortened", ["grpc.server_handshake_timeout_ms"], indirect=True)
    async def test_a_handshake_that_is_not_completed_ends(self, listener: GrpcListener) -> None:
        address = listener.address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        async with asyncio.timeout(60):
            while await reader.read(1024):
                pass
        writer.close()

    @pytest.mark.parametrize("shortened", ["grpc.max_connection_idle_ms"], indirect=True)
    async def test_a_connection_without_calls_ends(self, listener: GrpcListener) -> None:
        address = listener.address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        async with asyncio.timeout(60):
            while await reader.read(1024):
                pass
        writer.close()


async def test_connections_of_a_listener_are_limited(listener: GrpcListener) -> None:
    async with AsyncExitStack() as stack:
        stubs = []
        for _ in range(CONNECTIONS + 1):
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            channel = grpc.aio.insecure_channel(listener.endpoint, options=options)
            stubs.append(HealthStub(await stack.enter_async_context(channel)))
        for stub in stubs[:CONNECTIONS]:
            await stub.Check(health.HealthCheckRequest(), timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stubs[CONNECTIONS].Check(health.HealthCheckRequest(), timeout=60)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
