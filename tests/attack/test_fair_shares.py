"""Attack: peers take all connections, or all memory, of a listener of guests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

import httpx
import pytest

from tests.support.broker import KEY, KID, REQUEST_SECONDS, RunningBroker
from tests.support.channel import answer_to_silence, encoded, send_records
from tests.support.clock import elapse, elapse_until, until
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.kbs_raw import cookie_of, linked, request
from tests.support.rcar_guests import attested, tdx_guest
from verdictd_py.errors import Overloaded, VerdictdError
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.listeners import shares as module
from verdictd_py.listeners.buffers import ALLOWANCE_BYTES, READ_BYTES, Buffers
from verdictd_py.listeners.counts import LocalCounts
from verdictd_py.listeners.kbs.connections import Connection
from verdictd_py.listeners.shares import Share, ShareLimits, Shares, Source, source_of
from verdictd_py.protocols.ratstls.session import TlsSession

CONNECTIONS = 20
FLOOD = 60
ATTACKER = "127.0.0.2"
"""Address of the attacker; genuine guests connect from 127.0.0.1."""

A, B = source_of("192.0.2.1"), source_of("192.0.2.2")


class Peers:
    """Connections of a listener with made-up limits, and those that it closed, in order."""

    def __init__(self, connections: int, per_address: int, per_platform: int) -> None:
        self.limits = ShareLimits(connections, per_address, per_platform)
        self.shares = Shares(lambda: self.limits)
        self.closed: list[str] = []

    def enter(self, name: str, source: Source) -> Share:
        return self.shares.enter(source, lambda: self.closed.append(name))


@pytest.fixture
def peers() -> Peers:
    return Peers(connections=8, per_address=4, per_platform=2)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_addresses_of_one_host_share_a_limit(first: str, second: str, same: bool) -> None:
    assert (source_of(first) == source_of(second)) is same


class TestConnections:
    def test_an_address_at_its_limit_loses_its_oldest_connection(self, peers: Peers) -> None:
        peers.enter("other", B)
        for number in range(6):
            peers.enter(f"a{number}", A)
        assert peers.closed == ["a0", "a1"]

    def test_a_full_listener_closes_the_oldest_of_the_address_with_the_most(
        self, peers: Peers
    ) -> None:
        peers.enter("other", B)
        for number in range(10):
            peers.enter(f"c{number}", source_of(f"192.0.2.{3 + number % 2}"))
        assert peers.closed == ["c0", "c1", "c2"]

    def test_among_equal_addresses_the_oldest_connection_is_closed(self, peers: Peers) -> None:
        for number in range(10):
            peers.enter(str(number), source_of(f"198.51.100.{number}"))
        assert peers.closed == ["0", "1"]

    def test_evidence_and_accepted_guests_are_never_closed_for_others(self, peers: Peers) -> None:
        peers.enter("evidence", A).prove()
        peers.enter("accepted", A).attest("platform")
        for number in range(100):
            peers.enter(str(number), source_of(f"198.51.100.{number % 30}"))
        assert not {"evidence", "accepted"} & set(peers.closed)

    def test_a_quarter_of_the_connections_stays_for_peers_without_evidence(
        self, peers: Peers
    ) -> None:
        """Otherwise peers that send evidence slowly lock all others out."""
        for number in range(8):
            peers.enter(f"slow{number}", source_of(f"198.51.100.{number}")).prove()
        peers.enter("new", A)
        assert peers.closed == ["slow6"]

    def test_a_quarter_of_an_address_stays_for_peers_without_evidence(self, peers: Peers) -> None:
        for number in range(4):
            peers.enter(f"slow{number}", A).prove()
        peers.enter("new", A)
        assert peers.closed == ["slow3"]

    def test_a_platform_has_a_limit_and_keeps_its_older_guests(self, peers: Peers) -> None:
        for name in ("first", "second"):
            peers.enter(name, A).attest("platform")
        with pytest.raises(Overloaded, match="platform"):
            peers.enter("third", A).attest("platform")
        peers.enter("other", A).attest("another platform")
        assert peers.closed == []

    def test_accepted_guests_leave_connections_for_new_ones(self) -> None:
        peers = Peers(connections=8, per_address=8, per_platform=8)
        for _ in range(7):
            peers.enter("accepted", A).attest("platform")
        with pytest.raises(Overloaded):
            peers.enter("new", A).attest("platform")

    def test_connections_that_left_count_no_longer(self, peers: Peers) -> None:
        for _ in range(50):
            shares = [peers.enter("a", A) for _ in range(3)]
            shares[1].prove()
            shares[2].attest("platform")
            for share in shares:
                share.leave()
        assert peers.closed == []
        assert peers.shares._total == 0

    def test_a_lowered_limit_closes_several(self, peers: Peers) -> None:
        for number in range(4):
            peers.enter(str(number), A)
        peers.limits = ShareLimits(8, 2, 2)
        peers.enter("new", A)
        assert peers.closed == ["0", "1", "2"]

    def test_a_token_has_a_limit_of_requests(self, peers: Peers) -> None:
        with ExitStack() as stack:
            for _ in range(module.REQUESTS_OF_TOKEN):
                stack.enter_context(peers.shares.request("token"))
            with pytest.raises(Overloaded), peers.shares.request("token"):
                pass
            with peers.shares.request("another"):
                pass
        with peers.shares.request("token"):
            pass


class TestBytes:
    def test_one_owner_has_half_and_there_is_always_room_for_another(self) -> None:
        buffers = Buffers(160 * READ_BYTES)
        shares = Shares(lambda: ShareLimits(100, 100, 100), buffers)

        def fill(share: Share) -> int:
            while share.held.fits():
                share.held.add(READ_BYTES)
            return share.held.size // READ_BYTES

        first = shares.enter(A, lambda: None)
        first.attest("first")
        assert fill(first) == 80
        second = shares.enter(A, lambda: None)
        second.attest("second")
        assert fill(second) == 40
        third = shares.enter(A, lambda: None)
        third.prove()
        assert fill(third) == 20
        third.leave()
        second.leave()
        first.leave()
        assert buffers.total == 0

    def test_peers_without_evidence_hold_at_most_a_quarter(self) -> None:
        buffers = Buffers(400 * READ_BYTES)
        shares = Shares(lambda: ShareLimits(100, 100, 100), buffers)
        for number in range(50):
            share = shares.enter(source_of(f"192.0.2.{number}"), lambda: None)
            while share.held.fits():
                share.held.add(READ_BYTES)
        assert buffers.total <= (100 + 50 * 2) * READ_BYTES  # each has an allowance
        proven = shares.enter(A, lambda: None)
        proven.prove()
        proven.held.add(READ_BYTES)
        assert proven.held.fits()

    async def test_those_that_wait_continue_when_there_is_room(self) -> None:
        shares = Shares(lambda: ShareLimits(100, 100, 100), Buffers(6 * READ_BYTES))
        full, waiting = shares.enter(A, lambda: None), shares.enter(B, lambda: None)
        for share in (full, waiting):
            share.prove()
            share.held.add(2 * READ_BYTES)
        room = asyncio.create_task(waiting.held.room())
        await elapse(1000)
        assert not room.done()
        full.leave()
        await room


@asynccontextmanager
async def silent(
    where: tuple[str, int], count: int, host: str
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Connections of one address that never send anything."""
    held = [await asyncio.open_connection(*where, local_addr=(host, 0)) for _ in range(count)]
    try:
        yield held
    finally:
        for _, writer in held:
            writer.close()


