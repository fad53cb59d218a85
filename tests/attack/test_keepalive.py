"""Attack: pings keep a gRPC listener busy; honest clients send one every ten seconds."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from tests.support.broker import RunningBroker
from verdictd_py.listeners import grpc_listener

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7  # RFC 9113, 6
_ACK: Final = 1
_ENHANCE_YOUR_CALM: Final = 11  # RFC 9113, 7

SCALE: Final = 50
"""The test runs so many times faster than a real client, which sends a ping every 10 seconds."""


class Http2:
    """HTTP/2 connection that sends pings and no calls."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._send(_SETTINGS, b"")

    def _send(self, kind: int, payload: bytes, flags: int = 0) -> None:
        header = struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + bytes(4)
        self._writer.write(header + payload)

    async def ping(self, number: int) -> int | None:
        """Send a ping, and wait for its answer.

        Returns:
            None if it is answered, else the error of the GOAWAY in place of an answer.
        """
        sent = number.to_bytes(8, "big")
        self._send(_PING, sent)
        while True:
            header = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(header[:3], "big"))
            kind, flags = header[3], header[4]
            if kind == _SETTINGS and not flags & _ACK:
                self._send(_SETTINGS, b"", _ACK)
            elif kind == _PING and not flags & _ACK:
                self._send(_PING, payload, _ACK)
            elif kind == _PING and payload == sent:
                return None
            elif kind == _GOAWAY:
                return int.from_bytes(payload[4:8], "big")


@asynccontextmanager
async def connected(broker: RunningBroker) -> AsyncIterator[Http2]:
    host, _, port = broker.client_api.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_PREFACE)
    try:
        yield Http2(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the limit: gRPC measures it by a clock that no test can move."""
    name = "grpc.http2.min_ping_interval_without_data_ms"
    options = dict(grpc_listener._OPTIONS)
    monkeypatch.setattr(
        grpc_listener, "_OPTIONS", (*(options | {name: options[name] // SCALE}).items(),)
    )


@pytest.mark.usefixtures("scaled")
class TestPings:
    async def test_pings_every_ten_seconds_without_calls_are_answered(
        self, broker: RunningBroker
    ) -> None:
        async with connected(broker) as http2:
            for number in range(10):
                assert await http2.ping(number) is None
                await asyncio.sleep(10 / SCALE)

    async def test_a_client_that_sends_them_faster_is_disconnected(
        self, broker: RunningBroker
    ) -> None:
        async with connected(broker) as http2:
            answers = [await http2.ping(number) for number in range(3)]
            while (answer := await http2.ping(0)) is None:
                answers.append(answer)
        assert answer == _ENHANCE_YOUR_CALM
        assert len(answers) < 10
