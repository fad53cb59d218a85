"""Status listener: metrics, liveness and readiness over plain HTTP, for monitoring programs.

It runs in a thread with an event loop of its own. So it answers while the event loop of the broker
is busy with a flood, and it can report that this loop hangs. Clients need no rights and may be
hostile: their number, time and bytes are limited, and each connection serves one request.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from threading import Thread
from typing import Final

from verdictd_py.config import Address
from verdictd_py.listeners import sockets
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.listener import Background
from verdictd_py.ports import Events

MAX_HEAD_BYTES: Final = 8192
"""Maximum size of a request without its body, which is ignored."""

MAX_CONNECTIONS: Final = 32
"""Maximum number of connections; one more closes the oldest one."""

SECONDS: Final = 5.0
"""Time limit to send a request, and again to receive the answer."""

LINGER_SECONDS: Final = 0.5
"""Time for a client to read the answer before the rest of its request is discarded."""

CLOSE_SECONDS: Final = 0.4
"""Time for the thread to end."""

_BACKLOG: Final = 64
_METHODS: Final = ("GET", "HEAD")
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """Answer to a request."""

    body: bytes
    content_type: str = _TEXT
    status: int = 200


Route = Callable[[str], Page]
"""Makes a page, in the thread of the listener; the argument is the header `Accept`."""


class StatusListener:
    """Listener of monitoring programs (see `Listener`).

    It goes on to answer while the other listeners stop; `close` ends it.

    Args:
        routes: pages by path.
        events: records internal errors.
    """

    name = "status"

    def __init__(self, address: Address, routes: Mapping[str, Route], events: Events) -> None:
        self.address = address
        self._events = events
        self._routes = dict(routes)
        self._listening: socket.socket | None = None
        self._thread: Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._open: OrderedDict[asyncio.StreamWriter, None] = OrderedDict()

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def bind(self) -> None:
        self._listening = sockets.bind(self.address, option="--status")
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)

    async def start(self, background: Background) -> None:
        """Serve clients in the thread."""
        del background
        if self._listening is not None:
            self._thread = Thread(target=self._run, name="status", daemon=True)
            self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Do nothing: `/readyz` reports that the broker stops."""
        del seconds

    async def close(self) -> None:
        """End the thread, and close the socket and all connections."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            await asyncio.to_thread(thread.join, CLOSE_SECONDS)
        elif not self._loop.is_closed():
            self._loop.close()
        if self._listening is not None:
            self._listening.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve_all())
        finally:
            self._loop.close()

    async def _serve_all(self) -> None:
        server = await asyncio.start_server(
            self._serve, sock=self._listening, limit=MAX_HEAD_BYTES, backlog=_BACKLOG
        )
        await self._stopping.wait()
        server.close()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            oldest, _ = self._open.popitem(last=False)
            oldest.transport.abort()
        self._open[writer] = None
        try:
            with suppress(OSError, TimeoutError):
                await self._answer(reader, writer)
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        try:
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            method, page = self._page(head)
        except asyncio.LimitOverrunError:
            method, page = "GET", _failed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            return
        except Exception as error:  # noqa: BLE001  # other clients must still be served
            text = report_bug(self._events, error, doing="serve a status page")
            method, page = "GET", Page(f"{text}\n".encode(), status=500)
        writer.write(_encoded(method, page))
        async with asyncio.timeout(SECONDS):
            await writer.drain()
            writer.write_eof()
        async with asyncio.timeout(LINGER_SECONDS):
            await reader.read(MAX_HEAD_BYTES)  # an abort would discard what the client has not read

    def _page(self, head: bytes) -> tuple[str, Page]:
        """Return the method of a request, and its answer."""
        line, *lines = head.decode("latin-1").split("\r\n")
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return "GET", _failed(HTTPStatus.BAD_REQUEST)
        method, target, _ = parts
        if method not in _METHODS:
            return method, _failed(HTTPStatus.METHOD_NOT_ALLOWED)
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return method, _failed(HTTPStatus.NOT_FOUND)
        accept = ""
        for header in lines:
            name, _, value = header.partition(":")
            if name.lower() == "accept":
                accept = value.strip()
        return method, route(accept)


def _failed(status: HTTPStatus) -> Page:
    return Page(f"{status.phrase}\n".encode(), status=status)


def _encoded(method: str, page: Page) -> bytes:
    headers = (
        f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}",
        "Server: verdictd-py",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *(("Allow: GET, HEAD",) if page.status == HTTPStatus.METHOD_NOT_ALLOWED else ()),
        "Connection: close",
        "\r\n",
    )
    return "\r\n".join(headers).encode() + (b"" if method == "HEAD" else page.body)
