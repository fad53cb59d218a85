"""Attack: a client writes the address of another one into a PROXY header."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.broker import HANDSHAKE_SECONDS, KEY, KID, RunningBroker
from tests.support.clock import elapse, until
from tests.support.kbs_raw import linked, request
from verdictd_py.formats.proxyheader import (
    FIXED_BYTES,
    MAX_REST_BYTES,
    SIGNATURE,
    ProxyHeaderInvalid,
    crc32c,
    parse_client,
    parse_fixed,
)
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.protocols.ratstls.session import TlsSession

CLIENT = "192.0.2.7"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
VERSION_1 = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n"


def header(host: str = CLIENT, port: int = 4711, fields: bytes = b"") -> bytes:
    address = ipaddress.ip_address(host).packed
    rest = address + address + port.to_bytes(2, "big") + (443).to_bytes(2, "big") + fields
    family = 0x11 if len(address) == 4 else 0x21
    return SIGNATURE + bytes([0x21, family]) + len(rest).to_bytes(2, "big") + rest


def parse(data: bytes) -> tuple[str, int] | None:
    fixed = parse_fixed(data[:FIXED_BYTES])
    return parse_client(fixed, data[FIXED_BYTES : FIXED_BYTES + fixed.rest])


@pytest.mark.parametrize("host", [CLIENT, "2001:db8::7"])
def test_the_address_of_the_client_is_read(host: str) -> None:
    assert parse(header(host)) == (host, 4711)
    assert parse(header(host, fields=b"\x04\x00\x03abc")) == (host, 4711)


def test_a_connection_of_the_proxy_itself_has_no_client() -> None:
    assert parse(LOCAL) is None
    assert parse(SIGNATURE + b"\x20\x11" + header()[14:]) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (VERSION_1, "version 1"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "no header"),
        (b"", "no header"),
        (SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12), "another version"),
        (SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12), "another version"),
        (SIGNATURE + b"\x21\x00\x00\x00", "no client's TCP address"),
        (SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12), "no client's TCP address"),
        (SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216), "no client's TCP address"),
        (SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12), "no client's TCP address"),
        (SIGNATURE + b"\x21\x11" + (MAX_REST_BYTES + 1).to_bytes(2, "big"), "more than 4096"),
    ],
)
def test_other_headers_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderInvalid, match=reason):
        parse(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_the_checksum_is_crc32c(data: bytes, value: int) -> None:
    """RFC 3720, B.4, which gives the bytes in the order in which iSCSI sends them."""
    assert crc32c(data) == value


def with_checksum(host: str = CLIENT, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A header with a field PP2_TYPE_CRC32C, as section 2.2.4 has it made."""
    zeroed = header(host, fields=before + b"\x03\x00\x04" + bytes(4) + after)
    at = len(zeroed) - len(after) - 4
    return zeroed[:at] + crc32c(zeroed).to_bytes(4, "big") + zeroed[at + 4 :]


NAME = b"\x02\x00\x09localhost"  # PP2_TYPE_AUTHORITY
NO_OP = b"\x04\x00\x02ab"


@pytest.mark.parametrize("host", [CLIENT, "2001:db8::7"])
@pytest.mark.parametrize(("before", "after"), [(b"", b""), (NAME, b""), (NAME, NO_OP), (b"", NAME)])
def test_a_right_checksum_is_accepted(host: str, before: bytes, after: bytes) -> None:
    assert parse(with_checksum(host, before=before, after=after)) == (host, 4711)


def test_each_flipped_bit_of_a_header_with_a_checksum_is_noticed() -> None:
    sent = with_checksum(before=NAME)
    for number in range(8 * FIXED_BYTES, 8 * len(sent)):
        flipped = bytearray(sent)
        flipped[number // 8] ^= 1 << number % 8
        in_type = number // 8 == len(sent) - 7
        if in_type:  # then it is no checksum
            continue
        with pytest.raises(ProxyHeaderInvalid):
            parse(bytes(flipped))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (b"\x03\x00\x04abcd", "checksum .* is wrong"),
        (b"\x03\x00\x04" + bytes(4), "checksum .* is wrong"),
        (b"\x03\x00\x03abc", "has 3 bytes instead of 4"),
        (b"\x03\x00\x00", "has 0 bytes instead of 4"),
        ((b"\x03\x00\x04" + bytes(4)) * 2, "more than one checksum"),
        (b"\x04\x00\x04abc", "longer than the header"),
        (b"\x04\xff\xff", "longer than the header"),
    ],
)
def test_a_wrong_checksum_or_field_is_refused(fields: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderInvalid, match=reason):
        parse(header(fields=fields))


def test_the_fields_of_the_proxys_own_connection_are_ignored() -> None:
    """Section 2.2: the receiver discards the rest of a header with the command LOCAL."""
    fields = b"\x03\x00\x04abcd"
    assert parse(SIGNATURE + b"\x20\x00" + len(fields).to_bytes(2, "big") + fields) is None


@asynccontextmanager
async def guest_through(
    broker: RunningBroker, *parts: bytes, host: str = "127.0.0.1"
) -> AsyncIterator[GuestConnection]:
    """A genuine guest whose connection begins with these bytes."""
    reader, writer = await asyncio.open_connection(*broker.address, local_addr=(host, 0))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        writer.write(part)
        await elapse(0)
    session = TlsSession(broker.context(broker.attester()), server=False)
    guest = GuestConnection(reader, writer, session)
    try:
        yield guest
    finally:
        writer.close()


