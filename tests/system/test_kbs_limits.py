"""Limits of the HTTP listener for unattested clients: time, bytes and number."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.broker import REQUEST_SECONDS, RunningBroker
from tests.support.clock import elapse, elapse_until, until
from tests.support.hostile_requests import REFUSED
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.kbs_admins import AdminTokens, bearing
from tests.support.kbs_raw import Answer, Link, all_closed, lines, linked, once, request
from tests.support.rcar_guests import attested, tdx_guest
from verdictd_py.listeners.buffers import READ_BYTES
from verdictd_py.listeners.kbs import connections
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES

CONNECTIONS = 20
TOLERANCE = 30.0
"""Seconds that a test may really take, in addition to those that it lets elapse."""
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


async def still_serves(broker: RunningBroker) -> None:
    """Check that a genuine guest is served and no internal error was reported."""
    await all_closed(broker)
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
    await all_closed(broker)
    assert not broker.events.named("warning.bug")


async def reports_no_bug(broker: RunningBroker) -> None:
    """Check that no internal error was reported, where no genuine guest is accepted any more."""
    assert not broker.events.named("warning.bug")


@pytest.fixture
def broker_settings(tokens: AdminTokens) -> dict[str, Any]:
    return {"kbs_admins": tokens.file}


pytestmark = pytest.mark.broker(kbs=True, max_connections=CONNECTIONS, check=still_serves)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET",
        GET,
        GET + b"X: " + b"x" * 1000,
    ],
)
async def test_a_client_that_sends_too_little_is_disconnected(
    broker: RunningBroker, data: bytes
) -> None:
    async with linked(broker) as link:
        await link.send(data)
        closing = asyncio.create_task(link.closed())
        await until(lambda: open_connections(broker))
        seconds = await elapse_until(closing.done)
        assert REQUEST_SECONDS - TOLERANCE <= seconds <= REQUEST_SECONDS + 1
    assert lines(broker) == []


async def test_a_header_byte_by_byte_does_not_extend_its_limit(
    broker: RunningBroker,
) -> None:
    async with linked(broker) as link:
        await link.send(GET + b"X: ")
        closing = asyncio.create_task(link.closed())
        await until(lambda: open_connections(broker))
        seconds = 0
        while not closing.done():
            with suppress(ConnectionError):
                await link.send(b"x")
            await elapse(1)
            seconds += 1
        assert REQUEST_SECONDS - TOLERANCE <= seconds <= REQUEST_SECONDS + 1


@pytest.mark.parametrize("form", ["length", "chunks"])
async def test_a_slow_body_ends_at_its_time_limit(broker: RunningBroker, form: str) -> None:
    how = "Content-Length: 50" if form == "length" else "Transfer-Encoding: chunked"
    begun = b'{"version"' if form == "length" else b'a\r\n{"version"\r\n'
    head = f"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\n{how}\r\n\r\n".encode()
    async with linked(broker) as link:
        await link.send(head + begun)
        await until(lambda: answering(broker))
        await elapse(REQUEST_SECONDS - TOLERANCE)
        assert answering(broker)
        await elapse(TOLERANCE)
        answer = await link.answer()
        assert answer is not None
        assert (answer.status, answer.variant) == (408, "SerdeError")
        assert await link.closed()
    assert lines(broker) == ["request.failed"]


async def test_a_body_shorter_than_its_length_is_not_processed(broker: RunningBroker) -> None:
    async with linked(broker) as link:
        await link.send(POST + b"Content-Length: 999\r\n\r\n" + AUTH)
    await all_closed(broker)
    assert len(lines(broker)) <= 1
    assert not broker.events.named("request.answered")


async def test_a_disconnect_before_the_body_is_read_is_not_an_internal_error(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture checks that no internal error is reported."""
    received = connections.Connection.data_received

    def received_and_lost(self: connections.Connection, data: bytes) -> None:
        received(self, data)
        self.abort()

    monkeypatch.setattr(connections.Connection, "data_received", received_and_lost)
    async with linked(broker) as link:
        await link.send(POST + b"Content-Length: 1000\r\n\r\n" + b"x")
        assert await link.closed()
    await all_closed(broker)
    monkeypatch.undo()


