"""Health checks that connect and close without a byte are no lines of the log at level INFO."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import until
from verdictd_py.domain.eventtypes import Level

CLOSED = ("connection.closed", "connection.failed", "connection.timeout", "connection.refused")


async def probe(port: int, *, reset: bool) -> None:
    """Connect and close at once, with a reset as some load balancers do."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("listener", ["listen", "kbs_http"])
@pytest.mark.broker(kbs_http="0.0.0.0:0")  # with TLS
async def test_a_probe_is_an_event_of_level_debug(
    broker: RunningBroker, listener: str, reset: bool
) -> None:
    await probe(broker.daemon.listener(listener).address.port, reset=reset)
    await until(lambda: broker.events.named("connection.probed"))
    assert not broker.events.named(*CLOSED)


async def test_a_probe_is_below_the_default_level() -> None:
    from verdictd_py.domain.events import ConnectionProbed  # noqa: PLC0415

    assert ConnectionProbed.spec.level is Level.DEBUG
    assert Level.DEBUG not in Level.from_level("info")
