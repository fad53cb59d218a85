"""Bytes that a client sends while a complete request of its connection has no answer yet."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import elapse, until
from tests.support.kbs_raw import Link, all_closed, lines, linked, request
from verdictd_py.broker.handshakes import Handshakes, NewSession
from verdictd_py.listeners.buffers import READ_BYTES
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES, AuthRequest

pytestmark = pytest.mark.broker(kbs=True)

AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
ONE = request("POST", "/kbs/v0/auth", AUTH)


@dataclass
class Gate:
    """Holds the first request until the test lets it continue."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    begin = Handshakes.begin

    async def held(self: Handshakes, request: AuthRequest) -> NewSession:
        gate.begun.set()
        await gate.open.wait()
        return await begin(self, request)

    monkeypatch.setattr(Handshakes, "begin", held)
    yield gate
    gate.open.set()


async def answered(link: Link) -> int:
    answer = await link.answer()
    assert answer is not None
    return answer.status


def held_bytes(broker: RunningBroker) -> int:
    return broker.kbs._acceptor.shares.buffers.total


async def test_at_most_one_read_of_further_requests_is_held(
    broker: RunningBroker, gate: Gate
) -> None:
    """The rest waits in the kernel, and then in the client."""
    long = request("POST", "/kbs/v0/auth", b" " * (MAX_BODY_BYTES - 1))
    count = 16
    async with linked(broker) as link:
        await link.send(ONE)
        await gate.begun.wait()
        link.writer.write(long * count)
        await until(lambda: held_bytes(broker) > len(ONE))
        for _ in range(20):
            await elapse(0.1)
            assert held_bytes(broker) <= len(ONE) + READ_BYTES
        gate.open.set()
        assert [await answered(link) for _ in range(1 + count)] == [200] + [400] * count
        await until(lambda: held_bytes(broker) == 0)


async def test_bytes_that_were_read_ahead_stay_counted(broker: RunningBroker, gate: Gate) -> None:
    begun = request("POST", "/kbs/v0/auth", AUTH)[: -len(AUTH)]
    async with linked(broker) as link:
        await link.send(ONE)
        await gate.begun.wait()
        await link.send(begun)
        await until(lambda: held_bytes(broker) > len(ONE))
        gate.open.set()
        assert await answered(link) == 200
        assert held_bytes(broker) == len(begun)
        await link.send(AUTH)
        assert await answered(link) == 200
        await until(lambda: held_bytes(broker) == 0)


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_a_client_that_sends_no_more_gets_the_answers_to_its_requests(
    broker: RunningBroker, gate: Gate, count: int
) -> None:
    """It closes its half of the connection while the first request has no answer."""
    async with linked(broker) as link:
        await link.send(ONE * count)
        await gate.begun.wait()
        link.writer.write_eof()
        await elapse(1)
        gate.open.set()
        assert [await answered(link) for _ in range(count)] == [200] * count
        assert await link.closed()
    await all_closed(broker)


async def test_a_client_that_sends_no_more_before_its_request_is_complete_is_disconnected(
    broker: RunningBroker,
) -> None:
    async with linked(broker) as link:
        await link.send(ONE[:-5])
        link.writer.write_eof()
        assert await link.closed()
    await all_closed(broker)
    assert not broker.events.named("request.answered")


async def test_a_reset_while_the_request_has_no_answer_is_no_internal_error(
    broker: RunningBroker, gate: Gate
) -> None:
    """The fixture checks that none is reported; the connection counts until its request ends."""
    async with linked(broker) as link:
        await link.send(ONE)
        await gate.begun.wait()
        opened = link.writer.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.writer.transport.abort()
    await elapse(1)
    assert len(broker.kbs._acceptor._tasks) == 1
    gate.open.set()
    await all_closed(broker)
    assert lines(broker) == ["request.answered"]
