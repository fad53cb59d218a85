"""HTTP by hand, for requests that no client library would send."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tests.support.broker import RunningBroker
from tests.support.kbs import url_of

ERROR_TYPE: Final = "https://github.com/confidential-containers/kbs/errors/"


LINES = (
    "request.answered",
    "request.failed",
    "request.unattested",
    "connection.failed",
    "connection.refused",
)


@dataclass(frozen=True)
class Answer:
    """One answer, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def variant(self) -> str:
        """Of an answer that is no success; its body is JSON of exactly two texts."""
        found = json.loads(self.body)
        assert set(found) == {"type", "detail"}
        assert self.headers["content-type"] == "application/json"
        assert isinstance(found["detail"], str)
        assert found["type"].startswith(ERROR_TYPE)
        return str(found["type"].removeprefix(ERROR_TYPE))


class Link:
    """A connection, and what comes back on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head: bool = False) -> Answer | None:
        """The next answer, None where the connection was closed instead.

        Args:
            head: it answers HEAD, and has no body.
        """
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        pairs = [line.partition(":") for line in lines[1:] if line]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = 0 if head else int(headers.get("content-length", 0))
        body = await self.reader.readexactly(length)
        return Answer(int(lines[0].split()[1]), headers, body)

    async def closed(self) -> bool:
        """True once the other side has closed; what it still says is thrown away."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass
        return True


@asynccontextmanager
async def linked(
    broker: RunningBroker, *, receive_buffer: int | None = None
) -> AsyncIterator[Link]:
    """A connection to the HTTP listener that has said nothing yet.

    Args:
        receive_buffer: bytes that the kernel takes for the client; by default it takes more and
            more of a fast sender (up to tcp_rmem, often 32 MiB).
    """
    port = int(url_of(broker).rpartition(":")[2])
    connection = socket.socket()
    if receive_buffer is not None:  # before the connection: it limits the window
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    reader, writer = await asyncio.open_connection(sock=connection, limit=4 * 1024 * 1024)
    try:
        yield Link(reader, writer)
    finally:
        writer.close()


async def once(broker: RunningBroker, data: bytes, *, head: bool = False) -> Answer | None:
    """The first answer to these bytes, on a connection of their own."""
    async with linked(broker) as link:
        with suppress(ConnectionError):  # refused in the middle: the answer may be there
            await link.send(data)
        return await link.answer(head=head)


def request(
    method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """A request with a length, and the headers as they are given."""
    length = {"Content-Length": str(len(body))} if body else {}
    said = {"Host": "kbs", **length, **(headers or {})}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in said.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def cookie_of(link: Link) -> str:
    """Begin a session on a connection, and return its cookie."""
    body = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
    await link.send(request("POST", "/kbs/v0/auth", body))
    found = await link.answer()
    assert found is not None
    return found.headers["set-cookie"].partition(";")[0]


async def all_closed(broker: RunningBroker) -> None:
    """Waits until no connection is left."""
    kbs = broker.kbs
    while tasks := tuple(kbs._acceptor._tasks):
        await asyncio.wait(tasks)


def lines(broker: RunningBroker) -> list[str]:
    return [name for name in broker.events.names if name in LINES]