async def test_bytes_beyond_the_length_of_a_body_are_not_a_request(
    broker: RunningBroker,
) -> None:
    async with linked(broker) as link:
        await link.send(request("POST", "/kbs/v0/auth", AUTH))
        good = await link.answer()
        assert good is not None
        assert good.status == 200
        await link.send(b"garbage" + request("POST", "/kbs/v0/auth", AUTH))
        bad = await link.answer()
        assert bad is not None
        assert (bad.status, bad.variant) == (400, "SerdeError")
        assert await link.closed()
    assert lines(broker) == ["request.answered", "request.failed"]


async def test_pipelined_requests_are_answered_in_order(broker: RunningBroker) -> None:
    count = 200
    async with linked(broker) as link:
        sending = asyncio.create_task(
            link.send(
                b"".join(
                    request("POST" if n % 2 else "GET", "/kbs/v0/auth", AUTH if n % 2 else b"")
                    for n in range(count)
                )
            )
        )
        found = [await link.answer() for _ in range(count)]
        await sending
    assert [answer.status for answer in found if answer] == [405, 200] * (count // 2)
    assert len(lines(broker)) == count


@pytest.mark.broker(kbs=True, max_connections=CONNECTIONS, check=reports_no_bug)
async def test_a_client_that_reads_no_answer_is_disconnected(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """It requests more than the kernel buffers, and then does not read."""
    large = b"x" * (1024 * 1024)
    where = f"{url_of(broker)}/kbs/v0/reference-value"
    values = {"mrTd": ["a" * 96] * 9000}
    payload = base64.b64encode(json.dumps(values).encode()).decode()
    token = tokens.token("boss")
    async with httpx.AsyncClient(timeout=120) as http:
        answer = await http.post(
            where,
            json={"version": "0.1.0", "type": "sample", "payload": payload},
            headers=bearing(token),
        )
        assert answer.status_code == 200, answer.text
        assert len((await http.get(where, headers=bearing(token))).content) > len(large) * 0.8
    await all_closed(broker)
    asked = request("GET", "/kbs/v0/reference-value", headers=bearing(token)) * 30
    async with linked(broker, receive_buffer=64 * 1024) as link:
        link.writer.write(asked)
        await until(lambda: open_connections(broker))
        await elapse_until(lambda: not open_connections(broker))
        answered = len(broker.events.named("request.answered"))
        assert answered < 30


async def test_headers_of_pipelined_requests_have_a_common_limit(broker: RunningBroker) -> None:
    """A request may have sixty long headers, but pipelined requests share the limit."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    header = "".join(f"X-{n}: {'x' * 70_000}\r\n" for n in range(60)).encode()
    one = GET + header
    async with linked(broker) as link:
        with pytest.raises(ConnectionError):
            await flood(link, one + b"\r\n")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 80 * 1024  # KiB


async def test_senders_wait_at_the_limit_for_all_bodies_and_none_is_disconnected(
    broker: RunningBroker,
) -> None:
    """Many incomplete bodies must not exhaust the memory."""
    broker.kbs._acceptor.shares.buffers._most = 1_000_000
    begun = POST + f"Content-Length: {MAX_BODY_BYTES}\r\n\r\n".encode()
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(linked(broker)) for _ in range(6)]
        for link in links:
            link.writer.write(begun + b" " * 800_000)
        await until(lambda: waiting(broker) >= 200_000)
        async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
        assert waiting(broker) <= 250_000 + len(links) * 2 * READ_BYTES
        assert not [link for link in links if link.reader.at_eof()]
    for _ in range(30):
        async with linked(broker) as link:
            await link.send(GET + b"X: " + b"x" * 60_000)
    # The broker reads nothing of a sender that waits, and notices at the time limit that it left.
    await elapse_until(lambda: not open_connections(broker))
    assert waiting(broker) == 0
    for _ in range(2):
        async with linked(broker) as link:
            for _ in range(15):  # what was answered, or is gone, counts no more
                await link.send(request("POST", "/kbs/v0/auth", b" " * 100_000))
                answer = await link.answer()
                assert answer is not None
                assert answer.status == 400


def waiting(broker: RunningBroker) -> int:
    """Return the number of bytes that were received and not answered yet."""
    return broker.kbs._acceptor.shares.buffers.total


def open_connections(broker: RunningBroker) -> int:
    return len(broker.kbs._acceptor._tasks)


def answering(broker: RunningBroker) -> bool:
    """Return whether an answer is due on the only connection."""
    return [each.answering for each in broker.kbs._acceptor._tasks.values() if each] == [True]


async def flood(link: Link, data: bytes) -> None:
    """Send the same bytes until the connection is closed."""
    while True:
        await link.send(data)


async def test_the_oldest_connections_are_closed_for_new_ones_at_the_limit(
    broker: RunningBroker,
) -> None:
    held = [await asyncio.open_connection(*address(broker)) for _ in range(CONNECTIONS + 15)]
    for reader, _ in held[:15]:
        assert await reader.read() == b""
    assert len(broker.events.named("connection.refused")) == 15
    assert not [reader for reader, _ in held[15:] if reader.at_eof()]
    assert open_connections(broker) == CONNECTIONS
    for _, writer in held:
        writer.close()
    await all_closed(broker)


def address(broker: RunningBroker) -> tuple[str, int]:
    host, _, port = url_of(broker).removeprefix("http://").rpartition(":")
    return host, int(port)


async def test_genuine_guests_are_served_during_an_attack(broker: RunningBroker) -> None:
    """Attackers hold half of the connections and send garbage on a quarter of them."""
    held = [await asyncio.open_connection(*address(broker)) for _ in range(CONNECTIONS // 2)]
    stop = asyncio.Event()

    async def rubbish() -> None:
        while not stop.is_set():
            await once(broker, bytes(range(256)) * 100)

    strangers = [asyncio.create_task(rubbish()) for _ in range(CONNECTIONS // 4)]
    for _ in range(5):
        async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
    stop.set()
    await asyncio.gather(*strangers)
    for _, writer in held:
        writer.close()


async def test_neither_memory_nor_descriptors_grow(broker: RunningBroker) -> None:
    """The test repeats every quick case above more than a thousand times."""
    quick = [data for data, _, _ in REFUSED.values() if len(data) < 10_000]

    async def round_of() -> None:
        for data in quick:
            await once(broker, data)
        await all_closed(broker)
        broker.events.events.clear()

    for _ in range(5):
        await round_of()
    descriptors, memory = descriptors_open(), resident()
    for _ in range(25):
        await round_of()
    assert descriptors_open() == descriptors
    assert resident() - memory < 8 * 1024 * 1024


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_a_body_of_the_maximum_size_is_accepted(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    content = os.urandom(MAX_BODY_BYTES)
    head = {**bearing(tokens.token("ops", "operator")), "Expect": "100-continue"}
    data = request("POST", "/kbs/v0/resource/a/b/c", content, head)
    async with linked(broker) as link:
        begin = data[: -len(content)]
        await link.send(begin)
        interim = await link.answer()
        assert interim is not None
        assert interim.status == 100
        await link.send(content)
        answer: Answer | None = await link.answer()
    assert answer is not None
    if answer.status == 200:
        assert (broker.data / "resources/a/b/c").read_bytes() == content
    else:  # resources have a bound of their own
        assert (answer.status, answer.variant) == (400, "SerdeError")
