"""HTTP around the routes: limits, time, errors, log; one listener on one socket."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, cast

from aiohttp import web

from verdictd_py.domain.ports import Events
from verdictd_py.errors import (
    CollateralUnavailable,
    GuestRefused,
    Overloaded,
    SessionMissing,
    VerdictdError,
)
from verdictd_py.listeners.attested import Limits
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.kbs import answers, description
from verdictd_py.listeners.kbs.admins import AdminRoutes, is_refused_admin
from verdictd_py.listeners.kbs.guests import PREFIX, GuestRoutes, address
from verdictd_py.rcar.messages import MAX_BODY_BYTES

_BACKLOG: Final = 1024
_MAX_HEADER_BYTES: Final = 128 * 1024
"""Of one header: a token is up to 64 KiB long."""

_SILENT: Final = logging.getLogger("verdictd_py.http")
"""Of the library: it would print what clients sent."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KbsListener:
    """Serves guests and their operators over HTTP.

    Args:
        limits: those of the attested listener.
        tls: settings of TLS, None for plain HTTP.
        drain_seconds: for requests in flight when it stops.
    """

    def __init__(
        self,
        *,
        guests: GuestRoutes,
        admins: AdminRoutes,
        events: Events,
        limits: Limits,
        tls: ssl.SSLContext | None,
        drain_seconds: float,
    ) -> None:
        self._events = events
        self._limits = limits
        self._tls = tls
        self._server: asyncio.Server | None = None

        @web.middleware
        async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answered(request, handler)

        app = web.Application(middlewares=[answered], client_max_size=MAX_BODY_BYTES)
        app.add_routes([*guests.routes(), *admins.routes()])
        app.add_routes(
            [
                web.get("/healthz", _healthy, allow_head=False),
                web.get(PREFIX + "/openapi.json", _described, allow_head=False),
            ]
        )
        self.app = app
        self._runner = web.AppRunner(
            app,
            shutdown_timeout=drain_seconds,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=limits.request,  # also for the headers of the first request
            lingering_time=1,
            max_field_size=_MAX_HEADER_BYTES,
            auto_decompress=False,  # a bomb would be unpacked before its size is seen
        )

    async def start(self, listening: socket.socket) -> None:
        """Accepts connections on a socket that is bound already."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol,
            sock=listening,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self._limits.handshake,
        )

    def _protocol(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._limits.connections:
            self._events.record("connection.refused", reason="too many connections")
            return _Refused()
        return cast("asyncio.Protocol", server())

    async def drain(self) -> None:
        """Stops accepting, lets requests in flight finish, closes what is idle."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        await self._runner.cleanup()

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One request: every failure is an answer in JSON, and one line in the log."""
        doing = f"{request.method} {_route(request)}"
        try:
            async with asyncio.timeout(self._limits.request + self._limits.appraisal):
                answer = await self._handled(request, handler)
        except VerdictdError as error:
            return self._failed(request, error, doing)
        except TimeoutError:
            return self._failed(request, Overloaded("the request took too long"), doing)
        except web.HTTPException as error:
            variant = answers.TOO_LARGE if error.status == 413 else answers.INVALID_PATH
            return answers.failed(error.status, variant, f"{error.status} {error.reason}")
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001  # the edge: one client's bug stops no other
            text = report_bug(self._events, error, doing=doing)
            return answers.failed(500, answers.BUG, text)
        self._events.record(
            "request.answered",
            peer=address(request),
            command=doing,
            answer_bytes=answer.content_length or 0,
        )
        return answer

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.can_read_body:
            async with asyncio.timeout(self._limits.request):
                await request.read()  # the routes find it kept
        return await handler(request)

    def _failed(self, request: web.Request, error: VerdictdError, doing: str) -> web.Response:
        refusal = answers.refusal_of(error)
        if refusal is None:
            text = report_bug(self._events, error, doing=doing)
            return answers.failed(500, answers.BUG, text)
        if not isinstance(error, GuestRefused):  # the appraiser has said so, and why
            # Guests begin with a request that is answered so: nobody needs to look at it.
            missing = isinstance(error, SessionMissing)
            self._events.record(
                "request.unattested" if missing else "request.failed",
                peer=address(request),
                doing=doing,
                code=error.code,
                status=str(refusal.status),
                reason=str(error),
            )
        refused_admin = is_refused_admin(request, error)
        variant = answers.ADMIN_REFUSED if refused_admin else refusal.variant
        detail = error.told if isinstance(error, CollateralUnavailable) else str(error)
        return answers.failed(refusal.status, variant, detail)


class _Refused(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


def _route(request: web.Request) -> str:
    """The path as it is written in the routes: what a client puts into it is not logged here."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical.removeprefix(PREFIX)


async def _healthy(request: web.Request) -> web.Response:
    del request
    return web.Response()


async def _described(request: web.Request) -> web.Response:
    del request
    return answers.succeeded(description.document())
