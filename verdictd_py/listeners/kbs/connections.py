"""Connections of HTTP clients, with limits and answers that the library lacks."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from verdictd_py.domain.events import ConnectionFailed, ConnectionRefused, RequestFailed
from verdictd_py.listeners.accepting import accept
from verdictd_py.listeners.kbs import answers
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.sockets import peer_text
from verdictd_py.ports import Events
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES

_LINGER_SECONDS: Final = 1.0
"""Time for a refused client to read the answer."""

_MAX_HEADER_BYTES: Final = 72 * 1024
"""Maximum size of one header: a token has up to 32 KiB, and proxies add to it."""

_MAX_HEADERS: Final = 64
"""Maximum number of headers. Guests send six; a proxy adds some."""

_MAX_WAITING_BYTES: Final = 2 * MAX_BODY_BYTES
"""Maximum number of received bytes of a connection that are not answered yet: a body in chunks,
or requests after it."""

MAX_ALL_WAITING_BYTES: Final = 256 * 1024 * 1024
"""The same limit for all connections together; 4,096 of them could otherwise fill the memory."""

_SILENT: Final = logging.getLogger("verdictd_py.http")
"""Logger for the library that discards everything: the library would log what clients sent."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class _UnansweredBytes:
    """Counter of received bytes that are not answered yet, by connection.

    If there are too many, the connection with the most of them is aborted. Guests send some
    KiB, so they are not affected by clients that send as much as they can.
    """

    def __init__(self) -> None:
        self._sizes: dict[Connection, int] = {}
        self._total = 0

    def add(self, connection: Connection, size: int) -> None:
        own = self._sizes[connection] = self._sizes.get(connection, 0) + size
        self._total += size
        if own > _MAX_WAITING_BYTES:
            connection.abort()
        elif self._total > MAX_ALL_WAITING_BYTES:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            largest.abort()
            self.reset(largest)

    def reset(self, connection: Connection) -> None:
        self._total -= self._sizes.pop(connection, 0)


class Connection(web.RequestHandler):
    """Connection of one client.

    The library limits the time that it waits for a request. This class adds limits for
    unanswered bytes, for clients that do not read their answer, and for clients that do not
    close their connection. It also replaces the library's own answers by JSON.

    Attributes:
        answering: whether a started request still needs its answer; set by the routes.
        awaited: whether the guest was accepted and has made no request since: a drain waits for
            its first one.
        aborted: whether the broker aborted the connection.
    """

    __slots__ = (
        "_draining",
        "_ending",
        "_events",
        "_limits",
        "_tcp",
        "_unanswered",
        "aborted",
        "answering",
        "awaited",
        "closed",
        "serving",
    )

    def __init__(
        self, server: web.Server, events: Events, limits: Limits, unanswered: _UnansweredBytes
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as the library documents
            logger=_SILENT,
            keepalive_timeout=limits.request,  # also for the headers of the first request
            lingering_time=_LINGER_SECONDS,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
            auto_decompress=False,  # a decompressed body could exceed all limits
        )
        self._events = events
        self._limits = limits
        self._unanswered = unanswered
        self._draining = False
        self.aborted = False
        self.answering = False
        self.awaited = False
        self._tcp: asyncio.Transport | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.serving: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        # So a drained write is in the kernel's buffer, and a client that does not read
        # occupies memory for one answer only.
        self._tcp.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._ending is not None:
            self._ending.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if data and not self.aborted:  # the library also calls this without data
            self._unanswered.add(self, len(data))
        if not self.aborted:
            super().data_received(data)

    async def start(self) -> None:
        """Serve requests until the last one; then close the connection within a time limit."""
        self.serving = asyncio.current_task()
        try:
            await super().start()
        finally:
            if not self.closed.done():
                loop = asyncio.get_running_loop()
                self._ending = loop.call_later(self._limits.request, self.abort)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer within the time limit."""
        self._unanswered.reset(self)
        if resp.status >= 400 and resp.content_type != answers.JSON:
            # The library's own answer. The requested path is not logged: the client chose it.
            self._record(f"{request.method} unknown", resp.status, str(resp.reason))
            resp = answers.refused(resp.status, str(resp.reason), resp.headers.get("Allow"))
        resp.headers["Server"] = "verdictd-py"
        if self._draining and not self.awaited:
            resp.force_close()
        try:
            async with asyncio.timeout(self._limits.request):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.abort()
            return resp, True
        finally:
            self.answering = False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to bytes that are not a request; the library's would quote them."""
        del request, message
        reason = "the request cannot be read"
        if status == 400 and isinstance(exc, LineTooLong):
            status, reason = 431, "the URL or a header is too long"
        self._record("read a request", status, reason)
        answer = answers.refused(status, reason)
        answer.force_close()
        return answer

    def _record(self, doing: str, status: int, reason: str) -> None:
        name = None if self._tcp is None else self._tcp.get_extra_info("peername")
        self._events.record(
            RequestFailed(
                peer=peer_text(name), doing=doing, code="request", status=str(status), reason=reason
            )
        )

    def drain(self) -> None:
        """Close the connection after the answer in progress, or now if none is due.

        The library ignores the rest of a body.
        """
        self._draining = True
        if not self.answering and not self.awaited:
            self.force_close()

    def abort(self) -> None:
        """Close the connection now; unsent data is lost."""
        self.aborted = True
        if self._tcp is not None and not self.closed.done():
            self._tcp.abort()

    def cancel(self) -> None:
        """Close the connection now, and cancel its request."""
        if self.serving is not None:
            self.serving.cancel()
        self.abort()