def kbs_address(broker: RunningBroker) -> tuple[str, int]:
    return broker.kbs.address.host, broker.kbs.address.port


@asynccontextmanager
async def in_handshake(broker: RunningBroker) -> AsyncIterator[GuestConnection]:
    """A genuine guest that has sent half of its certificate."""
    reader, writer = await asyncio.open_connection(*broker.address)
    guest = GuestConnection(
        reader, writer, TlsSession(broker.context(broker.attester()), server=False)
    )
    session = guest._session
    session.handshake()
    writer.write(session.outgoing())
    while not session.handshake():
        session.receive(await reader.read(65_536))
    rest = session.outgoing()
    writer.write(rest[: len(rest) // 2])
    await until(lambda: broker.attested.shares._evidence.total == 1)
    guest.rest = rest[len(rest) // 2 :]  # type: ignore[attr-defined]
    try:
        yield guest
    finally:
        writer.close()


@pytest.mark.broker(kbs=True, max_connections=CONNECTIONS)
class TestFloods:
    @pytest.mark.parametrize("host", ["127.0.0.1", ATTACKER])
    async def test_a_guest_is_served_during_a_flood(self, broker: RunningBroker, host: str) -> None:
        """The flood comes from another address, or from the guest's own, behind NAT."""
        async with silent(broker.address, FLOOD, host), broker.guest() as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY
        async with (
            silent(kbs_address(broker), FLOOD, host),
            attested(url_of(broker), tdx_guest(broker.platform)) as session,
        ):
            assert (await session.get(str(PATH))).reveal() == SECRET
        reasons = {str(event["reason"]) for event in broker.events.named("connection.refused")}
        assert {text.rpartition("; ")[2] for text in reasons} == {
            "this was the oldest without evidence"
        }

    async def test_a_slow_guest_of_another_address_is_not_closed(
        self, broker: RunningBroker
    ) -> None:
        async with (
            silent(broker.address, 1, "127.0.0.1") as ((reader, writer),),
            silent(broker.address, FLOOD, ATTACKER),
        ):
            await until(
                lambda: len(broker.events.named("connection.refused")) == FLOOD + 1 - CONNECTIONS
            )
            session = TlsSession(broker.context(broker.attester()), server=False)
            guest = GuestConnection(reader, writer, session)
            await guest._handshake()
            assert (await guest.keks([KID]))[KID].reveal() == KEY

    async def test_a_guest_that_has_sent_part_of_its_certificate_is_not_closed(
        self, broker: RunningBroker
    ) -> None:
        async with in_handshake(broker) as guest, silent(broker.address, FLOOD, "127.0.0.1"):
            await until(
                lambda: len(broker.events.named("connection.refused")) == FLOOD + 1 - CONNECTIONS
            )
            guest._writer.write(guest.rest)  # type: ignore[attr-defined]
            assert (await guest.keks([KID]))[KID].reveal() == KEY

    async def test_an_accepted_guest_is_not_closed(self, broker: RunningBroker) -> None:
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
            async with silent(broker.address, FLOOD, "127.0.0.1"):
                await until(
                    lambda: (
                        len(broker.events.named("connection.refused")) == FLOOD + 1 - CONNECTIONS
                    )
                )
                assert (await guest.keks([KID]))[KID].reveal() == KEY

    async def test_a_valid_cookie_and_a_part_of_the_evidence_are_not_closed(
        self, broker: RunningBroker
    ) -> None:
        async with linked(broker) as link:
            cookie = await cookie_of(link)
            await link.send(attest(cookie, 1000) + b"{")
            await until(lambda: broker.kbs._acceptor.shares._evidence.total == 1)
            async with silent(kbs_address(broker), FLOOD, "127.0.0.1"):
                await until(
                    lambda: (
                        len(broker.events.named("connection.refused")) == FLOOD + 1 - CONNECTIONS
                    )
                )
                await link.send(b" " * 999)
                found = await link.answer()
        assert found is not None
        assert found.status == 400  # it was received, and is no evidence


def attest(cookie: str, length: int) -> bytes:
    headers = {"Cookie": cookie, "Content-Length": str(length)}
    return request("POST", "/kbs/v0/attest", headers=headers)


@pytest.mark.broker(kbs=True)
class TestMemory:
    async def test_the_largest_sender_with_a_cookie_is_not_closed(
        self, broker: RunningBroker
    ) -> None:
        """It was: the guest with a real boot log holds more than its attackers."""
        broker.kbs._acceptor.shares.buffers._most = 2_000_000
        async with AsyncExitStack() as stack:
            guest = await stack.enter_async_context(linked(broker))
            await guest.send(attest(await cookie_of(guest), 900_001) + b" " * 900_000)
            await until(lambda: broker.kbs._acceptor.shares.buffers.total >= 900_000)
            for number in range(12):
                link = await stack.enter_async_context(linked(broker))
                link.writer.write(b"GET / HTTP/1.1\r\n" + b"X%d: " % number + b"x" * 70_000)
            await elapse(1)
            await guest.send(b" ")
            found = await guest.answer()
        assert found is not None
        assert found.status == 400

    async def test_attested_guests_hold_a_bounded_number_of_bytes(
        self, broker: RunningBroker
    ) -> None:
        """They begin requests of 600 KB and end none; they wait, until their time limit."""
        most = 400_000
        broker.attested.shares.buffers._most = most
        async with AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(broker.guest()) for _ in range(4)]
            for guest in guests:
                guest._session.write(b'{"command":"version","x":"' + b"x" * 600_000)
                guest._writer.write(guest._session.outgoing())
            shares = broker.attested.shares
            await until(lambda: shares.buffers.total >= most // 2 - READ_BYTES)
            await elapse(0)
            assert shares.buffers.total <= most // 2 + 5 * ALLOWANCE_BYTES
            assert not broker.events.named("connection.timeout")
            async with broker.guest() as small:
                assert (await small.keks([KID]))[KID].reveal() == KEY
            await elapse(REQUEST_SECONDS)
            await until(lambda: len(broker.events.named("connection.timeout")) == len(guests))
            assert shares.buffers.total == 0

    async def test_http_clients_hold_a_bounded_number_of_bytes(self, broker: RunningBroker) -> None:
        """They send most of a body and not its end; they wait, and lose nothing."""
        most, sent = 400_000, 600_000
        shares = broker.kbs._acceptor.shares
        shares.buffers._most = most
        async with AsyncExitStack() as stack:
            for _ in range(4):
                link = await stack.enter_async_context(linked(broker))
                cookie = await cookie_of(link)
                link.writer.write(attest(cookie, sent + 1) + b" " * sent)
            await until(lambda: shares.buffers.total >= most // 2 - READ_BYTES)
            await elapse(0)
            assert shares.buffers.total <= most // 2 + 5 * ALLOWANCE_BYTES
            small = await stack.enter_async_context(linked(broker))
            await small.send(request("GET", "/kbs/v0/jwks"))
            found = await small.answer()
            assert found is not None
            assert found.status == 200
            assert len(broker.kbs._acceptor._tasks) == 5
        await elapse_until(lambda: not broker.kbs._acceptor._tasks)

    async def test_one_read_of_an_http_client_is_small(
        self, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        receive = Connection.data_received

        def recorded(self: Connection, data: bytes) -> None:
            sizes.append(len(data))
            receive(self, data)

        monkeypatch.setattr(Connection, "data_received", recorded)
        async with linked(broker) as link:
            cookie = await cookie_of(link)
            await link.send(attest(cookie, 300_000) + b" " * 300_000)
            assert await link.answer() is not None
        assert max(sizes) <= READ_BYTES

    async def test_answers_that_are_not_read_are_counted(self, broker: RunningBroker) -> None:
        large = broker.data / "resources" / "default" / "blob"
        large.mkdir(parents=True)
        (large / "1").write_bytes(bytes(4_000_000))
        get = {"command": "Get Resource", "optional": {"resource_path": "default/blob/1"}}
        async with broker.guest() as guest:
            await send_records(guest, encoded(get) * 4)
            await until(lambda: broker.attested.shares.buffers.total > 4_000_000)
            guest._writer.transport.abort()
        await elapse_until(lambda: not broker.attested._tasks)
        assert broker.attested.shares.buffers.total == 0


@pytest.mark.broker(kbs=True, max_connections_per_platform=2)
class TestPlatforms:
    async def test_a_guest_over_the_limit_of_its_platform_is_told_to_try_again(
        self, broker: RunningBroker
    ) -> None:
        async with broker.guest() as first, broker.guest() as second:
            assert await first.version() == await second.version() == "v1"
            async with broker.guest() as third:
                await until(lambda: broker.events.named("connection.refused"))
                found = await answer_to_silence(third)
                assert found["status"] == "Fail"
                assert "not served: overloaded; try again later" in found.values()
            assert await first.version() == await second.version() == "v1"
        (event,) = broker.events.named("connection.refused")
        assert "this platform has 2 attested connections" in str(event["reason"])

    async def test_the_name_of_a_platform_is_a_digest(self, broker: RunningBroker) -> None:
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
            platforms = broker.attested.shares._platforms
            assert isinstance(platforms, LocalCounts)
            (name,) = platforms._numbers
        assert len(name) == 64
        assert broker.platform.identity.ppid.hex() not in name
        assert broker.platform.identity.ppid.hex() not in broker.events.text

    async def test_http_guests_have_the_limit_too(self, broker: RunningBroker) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                guest = attested(url_of(broker), tdx_guest(broker.platform))
                session = await stack.enter_async_context(guest)
                assert (await session.get(str(PATH))).reveal() == SECRET
            guest = attested(url_of(broker), tdx_guest(broker.platform))
            session = await stack.enter_async_context(guest)
            with pytest.raises(VerdictdError, match="platform"):
                await session.get(str(PATH))

    async def test_requests_with_one_token_are_limited(
        self, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
            monkeypatch.setattr(module, "REQUESTS_OF_TOKEN", 0)
            with suppress(httpx.HTTPError), pytest.raises(VerdictdError, match="token"):
                await session.get(str(PATH))
