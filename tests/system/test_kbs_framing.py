"""The end of a request is the same for every proxy: an ambiguous request is refused.

If a proxy and the broker disagree, an attacker can smuggle a request into the connection of
another client (RFC 9112, 11.2).
"""

from __future__ import annotations

import pytest

from tests.support.broker import REQUEST_SECONDS, RunningBroker
from tests.support.clock import elapse
from tests.support.kbs_raw import all_closed, linked

AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
POST = b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(AUTH)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(AUTH), AUTH)
SMUGGLED = b"GET /kbs/v0/resource/a/b/c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

AMBIGUOUS = {
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + AUTH,
    "a list of lengths": POST + b"Content-Length: 49, 49\r\n\r\n" + AUTH,
    "a length with a sign": POST + b"Content-Length: +49\r\n\r\n" + AUTH,
    "a length with an underscore": POST + b"Content-Length: 4_9\r\n\r\n" + AUTH,
    "a length in hex": POST + b"Content-Length: 0x31\r\n\r\n" + AUTH,
    "a length in other digits": POST + "Content-Length: \uff14\uff19\r\n\r\n".encode() + AUTH,
    "an empty length": POST + b"Content-Length: \r\n\r\n" + AUTH,
    "a length beyond all numbers": POST + b"Content-Length: 9" + b"9" * 40 + b"\r\n\r\n" + AUTH,
    "a space before the colon": POST + b"Content-Length : 49\r\n\r\n" + AUTH,
    "chunks and a length": POST + CHUNKED + b"Content-Length: 4\r\n\r\n" + CHUNKS,
    "chunks twice": POST + CHUNKED * 2 + b"\r\n" + CHUNKS,
    "chunks, then something": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "no chunks, by that name": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "a coding that is none": POST + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + AUTH,
    "a coding behind a tab": POST + b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH + b"\r\n" + AUTH,
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH + b"\r\n" + AUTH,
    "a coding behind a bare CR": POST + b"X: a\r" + CHUNKED + LENGTH + b"\r\n" + AUTH,
    "a coding behind a bare LF": POST + b"X: a\n" + CHUNKED + LENGTH + b"\r\n" + AUTH,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + CHUNKS,
    "a size with 0x": POST + CHUNKED + b"\r\n0x" + CHUNKS,
    "a size with a sign": POST + CHUNKED + b"\r\n+" + CHUNKS,
    "a size below nothing": POST + CHUNKED + b"\r\n-1\r\n\r\n",
    "a space before a size": POST + CHUNKED + b"\r\n " + CHUNKS,
    "a size that ends in LF": POST + CHUNKED + b"\r\n" + CHUNKS.replace(b"\r\n", b"\n"),
    "an LF in an extension": POST + CHUNKED + b"\r\n" + CHUNKS.replace(b"\r\n", b";a\nb\r\n", 1),
    "a chunk longer than it says": POST + CHUNKED + b"\r\n1" + CHUNKS[2:],
    "a length in the trailer": POST + CHUNKED + b"\r\n" + CHUNKS[:-2] + LENGTH + b"\r\n",
    "no host": POST.replace(b"Host: x\r\n", b"") + LENGTH + b"\r\n" + AUTH,
    "two hosts": POST + b"Host: y\r\n" + LENGTH + b"\r\n" + AUTH,
    "lines that end in LF": (POST + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + AUTH,
    "a space before the method": b" " + POST + LENGTH + b"\r\n" + AUTH,
}


async def ends_without_bug(broker: RunningBroker) -> None:
    await all_closed(broker)
    assert not broker.events.named("warning.bug")


pytestmark = pytest.mark.broker(kbs=True, check=ends_without_bug)


async def answers(broker: RunningBroker, data: bytes) -> list[int]:
    """Return the status of each answer on one connection, until the broker closes it."""
    found = []
    async with linked(broker) as link:
        await link.send(data)
        while (answer := await link.answer()) is not None:
            found.append(answer.status)
    return found


@pytest.mark.parametrize("which", AMBIGUOUS)
async def test_an_ambiguous_request_is_refused_and_ends_the_connection(
    broker: RunningBroker, which: str
) -> None:
    assert await answers(broker, AMBIGUOUS[which] + SMUGGLED) == [400]
    (failed,) = broker.events.named("request.failed", "request.answered", "request.unattested")
    assert failed["doing"] == "read a request"


@pytest.mark.parametrize(
    "data",
    [
        POST + LENGTH + b"\r\n" + AUTH,
        POST + CHUNKED + b"\r\n" + CHUNKS,
        POST + LENGTH + b"Expect: 100-continue\r\n\r\n" + AUTH,
    ],
)
async def test_an_unambiguous_request_is_read_exactly_to_its_end(
    broker: RunningBroker, data: bytes
) -> None:
    """The next request is separate and contains nothing of the first."""
    found = [status for status in await answers(broker, data + SMUGGLED) if status != 100]
    assert found == [200, 401]


async def test_a_request_within_a_body_is_not_executed(broker: RunningBroker) -> None:
    length = b"Content-Length: %d\r\n" % len(SMUGGLED)
    head = b"GET /kbs/v0/jwks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + length + b"\r\n"
    assert await answers(broker, head + SMUGGLED) == [200]


async def test_no_upgrade_of_the_protocol_is_accepted(broker: RunningBroker) -> None:
    """After an upgrade, a proxy would forward bytes without reading them."""
    upgrade = LENGTH + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with linked(broker) as link:
        await link.send(POST + upgrade + AUTH + SMUGGLED)
        answer = await link.answer()
        assert answer is not None
        assert answer.status == 200
        await elapse(REQUEST_SECONDS)
        assert await link.answer() is None
