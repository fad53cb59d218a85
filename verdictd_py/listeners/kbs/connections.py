"""Connections of HTTP clients, with limits and answers that the library lacks."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from verdictd_py.domain import correlation
from verdictd_py.domain.events import (
    ConnectionFailed,
    ConnectionProbed,
    ConnectionRefused,
    RequestFailed,
)
from verdictd_py.errors import Overloaded
from verdictd_py.formats.proxyheader import ProxyHeaderInvalid
from verdictd_py.listeners import failures
from verdictd_py.listeners.accepting import OPENING_SECONDS, accept
from verdictd_py.listeners.buffers import READ_BYTES
from verdictd_py.listeners.census import ListenerCensus
from verdictd_py.listeners.kbs import answers
from verdictd_py.listeners.kbs.timelimit import within
from verdictd_py.listeners.kbs.transports import LINGER_SECONDS, GatedTransport, Pause, connect
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.proxies import Origin, Proxies, peek
from verdictd_py.listeners.shares import Share, Shares
from verdictd_py.ports import Events
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES
from verdictd_py.stages import Meter, Stage, begin, ended, measured

_MAX_HEADER_BYTES: Final = 72 * 1024
"""Maximum size of one header: a token has up to 32 KiB, and proxies add to it."""

_MAX_HEADERS: Final = 64
"""Maximum number of headers. Guests send six; a proxy adds some."""

_TOO_MANY: Final = "Too many headers"
"""Beginning of the library's message about too many headers, which has no type of its own."""

_MAX_WAITING_BYTES: Final = 2 * MAX_BODY_BYTES
"""Maximum number of received bytes of a connection that are not answered yet: a body in chunks,
or requests after it."""

_OWN_TYPES: Final = (answers.JSON, "text/html")
"""Types of the answers that the routes make; the library's own are plain text."""

_TLS_HANDSHAKE: Final = b"\x16\x03"
"""First bytes of a ClientHello (RFC 8446, 5.1), which begin no request of HTTP."""

HTTPS_TO_HTTP: Final = (
    "the client sent HTTPS to the plain-HTTP port; have it use http://, or configure "
    "--kbs-tls-cert and --kbs-tls-key"
)
HTTP_TO_HTTPS: Final = "the client sent plain HTTP to the HTTPS port; have it use https://"

CONNECTION_ID: Final = "X-Connection-Id"
"""Header of each answer: the id of the connection in log and audit trail, with which the ids of
appraisals and incidents begin. Clients ignore it."""

