"""Attack: peers and guests make a listener hold bytes that nothing counts or limits.

Each test fills the memory of the listener through a share that no connection belongs to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.broker import HANDSHAKE_SECONDS, KEY, KID, RunningBroker
from tests.support.channel import answer, encoded, send_records
from tests.support.clock import elapse, until
from tests.support.kbs_raw import cookie_of, linked, request
from tests.support.rcar_guests import attest, attested, tdx_guest
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.listeners.attested import AttestedListener
from verdictd_py.listeners.buffers import ALLOWANCE_BYTES, READ_BYTES
from verdictd_py.listeners.counts import LocalAges
from verdictd_py.listeners.kbs.connections import Connection
from verdictd_py.listeners.shares import Proof, Share, source_of

LARGE = 100_000
"""Size of a message that is read in several parts."""


def fill(listener: AttestedListener) -> Share:
    """Fill the memory: until this share leaves, others hold only their allowance."""
    share = listener.shares.enter(source_of("192.0.2.1"), lambda: None)
    share.held.add(listener.shares.buffers._most)
    return share


def only(listener: AttestedListener, but: Share | None = None) -> Share:
    """Return the share of the only connection."""
    (share,) = (each for each in shares_of(listener) if each is not but)
    return share


def shares_of(listener: AttestedListener) -> list[Share]:
    """Return the shares of unattested connections."""
    ages = listener.shares._new
    assert isinstance(ages, LocalAges)
    return [share for held in ages._sources.values() for share in held]


async def settled() -> None:
    """Let everything be read that can be read without waiting."""
    for _ in range(20):
        await elapse(0)


class TestHandshakes:
    @asynccontextmanager
    async def large_hello(self, broker: RunningBroker) -> AsyncIterator[asyncio.StreamWriter]:
        """A peer that sends most of a ClientHello of 100,000 bytes."""
        message = b"\x01" + LARGE.to_bytes(3, "big") + bytes(LARGE - 1)
        parts = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
        _, writer = await asyncio.open_connection(*broker.address)
        for part in parts:
            writer.write(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
        try:
            yield writer
        finally:
            writer.close()

    async def test_bytes_of_a_handshake_are_counted(self, broker: RunningBroker) -> None:
        async with self.large_hello(broker):
            await until(lambda: shares_of(broker.attested))
            await until(lambda: only(broker.attested).held.size >= LARGE)

    async def test_a_handshake_waits_while_the_memory_is_full(self, broker: RunningBroker) -> None:
        others = fill(broker.attested)
        async with self.large_hello(broker):
            await until(lambda: len(shares_of(broker.attested)) == 2)
            peer = only(broker.attested, others)
            await until(lambda: peer.held.size > READ_BYTES)
            await settled()
            assert peer.held.size <= ALLOWANCE_BYTES
            others.leave()
            await until(lambda: peer.held.size >= LARGE)

    async def test_it_waits_within_its_time_limit(self, broker: RunningBroker) -> None:
        fill(broker.attested)
        async with self.large_hello(broker):
            await until(lambda: len(shares_of(broker.attested)) == 2)
            await elapse(HANDSHAKE_SECONDS)
            await until(lambda: broker.events.named("connection.timeout"))

    async def test_an_accepted_guest_holds_nothing(self, broker: RunningBroker) -> None:
        """Its certificate was counted while it was received."""
        buffers = broker.attested.shares.buffers
        async with broker.guest():
            await until(lambda: broker.attested.shares._platforms.total)
            await settled()
            assert buffers.total == 0


class TestRequests:
    async def test_a_request_is_not_received_while_the_memory_is_full(
        self, broker: RunningBroker
    ) -> None:
        buffers = broker.attested.shares.buffers
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
            others = fill(broker.attested)
            full = buffers.total
            await self.begin(guest)
            await until(lambda: buffers.total > full + READ_BYTES)
            await settled()
            assert buffers.total <= full + ALLOWANCE_BYTES
            assert not broker.events.named("connection.timeout")
            others.leave()
            await self.end(guest)

    async def test_no_answer_is_made_while_the_memory_is_full(self, broker: RunningBroker) -> None:
        """A secret of some MiB would be held in addition."""
        text = encoded({"command": "Get KEK", "kids": [KID], "x": "x" * (READ_BYTES + 4000)})
        buffers = broker.attested.shares.buffers
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
            others = fill(broker.attested)
            await send_records(guest, text)
            await until(lambda: buffers.total >= buffers._most + len(text))
            await settled()
            assert not broker.events.named("secret.released")
            others.leave()
            assert "error" not in await answer(guest)
        assert broker.events.named("secret.released")

    async def test_parts_of_a_request_are_counted_until_it_is_complete(
        self, broker: RunningBroker
    ) -> None:
        buffers = broker.attested.shares.buffers
        async with broker.guest() as guest:
            await self.begin(guest)
            await until(lambda: buffers.total > LARGE)
            await settled()
            assert LARGE < buffers.total < LARGE + ALLOWANCE_BYTES
            await self.end(guest)
            await settled()
            assert buffers.total == 0
            assert (await guest.keks([KID]))[KID].reveal() == KEY

    async def begin(self, guest: GuestConnection) -> None:
        await send_records(guest, b'{"command":"version","x":"' + b"x" * LARGE)

    async def end(self, guest: GuestConnection) -> None:
        await send_records(guest, b'"}')
        assert json.loads(await guest._read())["status"] == "OK"


def connection_of(broker: RunningBroker) -> Connection:
    (connection,) = broker.kbs._acceptor._tasks.values()
    assert connection is not None
    return connection


@pytest.mark.broker(kbs=True)
class TestHttp:
    async def test_a_connection_holds_nothing_between_requests(self, broker: RunningBroker) -> None:
        async with linked(broker) as link:
            await cookie_of(link)
            await settled()
            assert broker.kbs._acceptor.shares.buffers.total == 0

    async def test_a_failed_request_ends_the_protection_by_a_cookie(
        self, broker: RunningBroker
    ) -> None:
        """Otherwise one challenge protects a connection for ever."""
        async with linked(broker) as link:
            headers = {"Cookie": await cookie_of(link), "Content-Length": "3"}
            await link.send(request("POST", "/kbs/v0/attest", headers=headers) + b"{")
            await until(lambda: connection_of(broker).share.proof is Proof.EVIDENCE)
            await link.send(b"}}")
            found = await link.answer()
            assert found is not None
            assert found.status == 400
            await settled()
            assert connection_of(broker).share.proof is Proof.NONE
            assert broker.kbs._acceptor.shares._evidence.total == 0

    async def test_an_attested_guest_is_unattested_again_after_a_failure(
        self, broker: RunningBroker
    ) -> None:
        """The next request on its connection may be another client's."""
        async with linked(broker) as link:
            guest = attested(broker.kbs.endpoint, tdx_guest(broker.platform))
            async with guest as session:
                token = (await attest(session)).content.reveal().decode()
            await until(lambda: len(broker.kbs._acceptor._tasks) == 1)
            headers = {"Authorization": f"Bearer {token}"}
            await link.send(request("GET", "/kbs/v0/resource/default/key/1", headers=headers))
            assert await link.answer() is not None
            assert connection_of(broker).share.proof is Proof.ATTESTED
            await link.send(request("GET", "/kbs/v0/resource/default/key/none", headers=headers))
            assert await link.answer() is not None
            await settled()
            assert connection_of(broker).share.proof is Proof.NONE