def reason(broker: RunningBroker) -> str:
    (event,) = broker.events.named("connection.failed")
    return str(event["reason"])


@pytest.mark.broker(kbs=True, proxy_protocol_from="127.0.0.1")
class TestNamedProxies:
    @pytest.mark.parametrize("split", [1, 64])
    async def test_events_have_the_address_of_the_client(
        self, broker: RunningBroker, split: int
    ) -> None:
        sent = header()
        parts = [sent[start : start + split] for start in range(0, len(sent), split)]
        async with guest_through(broker, *parts) as guest:
            await guest._handshake()
            assert (await guest.keks([KID]))[KID].reveal() == KEY
        (accepted,) = broker.events.named("guest.accepted")
        assert accepted["peer"] == f"{CLIENT}:4711"

    async def test_a_check_of_the_proxy_itself_is_answered(self, broker: RunningBroker) -> None:
        async with linked(broker) as link:
            await link.send(LOCAL + request("GET", "/healthz"))
            found = await link.answer()
            assert found is not None
            assert found.status == 200

    async def test_http_requests_have_the_address_of_the_client(
        self, broker: RunningBroker
    ) -> None:
        async with linked(broker) as link:
            await link.send(header("2001:db8::7") + request("GET", "/kbs/v0/jwks"))
            assert await link.answer() is not None
        (event,) = broker.events.named("request.answered")
        assert event["peer"] == "[2001:db8::7]:4711"

    async def test_a_guest_with_a_checksum_is_served(self, broker: RunningBroker) -> None:
        async with guest_through(broker, with_checksum()) as guest:
            await guest._handshake()
            assert (await guest.keks([KID]))[KID].reveal() == KEY

    async def test_a_connection_with_a_wrong_checksum_is_closed(
        self, broker: RunningBroker
    ) -> None:
        damaged = with_checksum().replace(ipaddress.ip_address(CLIENT).packed, b"\xc0\x00\x02\x08")
        async with guest_through(broker, damaged) as guest:
            with suppress(ConnectionError):
                assert await guest._reader.read() == b""
        assert "checksum" in reason(broker)
        assert not broker.events.named("guest.accepted")

    async def test_version_1_is_refused(self, broker: RunningBroker) -> None:
        async with guest_through(broker, VERSION_1) as guest:
            with suppress(ConnectionError):
                assert await guest._reader.read() == b""
        assert "send-proxy-v2" in reason(broker)

    async def test_a_proxy_that_sends_no_header_is_refused(self, broker: RunningBroker) -> None:
        """Otherwise its clients would have its address, and its trust."""
        async with linked(broker) as link:
            await link.send(request("GET", "/healthz"))
            assert await link.answer() is None
        assert "no header of the PROXY protocol" in reason(broker)

    async def test_a_slow_header_ends_at_the_time_limit_of_the_handshake(
        self, broker: RunningBroker
    ) -> None:
        async with guest_through(broker, header()[:10]) as guest:
            await elapse(HANDSHAKE_SECONDS)
            await until(lambda: broker.events.named("connection.timeout"))
            with suppress(ConnectionError):
                assert await guest._reader.read() == b""

    @pytest.mark.broker(
        proxy_protocol_from="127.0.0.0/8", max_connections=200, max_unattested_per_address=2
    )
    async def test_limits_are_those_of_the_client(self, broker: RunningBroker) -> None:
        hosts = ["192.0.2.1"] * 3 + ["192.0.2.2"] * 2
        writers = []
        for number, host in enumerate(hosts):
            _, writer = await asyncio.open_connection(*broker.address)
            writers.append(writer)
            writer.write(header(host, 1000 + number) + b"\x16")
            await until(
                lambda number=number: (
                    len(broker.attested._tasks)  # type: ignore[misc]
                    + len(broker.events.named("connection.refused"))
                    == number + 1
                )
            )
            await elapse(0)
        (event,) = broker.events.named("connection.refused")
        assert event["peer"] == "192.0.2.1:1000"
        for writer in writers:
            writer.close()


@pytest.mark.broker(kbs=True, proxy_protocol_from="127.0.0.1")
class TestOthers:
    @pytest.mark.parametrize("sent", [header(), LOCAL, VERSION_1])
    async def test_a_header_of_another_peer_is_refused(
        self, broker: RunningBroker, sent: bytes
    ) -> None:
        async with guest_through(broker, sent, host="127.0.0.2") as guest:
            with suppress(ConnectionError):
                assert await guest._reader.read() == b""
        assert "is not a named proxy" in reason(broker)

    async def test_a_guest_without_a_proxy_is_served(self, broker: RunningBroker) -> None:
        async with guest_through(broker, host="127.0.0.2") as guest:
            await guest._handshake()
            assert (await guest.keks([KID]))[KID].reveal() == KEY

    @pytest.mark.broker(kbs=True, proxy_protocol_from="")
    async def test_no_proxy_is_named_by_default(self, broker: RunningBroker) -> None:
        async with linked(broker) as link:
            await link.send(header() + request("GET", "/healthz"))
            assert await link.answer() is None
        assert "is not a named proxy" in reason(broker)
