"""A broker that stops: requests in flight finish, and idle connections are closed.

The limit for requests in flight is so long that a stop that waits for it never ends.
"""

from __future__ import annotations

import asyncio
import base64
import os

import pytest

from tests.support.broker import DRAIN_SECONDS, KEY, KID, RunningBroker
from tests.support.channel import answer, encoded, nothing_stays, records, rest, store
from tests.support.channel import send_records as send
from tests.support.clock import elapse, until
from verdictd_py.guest.connection import BrokerRefused, GuestConnection

pytestmark = pytest.mark.broker(request_timeout=2 * DRAIN_SECONDS)

GET_KEK = encoded({"command": "Get KEK", "kids": [KID]})
KEK = {"status": "OK", "data": {KID: base64.b64encode(KEY).decode()}}


async def begin(broker: RunningBroker, guest: GuestConnection, begun: bytes) -> None:
    """Send the beginning of a request, and wait until the broker has received it."""
    assert await guest.version() == "v1"
    await until(lambda: len(broker.attested._idle) == 1)
    await send(guest, begun)
    await until(lambda: not broker.attested._idle)


async def stop(broker: RunningBroker) -> asyncio.Task[None]:
    """Stop the broker as SIGTERM does; return when it accepts no connection."""
    task = asyncio.create_task(broker.daemon.stop())
    await until(lambda: broker.attested._draining)
    return task


async def test_connections_of_idle_guests_are_closed_at_once(broker: RunningBroker) -> None:
    async with broker.guest() as guest, broker.guest() as other:
        for each in (guest, other):
            assert await each.version() == "v1"
        await until(lambda: len(broker.attested._idle) == 2)
        await broker.daemon.stop()
        for each in (guest, other):
            assert await rest(each) == b""
    await nothing_stays(broker)


async def test_a_stopped_broker_accepts_no_guest(broker: RunningBroker) -> None:
    await broker.daemon.stop()
    with pytest.raises(BrokerRefused, match="cannot connect"):
        async with broker.guest():
            pass


async def test_a_request_in_flight_is_answered(broker: RunningBroker) -> None:
    """Also if it arrives in many records; then the connection ends."""
    async with broker.guest() as guest:
        await begin(broker, guest, GET_KEK[:5])
        stopping = await stop(broker)
        await send(guest, *(bytes([byte]) for byte in GET_KEK[5:]))
        assert await answer(guest) == KEK
        assert await rest(guest) == b""
    await stopping
    await nothing_stays(broker)
    assert len(broker.events.named("secret.released")) == 1


async def test_an_answer_in_flight_is_sent_completely(broker: RunningBroker) -> None:
    content = os.urandom(4 * 1024 * 1024 - 1)
    store(broker, "resources/default/blob/1", content)
    get = {"command": "Get Resource", "optional": {"resource_path": "default/blob/1"}}
    async with broker.guest() as guest:
        await send(guest, encoded(get))
        await until(lambda: bool(broker.events.named("secret.released")))
        stopping = await stop(broker)
        text = base64.b64encode(content)
        assert b"".join(await records(guest, len(text))) == text
        assert await rest(guest) == b""
    await stopping
    await nothing_stays(broker)


async def test_a_request_that_exceeds_the_limit_is_aborted(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        await begin(broker, guest, GET_KEK[:5])
        stopping = await stop(broker)
        await elapse(DRAIN_SECONDS)
        await stopping
        assert await rest(guest) == b""
    await nothing_stays(broker)
    assert not broker.events.named("secret.released")
