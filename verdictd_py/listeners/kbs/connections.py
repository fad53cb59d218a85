"""Connections of HTTP clients: the library's, with the bounds and the answers that it lacks."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from verdictd_py.domain.events import ConnectionFailed, ConnectionRefused, RequestFailed
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.kbs import answers
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.sockets import peer_text
from verdictd_py.ports import Events
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES

BACKLOG: Final = 1024
_LINGER_SECONDS: Final = 1.0
"""Of a client that was refused, to read why."""

_MAX_HEADER_BYTES: Final = 72 * 1024
"""Of one header: a token is up to 32 KiB long, and proxies add to it."""

_MAX_HEADERS: Final = 64
"""Guests send six; a proxy adds some."""

_MAX_WAITING_BYTES: Final = 2 * MAX_BODY_BYTES
"""That came and were not answered yet: a body in chunks, or requests behind it."""

MAX_ALL_WAITING_BYTES: Final = 256 * 1024 * 1024
"""The same of all connections together: 4,096 of them would hold as many bodies."""

_PAUSE_SECONDS: Final = 1.0
"""After a connection that could not be accepted: there are no descriptors left, say."""

_UNUSABLE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Of accept(2): they say that the socket itself is of no use any more, so no retry helps."""

_SILENT: Final = logging.getLogger("verdictd_py.http")
"""Of the library: it would print what clients sent."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class _Waiting:
    """Bytes that came and were not answered yet, of every connection.

    Where they are too many, the connection that holds most of them is let go: guests send
    some KiB, and notice nothing of strangers who send as much as they can.
    """

    def __init__(self) -> None:
        self._held: dict[Connection, int] = {}
        self._total = 0

    def came(self, connection: Connection, size: int) -> None:
        held = self._held[connection] = self._held.get(connection, 0) + size
        self._total += size
        if held > _MAX_WAITING_BYTES:
            connection.abort()
        elif self._total > MAX_ALL_WAITING_BYTES:
            greediest = max(self._held, key=self._held.__getitem__)
            greediest.abort()
            self.done(greediest)

    def done(self, connection: Connection) -> None:
        self._total -= self._held.pop(connection, 0)


class Connection(web.RequestHandler):
    """One client.

    The library bounds how long it waits for a request. Here the rest: bytes that wait, a
    client that does not read its answer, and one that does not close. Whatever the library
    answers by itself is JSON too.

    Attributes:
        answering: whether an answer is due to a request that has begun; routes say so.
        aborted: whether it was ended by us, whatever the client wants.
    """

    __slots__ = (
        "_draining",
        "_ending",
        "_events",
        "_limits",
        "_tcp",
        "_waiting",
        "aborted",
        "answering",
        "closed",
        "serving",
    )

    def __init__(
        self, server: web.Server, events: Events, limits: Limits, waiting: _Waiting
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
            auto_decompress=False,  # a bomb would be unpacked before its size is seen
        )
        self._events = events
        self._limits = limits
        self._waiting = waiting
        self._draining = False
        self.aborted = False
        self.answering = False
        self._tcp: asyncio.Transport | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.serving: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        # A drained write is then in the kernel's hands: who reads nothing holds one answer.
        self._tcp.set_write_buffer_limits(high=1, low=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._ending is not None:
            self._ending.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if data and not self.aborted:  # the library calls this too, with nothing
            self._waiting.came(self, len(data))
        if not self.aborted:
            super().data_received(data)

    async def start(self) -> None:
        """Serves requests until the last; then the connection ends, whatever the client does."""
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
        """Sends an answer, in time."""
        self._waiting.done(self)
        if resp.status >= 400 and resp.content_type != answers.JSON:
            # No route of ours: what the client asked for is not logged, the method is a known one.
            self._record(f"{request.method} unknown", resp.status, str(resp.reason))
            resp = answers.refused(resp.status, str(resp.reason), resp.headers.get("Allow"))
        resp.headers["Server"] = "verdictd-py"
        if self._draining:
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
        """The answer to what is no request. The library's own would quote it."""
        del request, message
        told = "this is no request that can be read"
        if status == 400 and isinstance(exc, LineTooLong):
            status, told = 431, "the address or a header is too long"
        self._record("read a request", status, told)
        answer = answers.refused(status, told)
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
        """Ends it behind the answer that is due, or now. (The library drops the rest of a body.)"""
        self._draining = True
        if not self.answering:
            self.force_close()

    def abort(self) -> None:
        """Ends it now; what was not sent is lost."""
        self.aborted = True
        if self._tcp is not None and not self.closed.done():
            self._tcp.abort()

    def cancel(self) -> None:
        """Ends it now, and what is done for it."""
        if self.serving is not None:
            self.serving.cancel()
        self.abort()


class Acceptor:
    """Accepts connections, no more than so many at once, and sees each to its end.

    Args:
        tls: settings of TLS for the next connection, None for plain HTTP.
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
        self._waiting = _Waiting()

    def start(self, listening: socket.socket, server: web.Server, background: Background) -> None:
        """Accept connections on a socket that is bound already."""
        self._listening = listening
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._accepting = background(
            "kbs_http.accept", partial(self._accept, listening, server), essential=True
        )

    async def drain(self, seconds: float) -> None:
        """Stops accepting, lets requests in flight finish, closes what is idle."""
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

    async def _accept(self, listening: socket.socket, server: web.Server) -> None:
        """Accept connections for ever.

        Raises:
            OSError: the socket can no longer be used.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, name = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _UNUSABLE:
                    raise
                if error.errno != errno.ECONNABORTED:  # the client's business
                    reason = f"cannot accept: {error.strerror}"
                    self._events.record(ConnectionRefused(reason=reason))
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            try:
                self._take(accepted, name, server)
            except Exception as error:  # noqa: BLE001  # the edge: one client's bug stops no other
                accepted.close()
                report_bug(self._events, error, doing="accept a connection")
            await asyncio.sleep(0)  # a flood of connections must not keep the others waiting

    def _take(self, accepted: socket.socket, name: object, server: web.Server) -> None:
        if len(self._tasks) >= self._limits.connections:
            accepted.close()
            self._events.record(
                ConnectionRefused(peer=peer_text(name), reason="too many connections")
            )
            return
        connection = Connection(server, self._events, self._limits, self._waiting)
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
        """Until the connection is closed and nothing is done for it: it counts as long.

        A client that asks for what takes long and leaves must not be able to ask again.
        """
        loop = asyncio.get_running_loop()
        try:
            settings = self._tls_settings()
            await loop.connect_accepted_socket(lambda: connection, accepted, **settings)
        except ssl.SSLError as error:
            reason = (error.reason or "no TLS").replace("_", " ").lower()
            self._events.record(ConnectionFailed(peer=peer, reason=f"TLS: {reason}"))
        except (OSError, EOFError):  # closed or too slow in the middle of a handshake
            self._events.record(ConnectionFailed(peer=peer, reason="TLS: not completed"))
        else:
            await asyncio.wait([connection.closed])
            if connection.serving is not None:
                await asyncio.wait([connection.serving])
        finally:
            connection.abort()
            self._waiting.done(connection)
