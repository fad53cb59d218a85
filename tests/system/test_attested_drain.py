"""The end of a broker (product.md): requests in flight finish, what is idle is closed."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import SECONDS, answer, encoded, nothing_stays, records, rest, store
from tests.support.channel import send_records as send
from verdictd_py import daemon as app
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.simulator import SimulatedPlatform

DRAIN_SECONDS = 3.0
GET_KEK = encoded({"command": "Get KEK", "kids": [KID]})
KEK = {"status": "OK", "data": {KID: base64.b64encode(KEY).decode()}}


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, drain_timeout=DRAIN_SECONDS) as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # the listener's own state, without an event
            await asyncio.sleep(0)


async def begin(broker: RunningBroker, guest: GuestConnection, begun: bytes) -> None:
    """Sends the beginning of a request, and waits until the broker has it."""
    assert await guest.version() == "v1"
    await until(lambda: len(broker.attested._idle) == 1)
    await send(guest, begun)
    await until(lambda: not broker.attested._idle)


async def stop(broker: RunningBroker) -> asyncio.Task[None]:
    """Begins what SIGTERM begins; returns once no connection is accepted any more."""
    task = asyncio.create_task(broker.daemon.stop())
    await until(lambda: broker.attested._draining)
    return task


async def test_idle_guests_are_told_goodbye_at_once(broker: RunningBroker) -> None:
    async with broker.guest() as guest, broker.guest() as silent:
        assert await guest.version() == "v1"
        await until(lambda: len(broker.attested._idle) == 2)
        async with asyncio.timeout(DRAIN_SECONDS / 2):
            await broker.daemon.stop()
        for each in (guest, silent):
            assert await rest(each) == b""
    await nothing_stays(broker)


async def test_nobody_is_accepted_any_more(broker: RunningBroker) -> None:
    await broker.daemon.stop()
    with pytest.raises(BrokerRefused, match="cannot connect"):
        async with broker.guest():
            pass


async def test_a_request_in_flight_finishes(broker: RunningBroker) -> None:
    """Also when it comes in many records; then the connection ends."""
    async with broker.guest() as guest:
        await begin(broker, guest, GET_KEK[:5])
        stopping = await stop(broker)
        await send(guest, *(bytes([byte]) for byte in GET_KEK[5:]))
        assert await answer(guest) == KEK
        assert await rest(guest) == b""
    async with asyncio.timeout(SECONDS):
        await stopping
    await nothing_stays(broker)
    assert len(broker.events.named("secret.released")) == 1


async def test_an_answer_in_flight_arrives_whole(broker: RunningBroker) -> None:
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
    async with asyncio.timeout(SECONDS):
        await stopping
    await nothing_stays(broker)


async def test_what_does_not_finish_in_time_is_cut(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, drain_timeout=0.3) as broker:
        async with broker.guest() as guest:
            await begin(broker, guest, GET_KEK[:5])
            async with asyncio.timeout(SECONDS):
                await broker.daemon.stop()
            assert await rest(guest) == b""
        await nothing_stays(broker)
        assert not broker.events.named("secret.released")