class Acceptor:
    """Acceptor of connections that limits their number and serves each until it is closed.

    Args:
        tls: returns the TLS settings for a connection; None for plain HTTP.
    """

    def __init__(
        self, *, events: Events, limits: Limits, tls: Callable[[], ssl.SSLContext] | None
    ) -> None:
        self._events = events
        self._limits = limits
        self._tls = tls
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._unanswered = _UnansweredBytes()

    def start(self, listening: socket.socket, server: web.Server, background: Background) -> None:
        """Accept connections on a bound socket."""
        self._listening = listening

        def take(accepted: socket.socket, name: object) -> None:
            self._take(server, accepted, name)

        self._accepting = background(
            "kbs_http.accept", partial(accept, listening, take, self._events), essential=True
        )

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close idle connections, and let requests in flight finish."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        for task, connection in tuple(self._tasks.items()):
            if connection.serving is None:  # its handshake is not completed
                task.cancel()
            else:
                connection.drain()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=seconds)
        left = list(self._tasks)
        for task, connection in self._tasks.items():
            connection.cancel()
            task.cancel()
            if connection.serving is not None:
                left.append(connection.serving)
        await asyncio.gather(*left, return_exceptions=True)

    def _take(self, server: web.Server, accepted: socket.socket, name: object) -> None:
        if len(self._tasks) >= self._limits.connections:
            accepted.close()
            self._events.record(
                ConnectionRefused(peer=peer_text(name), reason="too many connections")
            )
            return
        connection = Connection(server, self._events, self._limits, self._unanswered)
        task = asyncio.create_task(self._serve(accepted, peer_text(name), connection))
        self._tasks[task] = connection
        task.add_done_callback(self._tasks.pop)

    def _tls_settings(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls(),
            "ssl_handshake_timeout": self._limits.handshake,
            "ssl_shutdown_timeout": _LINGER_SECONDS,
        }

    async def _serve(self, accepted: socket.socket, peer: str, connection: Connection) -> None:
        """Serve the connection until it is closed and its request has ended.

        It counts towards the limit until then: otherwise a client could repeatedly request
        something that takes long, and disconnect.
        """
        loop = asyncio.get_running_loop()
        try:
            settings = self._tls_settings()
            await loop.connect_accepted_socket(lambda: connection, accepted, **settings)
        except ssl.SSLError as error:
            reason = (error.reason or "not TLS").replace("_", " ").lower()
            self._events.record(ConnectionFailed(peer=peer, reason=f"TLS: {reason}"))
        except (OSError, EOFError):  # closed or too slow during the handshake
            self._events.record(ConnectionFailed(peer=peer, reason="TLS: not completed"))
        else:
            await asyncio.wait([connection.closed])
            if connection.serving is not None:
                await asyncio.wait([connection.serving])
        finally:
            connection.abort()
            self._unanswered.reset(connection)