_SILENT: Final = logging.getLogger("verdictd_py.http")
"""Logger for the library that discards everything: the library would log what clients sent."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


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
        client: where the current request comes from.
        closed: whether the connection is closed; a request may still be in progress.
        ended: result set when it is closed and no request is in progress.
        share: the connection's share of its listener.
    """

    __slots__ = (
        "_ahead",
        "_complete",
        "_draining",
        "_ending",
        "_events",
        "_fresh",
        "_gate",
        "_is_serving",
        "_limits",
        "_peer",
        "_proxies",
        "_sent_all",
        "_sent_https",
        "_tcp",
        "_tls",
        "aborted",
        "answering",
        "awaited",
        "client",
        "closed",
        "ended",
        "serving",
        "share",
    )

    def __init__(self, server: web.Server, parts: _Parts, peer: Origin, share: Share) -> None:
        limits = parts.limits
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as the library documents
            logger=_SILENT,
            keepalive_timeout=limits.request,  # also for the headers of the first request
            lingering_time=LINGER_SECONDS,
            read_bufsize=READ_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
            auto_decompress=False,  # a decompressed body could exceed all limits
        )
        self._events = parts.events
        self._proxies = parts.proxies
        self._limits = limits
        self._peer = self.client = peer
        self.share = share
        self._gate: GatedTransport | None = None
        self._tls = False
        self._complete = False  # the current request, without TLS
        self._ahead = 0  # bytes that followed it
        self._sent_all = False  # the client will send no more
        self._sent_https: bool | None = None  # unknown before the first byte
        self._draining = False
        self._fresh = True  # no request has begun so far
        self.aborted = False
        self.answering = False
        self.awaited = False
        self._tcp: asyncio.Transport | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.serving: asyncio.Task[None] | None = None
        self._is_serving = False
        self.closed = False
        self.ended: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        # So a drained write is in the kernel's buffer, and a client that does not read
        # occupies memory for one answer only.
        self._tcp.set_write_buffer_limits(high=1, low=0)
        self._gate = GatedTransport(self._tcp)
        self._tls = transport.get_extra_info("sslcontext") is not None
        super().connection_made(cast("asyncio.Transport", self._gate))

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.share.held.forget(self._read_on)
        if self._ending is not None:
            self._ending.cancel()
        self.closed = True
        self._end()

    def _end(self) -> None:
        if self.closed and not self._is_serving and not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Count the bytes; if the connection may hold no more, do not read it for now."""
        held = self.share.held
        if data and not self.aborted:  # the library also calls this without data
            if self._sent_https is None:
                self._sent_https = data.startswith(_TLS_HANDSHAKE)
            held.add(len(data))
            if self._complete and self._gate is not None:
                self._ahead += len(data)
                self._gate.pause(Pause.ANSWERING)
            if held.size > _MAX_WAITING_BYTES:
                self.abort()
            elif self._gate is not None and not held.fits():
                self._gate.pause(Pause.MEMORY)
                held.wait(self._read_on)
        if not self.aborted:
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio documents
        """Keep the connection for the answer to a complete request.

        With TLS, a complete request pauses the connection, so that this is called after its
        answer.
        """
        self._sent_all = self._complete
        return self._complete

    def _read_on(self) -> None:
        if self._gate is not None and not self.closed:
            self._gate.resume(Pause.MEMORY)

    def begin(self, forwarded_for: Sequence[str]) -> None:
        """Begin to answer a request, whose client has proven nothing yet.

        Args:
            forwarded_for: values of its `X-Forwarded-For` headers.

        Raises:
            ForwardedForInvalid: a named proxy sent a value that cannot be read.
            Overloaded: the client has too many connections; this one is closed.
        """
        self.answering, self._fresh = True, False
        self.client = self._peer
        self.client = self._proxies.forwarded(self._peer, forwarded_for)
        self._count_under(self.client)

    def received(self) -> None:
        """Read no further request until the current one, which is complete, has its answer.

        Without TLS, each pause takes system calls. So the connection is paused when the first
        bytes of a further request arrive, which are at most one read.
        """
        if self._gate is not None and self.answering:
            if self._tls:
                self._gate.pause(Pause.ANSWERING)
            else:
                self._complete = True

    def _count_under(self, origin: Origin) -> None:
        try:
            self.share.move(origin.source)
        except Overloaded:
            self._draining = True
            raise

    def _answered(self, status: int) -> None:
        """End a request: only a client that succeeded keeps its proof for the next one."""
        self.answering = self._complete = False
        self.share.held.set(self._ahead)
        self._ahead = 0
        if self._sent_all and not self._messages:
            self.close()
        if status >= 400 or self.client is not self._peer:
            with suppress(Overloaded):  # the connection is closed
                self._count_under(self._peer)
        if self._gate is not None and not self.closed:
            self._gate.resume(Pause.ANSWERING)

    async def start(self) -> None:
        """Serve requests until the last one; then close the connection within a time limit."""
        self.serving = asyncio.current_task()
        self._is_serving = True
        try:
            await super().start()
        finally:
            self._is_serving = False
            self._end()
            if not self.closed:
                loop = asyncio.get_running_loop()
                self._ending = loop.call_later(self._limits.request, self.abort)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer within the time limit."""
        if resp.status >= 400 and resp.content_type not in _OWN_TYPES:
            # The library's own answer. The requested path is not logged: the client chose it.
            self._record(f"{request.method} unknown", resp.status, str(resp.reason))
            resp = answers.refused(resp.status, str(resp.reason), resp.headers.get("Allow"))
        resp.headers["Server"] = "verdictd-py"
        resp.headers[CONNECTION_ID] = correlation.current().id
        if self._draining and not self.awaited:
            resp.force_close()
        try:
            sending = super().finish_response(request, resp, start_time)
            with measured(Stage.ANSWER):
                return await within(self._limits.request, sending)
        except TimeoutError:
            self.abort()
            return resp, True
        finally:
            ended()
            self._answered(resp.status)

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
        elif status == 400 and isinstance(exc, BadHttpMessage) and _TOO_MANY in exc.message:
            status, reason = 431, f"there are more than {_MAX_HEADERS} headers"
        elif self._sent_https:
            reason = HTTPS_TO_HTTP
        self._record("read a request", status, reason)
        answer = answers.refused(status, reason)
        answer.force_close()
        return answer

    def _record(self, doing: str, status: int, reason: str) -> None:
        self._events.record(
            RequestFailed(
                peer=self.client.text,
                doing=doing,
                code="request",
                status=str(status),
                reason=reason,
            )
        )

    def drain(self) -> None:
        """Close the connection after the answer in progress, or now if none is due.

        A client that has just connected has `OPENING_SECONDS` for its request. The library ignores
        the rest of a body.
        """
        self._draining = True
        if self._fresh:
            asyncio.get_running_loop().call_later(OPENING_SECONDS, self._close_unless_due)
        else:
            self._close_unless_due()

    def _close_unless_due(self) -> None:
        if not self.answering and not self.awaited:
            self.force_close()

    def abort(self) -> None:
        """Close the connection now; unsent data is lost."""
        self.aborted = True
        if self._tcp is not None and not self.closed:
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
        proxies: proxies that send the address of their client.
        census: counters of all workers, None if there is one process.
        meter: measures connections; None if nothing is measured.
        name: name of the background work that accepts.

    Attributes:
        meter: as above; it may be set before the start.
        shares: the connections by source.
    """

    def __init__(
        self,
        *,
        events: Events,
        limits: Limits,
        proxies: Proxies,
        tls: Callable[[], ssl.SSLContext] | None,
        census: ListenerCensus | None = None,
        name: str = "kbs_http.accept",
        meter: Meter | None = None,
    ) -> None:
        self._name = name
        self.meter = meter
        self._parts = _Parts(events, limits, proxies)
        self._tls = tls
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], Connection | None] = {}
        self._draining = False
        self.shares = Shares(lambda: limits.shares, census=census)

    def start(self, listening: socket.socket, server: web.Server, background: Background) -> None:
        """Accept connections on a bound socket."""
        self._listening = listening

        def take(accepted: socket.socket, name: object) -> None:
            self._take(server, accepted, name)

        self._accepting = background(
            self._name, partial(accept, listening, take, self._parts.events), essential=True
        )

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close idle connections, and let requests in flight finish."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        self._draining = True
        loop = asyncio.get_running_loop()
        for task, connection in tuple(self._tasks.items()):
            if connection is None:  # in its handshake
                loop.call_later(OPENING_SECONDS, self._cancel_opening, task)
            else:
                connection.drain()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=seconds)
        left = list(self._tasks)
        for task, connection in self._tasks.items():
            task.cancel()
            if connection is not None:
                connection.cancel()
                if connection.serving is not None:
                    left.append(connection.serving)
        await asyncio.gather(*left, return_exceptions=True)

    def _cancel_opening(self, task: asyncio.Task[None]) -> None:
        if self._tasks.get(task) is None:
            task.cancel()

    def _take(self, server: web.Server, accepted: socket.socket, name: object) -> None:
        peer = self._parts.proxies.peer(name)
        begin(self._name.removesuffix(".accept"), self.meter)

        def close() -> None:
            task.cancel()

        try:
            share = self.shares.enter(peer.source, close)
        except Overloaded as error:
            accepted.close()
            self._parts.events.record(
                ConnectionRefused(peer=peer.text, reason=str(error), limit=error.limit)
            )
            return
        task = asyncio.create_task(self._serve(server, accepted, peer, share))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _serve(
        self, server: web.Server, accepted: socket.socket, peer: Origin, share: Share
    ) -> None:
        """Serve the connection until it is closed and its request has ended.

        It counts towards the limit until then: otherwise a client could repeatedly request
        something that takes long, and disconnect.
        """
        opening = _Opening(accepted, peer, share)
        try:
            connection = await self._open(server, opening)
            if connection is not None:
                await connection.ended
        finally:
            opening.close()
            if share.evicted:
                self._parts.events.record(
                    ConnectionRefused(peer=opening.client, reason=share.evicted, limit=share.limit)
                )
            ended()
            share.leave()

    async def _open(self, server: web.Server, opening: _Opening) -> Connection | None:
        """Open the connection once the peer has sent something; return None if that failed.

        No state of TLS or HTTP exists before.
        """
        limits, events = self._parts.limits, self._parts.events
        seconds = limits.request if self._tls is None else limits.handshake
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # always true inside a coroutine

        def create() -> Connection:
            connection = Connection(server, self._parts, opening.origin, opening.share)
            opening.connection = self._tasks[task] = connection
            if self._draining:
                connection.drain()
            return connection

        try:
            async with asyncio.timeout(seconds):
                opening.origin = await self._parts.proxies.identify(
                    opening.accepted, opening.origin
                )
                opening.share.move(opening.origin.source)
                tls = None if self._tls is None else self._tls()
                if tls is not None and not await peek(opening.accepted, 1):
                    raise EOFError
                opening.silent = False
                with nullcontext() if tls is None else measured(Stage.HANDSHAKE):
                    await connect(opening.accepted, create, tls, seconds=seconds)
        except (ProxyHeaderInvalid, Overloaded) as error:
            events.record(ConnectionFailed(peer=opening.origin.text, reason=str(error)))
        except ssl.SSLError as error:
            reason = (error.reason or "not TLS").replace("_", " ").lower()
            explained = f"TLS: {failures.explained(reason, failures.CLOCK_HINTS)}"
            reason = HTTP_TO_HTTPS if reason == "http request" else explained
            events.record(ConnectionFailed(peer=opening.origin.text, reason=reason))
        except (OSError, EOFError) as error:  # closed or too slow during the handshake
            if self._tls is not None:
                events.record(_uncompleted(opening, error))
        return opening.connection


def _uncompleted(opening: _Opening, error: Exception) -> ConnectionFailed | ConnectionProbed:
    """Return the event for a connection that ended before TLS was established."""
    if opening.silent and not isinstance(error, TimeoutError):
        return ConnectionProbed(peer=opening.origin.text)
    return ConnectionFailed(peer=opening.origin.text, reason="TLS: not completed")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What all connections of a listener share."""

    events: Events
    limits: Limits
    proxies: Proxies


@dataclass(slots=True)
class _Opening:
    """A connection with what is known about it so far, whenever it is closed."""

    accepted: socket.socket
    origin: Origin
    share: Share
    connection: Connection | None = None
    silent: bool = True

    @property
    def client(self) -> str:
        return self.origin.text if self.connection is None else self.connection.client.text

    def close(self) -> None:
        if self.connection is None:
            self.accepted.close()
        elif self.share.evicted:
            self.connection.cancel()
        else:
            self.connection.abort()
