"""A broker with HTTP guests that stops: requests in flight finish, idle connections are closed.

The limit for requests in flight is so long that a stop that waits for it never ends.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support.broker import DRAIN_SECONDS, RunningBroker
from tests.support.clock import elapse, until
from tests.support.kbs_raw import Link, linked, request

pytestmark = pytest.mark.broker(kbs=True, request_timeout=2 * DRAIN_SECONDS)

AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


async def stopping(broker: RunningBroker) -> asyncio.Task[None]:
    """Stop the broker as SIGTERM does; yield when it accepts no connection."""
    kbs = broker.kbs
    accepting = kbs._acceptor._accepting
    assert accepting is not None
    task = asyncio.create_task(broker.daemon.stop())
    await asyncio.wait([accepting])
    return task


async def begun(link: Link) -> None:
    """Send half of a request, and wait until the broker has answered its `Expect`."""
    head = {"Content-Length": str(len(AUTH)), "Expect": "100-continue"}
    await link.send(request("POST", "/kbs/v0/auth", headers=head))
    interim = await link.answer()
    assert interim is not None
    assert interim.status == 100
    await link.send(AUTH[:10])


async def test_a_request_in_flight_is_answered_and_idle_connections_are_closed(
    broker: RunningBroker,
) -> None:
    async with linked(broker) as silent, linked(broker) as idle, linked(broker) as busy:
        await idle.send(request("GET", "/healthz"))
        assert await idle.answer() is not None
        await begun(busy)
        task = await stopping(broker)
        assert await idle.closed()
        assert await silent.closed()
        with pytest.raises(OSError, match="Connect call failed"):
            async with linked(broker):
                pass
        await busy.send(AUTH[10:])
        answer = await busy.answer()
        assert answer is not None
        assert answer.status == 200
        assert answer.headers.get("connection") == "close"
        assert await busy.closed()
        await task


async def test_an_incomplete_request_is_aborted_at_the_limit(broker: RunningBroker) -> None:
    async with linked(broker) as busy:
        await begun(busy)
        task = await stopping(broker)
        await elapse(DRAIN_SECONDS / 2)
        assert not task.done()
        await elapse(DRAIN_SECONDS / 2)
        await task
        assert await busy.closed()
    assert not broker.events.named("request.answered", "warning.bug")
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_half_a_header_is_not_a_request_in_flight(broker: RunningBroker) -> None:
    async with linked(broker) as link:
        await link.send(b"POST /kbs/v0/auth HTTP/1.1\r\nHost:")
        await broker.daemon.stop()
        assert await link.closed()


async def test_a_client_that_has_just_connected_is_served(broker: RunningBroker) -> None:
    """Its first byte arrives after the drain has begun, or the rest of its first request."""
    async with linked(broker) as silent, linked(broker) as half:
        message = request("GET", "/healthz")
        await half.send(message[:10])
        await until(lambda: len(broker.kbs._acceptor._tasks) == 2)
        await until(lambda: any(broker.kbs._acceptor._tasks.values()))
        task = await stopping(broker)
        await silent.send(message)
        await half.send(message[10:])
        for link in (silent, half):
            answer = await link.answer()
            assert answer is not None
            assert answer.status == 200
            assert await link.closed()
        await task
