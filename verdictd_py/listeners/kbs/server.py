"""HTTP listener: it adds limits, timeouts, answers to errors, and events to the routes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from verdictd_py.config import Address
from verdictd_py.domain.events import (
    KbsAdministrators,
    KbsSelfSigned,
    RequestAnswered,
    RequestFailed,
    RequestUnattested,
    WarningIdentity,
)
from verdictd_py.errors import (
    GuestRefused,
    NotAppraised,
    Overloaded,
    SessionMissing,
    VerdictdError,
)
from verdictd_py.listeners import sockets
from verdictd_py.listeners.census import ListenerCensus
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.kbs import answers, bodies, description
from verdictd_py.listeners.kbs.admins import AdminRoutes, is_refused_admin
from verdictd_py.listeners.kbs.certificatewatch import CertificateWatch
from verdictd_py.listeners.kbs.connections import Acceptor, Connection
from verdictd_py.listeners.kbs.guests import ATTEST, PREFIX, GuestRoutes, address
from verdictd_py.listeners.kbs.timelimit import within
from verdictd_py.listeners.kbs.tls import KbsTls, subject_names
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.proxies import Proxies
from verdictd_py.listeners.reread import Reloadable, Reread
from verdictd_py.listeners.shares import Shares
from verdictd_py.ports import Events, Tees
from verdictd_py.protocols.rcar.admins import AdminKeys
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES
from verdictd_py.stages import Meter

HEALTH: Final = "/healthz"
LIVE: Final = "/livez"
READY: Final = "/readyz"

_PROBES: Final = frozenset({HEALTH, LIVE, READY})
"""Paths that orchestrators request every few seconds."""

BODY_METHODS: Final = ("POST",)
"""Methods whose routes receive the body themselves, after they have checked the client."""

_JUDGED: Final = (GuestRefused, NotAppraised)
"""Errors that the appraiser has recorded already, if it raised them: in answer to POST /attest."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KbsListener:
    """Listener that serves guests and their operators over HTTP (see `Listener`).

    Args:
        address: address of the listener.
        tees: TEEs that the OpenAPI description names.
        limits: limits, the same as those of the attested listener.
        tls: TLS settings, None for plain HTTP.
        proxies: proxies that send the address of their client.
        admins: keys of the administrators.
        on_started: called before the first client is served; None for nothing to do.
        on_stopped: called when the listener has stopped.
        clock: returns the time for the validity of certificates.
        passed: listening socket of the service manager, used instead of the address.
        census: counters of all workers, None if there is one process.
        meter: measures connections; None if nothing is measured.

    Attributes:
        guests: the routes of guests.
        parts: returns whether each part of the broker is usable, for `/readyz`. It is set after
            construction, because the listener is one of the parts.
        app: the library's object with all routes.
        session_counts: returns the numbers of stored challenges and tokens, for the metrics; set
            after construction, None if they are not in memory.
    """

    def __init__(  # noqa: PLR0913  # its parts, all by keyword
        self,
        address: Address,
        *,
        guests: GuestRoutes,
        administration: AdminRoutes,
        admins: Reread[AdminKeys],
        events: Events,
        tees: Tees,
        limits: Limits,
        tls: KbsTls | None,
        proxies: Proxies,
        on_started: Callable[[Background], Awaitable[None]] | None = None,
        on_stopped: Callable[[], Awaitable[None]],
        clock: Callable[[], datetime],
        passed: socket.socket | None = None,
        census: ListenerCensus | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.name = "kbs_http"
        self.address = address
        self.guests = guests
        self._admins = admins
        self._on_started = on_started
        self._on_stopped = on_stopped
        self.parts: Callable[[], Mapping[str, bool]] = dict
        self.session_counts: Callable[[], tuple[int, int]] | None = None
        self._tls = tls
        self._certificate = None if tls is None else CertificateWatch(tls, clock, events)
        self._events = events
        self._limits = limits
        self._passed = passed
        self._description = description.document(tees)
        self._listening: socket.socket | None = None

        self._guest_routes = frozenset(
            (route.method, route.path.removeprefix(PREFIX)) for route in guests.routes()
        )
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app[bodies.LIMITS] = limits
        routes = (
            *guests.routes(),
            *administration.routes(),
            web.get(HEALTH, _healthy),
            web.get(LIVE, _healthy),
            web.get(READY, self._readiness),
            web.get(PREFIX + "/openapi.json", self._described),
        )
        for path in dict.fromkeys(route.path for route in routes):
            self._add(app.router, path, {r.method: r.handler for r in routes if r.path == path})
        self.app = app
        self._runner = web.AppRunner(app)
        self._acceptor = Acceptor(
            events=events,
            limits=limits,
            proxies=proxies,
            tls=None if tls is None else partial(self._context, tls),
            census=census,
            meter=meter,
        )

    def _add(self, router: web.UrlDispatcher, path: str, handlers: Mapping[str, Handler]) -> None:
        """Add the routes of a path: HEAD is answered as GET, OPTIONS with the allowed methods."""
        head = {"HEAD": handlers["GET"]} if "GET" in handlers else {}
        methods = sorted({*handlers, *head, "OPTIONS"})
        options: Handler = partial(_options, ", ".join(methods))
        resource = router.add_resource(path)
        pattern = resource.canonical.removeprefix(PREFIX)
        for method, handler in (*handlers.items(), *head.items(), ("OPTIONS", options)):
            # Not a middleware of the library, which caches middlewares, and the objects that
            # they refer to, for the lifetime of the process.
            doing = f"{method} {pattern}"
            resource.add_route(method, partial(self._answered, handler, doing))

    @property
    def endpoint(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.address}"

    @property
    def files(self) -> tuple[Reloadable, ...]:
        """Files of the operator that can be read again."""
        return (self._admins,) if self._certificate is None else (self._admins, self._certificate)

    @property
    def certificate_end(self) -> datetime | None:
        """When the certificate expires; None without TLS, or if that is unknown."""
        return None if self._tls is None else self._tls.end

    @property
    def shares(self) -> Shares:
        """The connections by source."""
        return self._acceptor.shares

    @property
    def self_signed(self) -> bytes:
        """The listener's self-signed certificate, PEM; empty without one."""
        return b"" if self._tls is None else self._tls.self_signed

    def bind(self) -> None:
        self._listening = self._passed or sockets.bind(self.address, option="--kbs-http")
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)

    async def start(self, background: Background) -> None:
        if self._listening is None:
            return
        if self._on_started is not None:
            await self._on_started(background)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101  # set up
        self._acceptor.start(self._listening, server, background)
        if names := tuple(key.name for key in self._admins.current.keys):
            self._events.record(KbsAdministrators(names=names))
        self._report_self_signed()
        if self._certificate is not None:
            self._certificate.start(background)

    def _context(self, tls: KbsTls) -> ssl.SSLContext:
        """Return the TLS settings for the next connection."""
        try:
            if tls.renew():
                self._report_self_signed()
        except OSError as error:
            problem = error.strerror or "it cannot be made"
            self._events.record(
                WarningIdentity(reason=f"the self-signed certificate is not renewed: {problem}")
            )
        return tls.context

    def _report_self_signed(self) -> None:
        if self.self_signed:
            self._events.record(
                KbsSelfSigned(
                    sha256=_fingerprint(self.self_signed), names=subject_names(self.self_signed)
                )
            )

    async def stop(self, seconds: float) -> None:
        if self._listening is not None:
            self._listening.close()
        await self._acceptor.drain(seconds)
        await self._runner.cleanup()
        await self._on_stopped()

    async def _readiness(self, request: web.Request) -> web.Response:
        """Answer with the parts of the broker, and status 503 if one cannot be used."""
        del request
        parts = self.parts()
        states = {name: "ok" if usable else "failed" for name, usable in parts.items()}
        return web.json_response(states, status=200 if all(parts.values()) else 503)

    async def _described(self, request: web.Request) -> web.Response:
        del request
        return answers.succeeded(self._description)

    async def _answered(
        self, handler: Handler, doing: str, request: web.Request
    ) -> web.StreamResponse:
        """Answer one request. A failure is answered in JSON and recorded as one event.

        Args:
            doing: method and pattern of the route; the path that the client sent is not logged.
        """
        if isinstance(request.protocol, Connection):
            request.protocol.awaited = False
        try:
            self._begin(request)
            seconds = self._limits.request + self._limits.appraisal
            answer = await within(seconds, self._handled(request, handler))
        except VerdictdError as error:
            return self._failed(request, error, doing)
        except TimeoutError:
            return self._failed(request, Overloaded("the request took too long"), doing)
        except web.HTTPException as error:
            return self._refused(request, error, doing)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # other clients must still be served
            if isinstance(error, ConnectionError) and bodies.is_disconnected(request):
                raise
            return self._bug(request, error, doing)
        if request.path not in _PROBES:
            self._events.record(
                RequestAnswered(
                    peer=address(request), command=doing, answer_bytes=answer.content_length or 0
                )
            )
        return answer

    @staticmethod
    def _begin(request: web.Request) -> None:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.begin(request.headers.getall("X-Forwarded-For", ()))
            if not request.can_read_body:
                connection.received()

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise web.HTTPUnsupportedMediaType(reason="send the body without Content-Encoding")
        if request.method not in BODY_METHODS and request.can_read_body:
            await bodies.receive(request)  # and ignore it
        answer = await handler(request)
        if request.path == ATTEST and isinstance(request.protocol, Connection):
            request.protocol.awaited = True
        return answer

    def _refused(self, request: web.Request, error: web.HTTPException, doing: str) -> web.Response:
        """Answer what the library refuses: unknown paths and methods, bodies that are too large."""
        reason = str(error.reason)
        self._events.record(
            RequestFailed(
                peer=address(request),
                doing=doing,
                code="request",
                status=str(error.status),
                reason=reason,
            )
        )
        return answers.refused(error.status, reason)

    def _failed(self, request: web.Request, error: VerdictdError, doing: str) -> web.Response:
        refusal = answers.refusal_of(error)
        if refusal is None:
            return self._bug(request, error, doing)
        # Every guest begins with such a request, so it is not a warning.
        missing = isinstance(error, SessionMissing)
        event: type[RequestFailed | RequestUnattested]
        event = RequestUnattested if missing else RequestFailed
        status, reason = self._status(request, refusal.status), str(error)
        if request.method != "POST" or not isinstance(error, _JUDGED):
            limit = Overloaded.limit_of(error)
            more = {} if limit is None else {"limit": limit}
            self._events.record(
                event(
                    peer=address(request),
                    doing=doing,
                    code=error.code,
                    status=str(status),
                    reason=reason,
                    **more,
                )
            )
        if isinstance(error, NotAppraised):  # its message is for the operator only
            reason = error.text_for_guest
        refused_admin = is_refused_admin(request, error)
        variant = answers.ADMIN_REFUSED if refused_admin else refusal.variant
        return answers.failed(status, variant, reason)

    def _bug(self, request: web.Request, error: Exception, doing: str) -> web.Response:
        """Answer an internal error with the id of an incident."""
        text = report_bug(self._events, error, doing=doing)
        return answers.failed(self._status(request, answers.INTERNAL), answers.BUG, text)

    def _status(self, request: web.Request, status: int) -> int:
        """Return the status of an answer; a guest may try again after an error of the broker's."""
        method = "GET" if request.method == "HEAD" else request.method
        is_guests = (method, _route(request)) in self._guest_routes
        return answers.TRY_AGAIN if is_guests and status == answers.INTERNAL else status


def _route(request: web.Request) -> str:
    """Return the pattern of the request's route; the path that the client sent is not logged."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical.removeprefix(PREFIX)


async def _options(allowed: str, request: web.Request) -> web.Response:
    """Answer with the methods of a path (RFC 9110, 9.3.7); no answer permits a web page to call."""
    del request
    return web.Response(status=204, headers={"Allow": allowed})


async def _healthy(request: web.Request) -> web.Response:
    del request
    return web.Response()


def _fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a certificate, as openssl writes it."""
    return x509.load_pem_x509_certificate(pem).fingerprint(SHA256()).hex(":").upper()
