"""Invalid input of unattested clients: each is one log line, and no resource leaks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import suppress

import grpc
import pytest

from tests.support.broker import (
    HANDSHAKE_SECONDS,
    KEY,
    KID,
    REQUEST_SECONDS,
    RunningBroker,
)
from tests.support.clock import elapse, elapse_until, until
from verdictd_py.formats.collateral import Collateral
from verdictd_py.guest.attesters import guest_context
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.protocols.ratstls.session import TlsSession

CONNECTIONS = 5


async def still_serves(broker: RunningBroker) -> None:
    """Check that a guest is served, the log has no secret, and all connections are closed."""
    await nothing_stays(broker)
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    await nothing_stays(broker)
    for form in (KEY.decode().strip(), base64.b64encode(KEY).decode(), str(list(KEY))):
        assert form not in broker.events.text


async def nothing_stays(broker: RunningBroker) -> None:
    while broker.attested._tasks:
        await asyncio.wait(broker.attested._tasks)


pytestmark = pytest.mark.broker(max_connections=CONNECTIONS, check=still_serves)


async def send_raw(broker: RunningBroker, data: bytes) -> None:
    """Send bytes without TLS, and advance the clock until the broker closes the connection."""
    reader, writer = await asyncio.open_connection(*broker.address)
    writer.write(data)
    reading = asyncio.create_task(reader.read(-1))
    await elapse_until(reading.done)
    with suppress(ConnectionResetError):
        await reading
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 5000,
        bytes(range(256)) * 100,
        b"\x16\x03\x01\x40\x00" + b"\x01" * 16_384,
        b"\x16\x03\x01",
        b"",
    ],
)
async def test_bytes_that_are_not_tls_are_one_log_line(broker: RunningBroker, data: bytes) -> None:
    await send_raw(broker, data)
    await nothing_stays(broker)
    lines = broker.events.named("connection.failed", "connection.timeout", "connection.closed")
    assert len(lines) == 1
    assert not broker.events.named("connection.probed")


async def test_half_a_handshake_ends_at_its_time_limit(broker: RunningBroker) -> None:
    """Upstream had no such limit, so that idle connections blocked it."""
    session = TlsSession(broker.context(None), server=False)
    session.handshake()
    hello = session.outgoing()
    await send_raw(broker, hello[: len(hello) // 2])
    await nothing_stays(broker)
    assert len(broker.events.named("connection.timeout")) == 1


async def test_idle_connections_beyond_the_limit_are_refused(broker: RunningBroker) -> None:
    """Each of them needs a record, not a thread."""
    held = [await asyncio.open_connection(*broker.address) for _ in range(12)]
    await until(lambda: len(broker.events.named("connection.refused")) == 12 - CONNECTIONS)
    await elapse(HANDSHAKE_SECONDS)
    await nothing_stays(broker)
    assert len(broker.events.named("connection.refused")) == 12 - CONNECTIONS
    assert len(broker.events.named("connection.timeout")) == CONNECTIONS
    for _, writer in held:
        writer.close()


class _Padded:
    """An attester with a given quote."""

    def __init__(self, change: Callable[[bytes], bytes], broker: RunningBroker) -> None:
        self._change = change
        self._good = broker.attester()

    def quote(self, report_data: bytes) -> bytes:
        return self._change(self._good.quote(report_data))

    def endorsements(self, now: object) -> Collateral | None:
        del now
        return None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda quote: quote[:40], "evidence-format"),
        (lambda quote: quote[:600], "quote-invalid|evidence-format"),
        (lambda quote: quote[:-1000], "quote-invalid|evidence-format"),
        (lambda quote: quote + bytes(62_000), "evidence-format"),
        (lambda quote: b"", "evidence-missing"),
    ],
)
async def test_broken_quotes_are_refused_with_a_code(
    broker: RunningBroker, change: Callable[[bytes], bytes], code: str
) -> None:
    context = guest_context(_Padded(change, broker), Form.CURRENT, now=broker.now)
    with pytest.raises(BrokerRefused, match=code):
        async with GuestConnection.open(*broker.address, context) as guest:
            await guest.version()
    assert len(broker.events.named("guest.refused")) == 1


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"garbage", "begins with"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper"),
        (b'{"command":"\xff"}', "UTF-8|JSON"),
        (b'{"command":5}', "command"),
        (b"{}", "command"),
        (b"[]", "begins with"),
        (b'{"command":"' + b"x" * 1_100_000, "longer than"),
    ],
)
async def test_an_invalid_request_is_answered_with_fail_and_ends_the_connection(
    broker: RunningBroker, data: bytes, told: str
) -> None:
    """defects.md 4 and 5: upstream panicked or closed without an answer."""
    async with broker.guest() as guest:
        guest._session.write(data)
        await guest._flush()
        answer = json.loads(await guest._read())
        assert answer["status"] == "Fail"
        assert any(word in answer["error"] for word in told.split("|"))


async def test_an_incomplete_request_ends_at_its_time_limit(broker: RunningBroker) -> None:
    async def begin_and_wait() -> None:
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
            await until(lambda: broker.attested._idle)
            guest._session.write(b'{"command":"version"')
            await guest._flush()
            await until(lambda: not broker.attested._idle)
            await elapse(REQUEST_SECONDS)
            await guest._read()

    with pytest.raises(BrokerRefused, match="closed the connection"):
        await begin_and_wait()
    await nothing_stays(broker)
    assert len(broker.events.named("connection.timeout")) == 1


@pytest.mark.parametrize(
    "data", [b"garbage" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999]
)
async def test_garbage_on_the_client_api_affects_no_guest(
    broker: RunningBroker, data: bytes
) -> None:
    host, _, port = broker.client_api.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    with suppress(ConnectionResetError):
        await reader.read(-1)
    writer.close()
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        call = channel.unary_unary("/keyprovider.KeyProviderService/WrapKey", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\x02{}")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
