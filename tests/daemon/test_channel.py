"""Channel between processes of one broker."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from tests.support.clock import elapse_until, until
from tests.support.events import RecordedEvents
from verdictd_py.daemon.workers import channel
from verdictd_py.daemon.workers.channel import CALL_SECONDS, Channel, ChannelFailed
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AttestationError,
    CollateralUnavailable,
    ConfigError,
    NotFound,
    Overloaded,
    StorageError,
    VerdictdError,
)

Pair = tuple[Channel, Channel]

SECRET = "9f2c-what-the-exception-says"


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest_asyncio.fixture
async def pair(events: RecordedEvents) -> AsyncIterator[Pair]:
    ends = socket.socketpair()
    one, other = [await Channel.open(end, events) for end in ends]
    yield one, other
    one.close()
    other.close()
    await other.wait_closed()


async def echo(body: JsonValue) -> JsonValue:
    return body


@pytest.mark.parametrize("body", [None, 1.5, "ä\n", [1, {"x": None}], {"a": [True]}, "x" * 300_000])
async def test_a_call_returns_the_answer_of_the_handler(pair: Pair, body: JsonValue) -> None:
    pair[1].handle("echo", echo)
    assert await pair[0].call("echo", body) == body


async def test_both_ends_call_at_the_same_time(pair: Pair) -> None:
    async def nested(body: JsonValue) -> JsonValue:
        return await pair[1].call("echo", body)

    pair[0].handle("echo", echo)
    pair[1].handle("nested", nested)
    answers = await asyncio.gather(*(pair[0].call("nested", n) for n in range(50)))
    assert answers == list(range(50))


async def test_handlers_begin_in_the_order_of_the_messages(pair: Pair) -> None:
    begun: list[JsonValue] = []

    async def note(body: JsonValue) -> JsonValue:
        begun.append(body)
        return None

    pair[1].handle("note", note)
    for number in range(20):
        pair[0].notify("note", number)
    await pair[0].call("note", 20)
    assert begun == list(range(21))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (NotFound("no such guest"), NotFound),
        (StorageError("full"), StorageError),
        (ConfigError("wrong"), ConfigError),
        (CollateralUnavailable("none"), CollateralUnavailable),
        (Overloaded("later"), Overloaded),
        (AttestationError("another one"), ChannelFailed),
    ],
)
async def test_an_error_of_the_handler_reaches_its_caller(
    pair: Pair, raised: VerdictdError, expected: type[VerdictdError]
) -> None:
    async def fail(body: JsonValue) -> JsonValue:
        raise raised

    pair[1].handle("fail", fail)
    with pytest.raises(expected) as caught:
        await pair[0].call("fail")
    assert type(caught.value) is expected
    assert str(caught.value) == str(raised)


async def test_an_internal_error_is_recorded_and_sent_without_its_text(
    pair: Pair, events: RecordedEvents
) -> None:
    async def fail(body: JsonValue) -> JsonValue:
        raise RuntimeError(SECRET)

    pair[1].handle("fail", fail)
    pair[1].handle("echo", echo)
    with pytest.raises(ChannelFailed, match="internal error, ask the operator") as caught:
        await pair[0].call("fail")
    assert [bug["doing"] for bug in events.named("warning.bug")] == ["handle fail"]
    assert SECRET not in f"{events.text} {caught.value}"
    assert await pair[0].call("echo", 1) == 1


async def test_a_message_without_a_handler_is_answered(pair: Pair) -> None:
    pair[0].notify("unknown")
    with pytest.raises(ChannelFailed, match="does not know unknown"):
        await pair[0].call("unknown")


@pytest.mark.parametrize("closing", [0, 1])
async def test_calls_fail_when_the_channel_is_closed(pair: Pair, closing: int) -> None:
    begun = asyncio.Event()

    async def never(body: JsonValue) -> JsonValue:
        begun.set()
        await asyncio.get_running_loop().create_future()
        return None

    pair[1].handle("never", never)
    calling = asyncio.create_task(pair[0].call("never"))
    await begun.wait()
    pair[closing].close()
    with pytest.raises(ChannelFailed, match="has ended"):
        await calling
    for end in pair:
        await end.wait_closed()
        assert end.is_closed
        assert not end._running or all(task.done() for task in end._running)
        end.notify("never")
        with pytest.raises(ChannelFailed):
            await end.call("never")


async def test_a_call_has_a_time_limit_and_a_late_answer_is_ignored(pair: Pair) -> None:
    proceed = asyncio.Event()

    async def slow(body: JsonValue) -> JsonValue:
        await proceed.wait()
        return body

    pair[1].handle("slow", slow)
    pair[1].handle("echo", echo)
    calling = asyncio.create_task(pair[0].call("slow"))
    assert await elapse_until(calling.done) == pytest.approx(CALL_SECONDS, abs=2)
    with pytest.raises(ChannelFailed, match="does not answer"):
        await calling
    proceed.set()
    assert await pair[0].call("echo", "after") == "after"


async def test_a_message_that_is_too_large_is_not_sent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def many(body: JsonValue) -> JsonValue:
        return "x" * 2000

    pair[1].handle("many", many)
    monkeypatch.setattr(channel, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(ChannelFailed, match="at most 1000"):
        await pair[0].call("many", "x" * 1000)
    with pytest.raises(ChannelFailed, match="at most 1000"):
        await pair[0].call("many")


async def test_a_peer_with_too_many_calls_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_RUNNING", 2)
    proceed = asyncio.Event()

    async def slow(body: JsonValue) -> JsonValue:
        await proceed.wait()
        return body

    pair[1].handle("slow", slow)
    accepted = [asyncio.create_task(pair[0].call("slow", n)) for n in range(2)]
    await until(lambda: len(pair[1]._running) == 2)
    with pytest.raises(Overloaded):
        await pair[0].call("slow", 2)
    proceed.set()
    assert await asyncio.gather(*accepted) == [0, 1]


async def test_a_channel_whose_peer_reads_nothing_is_closed(
    events: RecordedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_QUEUED_BYTES", 10_000)
    end, silent = socket.socketpair()
    with silent:
        one = await Channel.open(end, events)
        while not one.is_closed:
            one.notify("x", "x" * 1000)
        await one.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1{",
        b"\0\0\0\2[]",
        b"\0\0\0\2{}",
        b'\0\0\0\x0c{"name":"x"}',
        b"\0\0",
    ],
)
async def test_a_peer_that_sends_no_messages_is_disconnected(
    events: RecordedEvents, sent: bytes
) -> None:
    end, other = socket.socketpair()
    with other:
        one = await Channel.open(end, events)
        other.sendall(sent)
        if sent[0] == 0:  # otherwise the length alone is refused
            other.shutdown(socket.SHUT_WR)
        await one.wait_closed()
        other.setblocking(False)
        with suppress(ConnectionError):
            assert await asyncio.get_running_loop().sock_recv(other, 10) == b""


async def test_messages_may_arrive_in_pieces(events: RecordedEvents) -> None:
    end, other = socket.socketpair()
    with other:
        one = await Channel.open(end, events)
        one.handle("echo", echo)
        data = json.dumps({"id": 1, "name": "echo", "body": 5}).encode()
        for byte in len(data).to_bytes(4) + data:
            other.sendall(bytes([byte]))
            await asyncio.sleep(0)
        other.setblocking(False)
        received = await asyncio.get_running_loop().sock_recv(other, 1000)
        assert json.loads(received[4:]) == {"id": 1, "answer": 5}
        one.close()
        await one.wait_closed()
