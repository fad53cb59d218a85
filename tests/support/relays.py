"""Relays on loopback that record what passes through them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Relay:
    """A relay to one server.

    Attributes:
        port: its port of 127.0.0.1.
        streams: what each connection has sent in one direction. Each direction has a stream of its
            own: if both were in one, bytes of the other direction could divide a secret.
    """

    port: int = 0
    streams: list[bytearray] = field(default_factory=list)

    @property
    def recorded(self) -> bytes:
        """All streams, with bytes between them that no encoding of a secret has."""
        return b"\xff\n\xff".join(bytes(stream) for stream in self.streams)


@asynccontextmanager
async def recording(
    port: int, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Relay]:
    """Relay connections to a server, and record both directions.

    Args:
        tls: with which the relay connects to the server, so that it records plain bytes of a
            client that uses no TLS; None to pass on what the client sends.
    """
    relay = Relay()
    running: set[asyncio.Task[None]] = set()

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = bytearray()
        relay.streams.append(stream)
        try:
            while chunk := await reader.read(65_536):
                stream.extend(chunk)
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass  # one side is gone
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        task.add_done_callback(running.discard)
        try:
            there = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=None if tls is None else host
            )
        except OSError:
            writer.close()
            return
        await asyncio.gather(passed_on(reader, there[1]), passed_on(there[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
