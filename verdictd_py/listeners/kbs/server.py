"""HTTP around the routes: limits, time, errors, log; one listener on one socket."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import web

from verdictd_py.domain.events import RequestAnswered, RequestFailed, RequestUnattested
from verdictd_py.errors import GuestRefused, NotJudged, Overloaded, SessionMissing, VerdictdError
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.kbs import answers, description
from verdictd_py.listeners.kbs.admins import AdminRoutes, is_refused_admin
from verdictd_py.listeners.kbs.connections import Acceptor, Connection
from verdictd_py.listeners.kbs.guests import PREFIX, GuestRoutes, address
from verdictd_py.listeners.limits import Limits
from verdictd_py.ports import Events, Tees
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES

HEALTH: Final = "/healthz"

_JUDGED: Final = (GuestRefused, NotJudged)
"""What the appraiser has told the log already."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KbsListener:
    """Serves guests and their operators over HTTP.

    Args:
        tees: those that its description names.
        limits: those of the attested listener.
        tls: settings of TLS for the next connection, None for plain HTTP.
        drain_seconds: for requests in flight when it stops.
    """

    def __init__(
        self,
        *,
        guests: GuestRoutes,
        admins: AdminRoutes,
        events: Events,
        tees: Tees,
        limits: Limits,
        tls: Callable[[], ssl.SSLContext] | None,
        drain_seconds: float,
    ) -> None:
        self._events = events
        self._limits = limits
        self._drain_seconds = drain_seconds
        self._description = description.document(tees)

        app = web.Application(client_max_size=MAX_BODY_BYTES)
        for route in (
            *guests.routes(),
            *admins.routes(),
            web.get(HEALTH, _healthy, allow_head=False),
            web.get(PREFIX + "/openapi.json", self._described, allow_head=False),
        ):
            # Not as a middleware of the library: it keeps those for ever, and what they hold.
            handler = partial(self._answered, route.handler)
            app.router.add_route(route.method, route.path, handler)
        self.app = app
        self._runner = web.AppRunner(app)
        self._acceptor = Acceptor(events=events, limits=limits, tls=tls)

    async def start(self, listening: socket.socket) -> None:
        """Accepts connections on a socket that is bound already."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101  # set up
        self._acceptor.start(listening, server)

    async def drain(self) -> None:
        """Stops accepting, lets requests in flight finish, closes what is idle."""
        await self._acceptor.drain(self._drain_seconds)
        await self._runner.cleanup()

    async def _described(self, request: web.Request) -> web.Response:
        del request
        return answers.succeeded(self._description)

    async def _answered(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        """One request: every failure is an answer in JSON, and one line in the log."""
        if isinstance(request.protocol, Connection):
            request.protocol.answering = True
        doing = f"{request.method} {_route(request)}"
        try:
            async with asyncio.timeout(self._limits.request + self._limits.appraisal):
                answer = await self._handled(request, handler)
        except VerdictdError as error:
            return self._failed(request, error, doing)
        except TimeoutError:
            return self._failed(request, Overloaded("the request took too long"), doing)
        except web.HTTPException as error:
            return self._refused(request, error, doing)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the edge: one client's bug stops no other
            if isinstance(error, ConnectionError) and _gone(request):
                raise
            text = report_bug(self._events, error, doing=doing)
            return answers.failed(500, answers.BUG, text)
        if request.path != HEALTH:  # asked every few seconds, by what starts and stops daemons
            self._events.record(
                RequestAnswered(
                    peer=address(request), command=doing, answer_bytes=answer.content_length or 0
                )
            )
        return answer

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise web.HTTPUnsupportedMediaType(reason="send the body without Content-Encoding")
        if request.can_read_body:
            try:
                async with asyncio.timeout(self._limits.request):
                    await request.read()  # the routes find it kept
            except TimeoutError:
                raise web.HTTPRequestTimeout(reason="the body came too slowly") from None
            except web.RequestPayloadError:
                raise web.HTTPBadRequest(reason="the body cannot be read") from None
            except RuntimeError:  # so says the library of a client that left before
                if _gone(request):
                    raise ConnectionResetError from None
                raise
        return await handler(request)

    def _refused(self, request: web.Request, error: web.HTTPException, doing: str) -> web.Response:
        """What the library refuses: unknown paths and methods, bodies that are too large."""
        reason = str(error.reason)
        self._record(request, doing, code="request", status=error.status, reason=reason)
        return answers.refused(error.status, reason)

    def _failed(self, request: web.Request, error: VerdictdError, doing: str) -> web.Response:
        refusal = answers.refusal_of(error)
        if refusal is None:
            text = report_bug(self._events, error, doing=doing)
            return answers.failed(500, answers.BUG, text)
        # Guests begin with such a request, so it is no warning.
        missing = isinstance(error, SessionMissing)
        event: type[RequestFailed | RequestUnattested]
        event = RequestUnattested if missing else RequestFailed
        status, reason = refusal.status, str(error)
        if not isinstance(error, _JUDGED):
            self._record(request, doing, event=event, code=error.code, status=status, reason=reason)
        if isinstance(error, NotJudged):  # who was asked for collateral is nobody's business
            reason = error.told
        refused_admin = is_refused_admin(request, error)
        variant = answers.ADMIN_REFUSED if refused_admin else refusal.variant
        return answers.failed(status, variant, reason)

    def _record(
        self,
        request: web.Request,
        doing: str,
        *,
        code: str,
        status: int,
        reason: str,
        event: type[RequestFailed | RequestUnattested] = RequestFailed,
    ) -> None:
        self._events.record(
            event(
                peer=address(request),
                doing=doing,
                code=code,
                status=str(status),
                reason=reason,
            )
        )


def _gone(request: web.Request) -> bool:
    """Whether nobody is there any more to answer."""
    return request.transport is None or request.transport.is_closing()


def _route(request: web.Request) -> str:
    """The path as it is written in the routes: what a client puts into it is not logged here."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical.removeprefix(PREFIX)


async def _healthy(request: web.Request) -> web.Response:
    del request
    return web.Response()
