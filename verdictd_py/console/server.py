"""Listener of the console: HTTP with its own limits, sign-in, and checks before every page.

1. The host is the console's. 2. The person is known by a session or a client certificate; without
one, only the sign-in is served. 3. A change comes from a form of the console, with its token.
4. The page calls the management API in the person's name, which checks every right.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

from verdictd_py.config import Address
from verdictd_py.console import language as languages
from verdictd_py.console.identity import Identity
from verdictd_py.console.language import Language
from verdictd_py.console.operations import OperationFailed, Operations
from verdictd_py.console.rendering import stylesheet
from verdictd_py.console.requests import (
    SECURITY_HEADERS,
    ForeignRequest,
    Visit,
    WrongHost,
    require_host,
    require_own_origin,
)
from verdictd_py.console.sessions import (
    LINK_SECONDS,
    LinkInvalid,
    Session,
    Sessions,
    TokenInvalid,
)
from verdictd_py.console.site import Answer, Page, Site, http_status
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.events import ConsoleRefused, ConsoleSignedIn
from verdictd_py.errors import Overloaded, StorageError
from verdictd_py.listeners import sockets
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.kbs.connections import Acceptor, Connection
from verdictd_py.listeners.kbs.timelimit import within
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.proxies import Proxies
from verdictd_py.listeners.shares import Shares
from verdictd_py.ports import Events
from verdictd_py.stages import Meter

MAX_FORM_BYTES: Final = 1024 * 1024
"""Maximum size of a form; a policy has at most 256 KiB, up to three times as much encoded."""

MAX_FIELDS: Final = 100

MAX_CONNECTIONS: Final = 64

REQUESTS_AT_ONCE: Final = 8
"""Maximum number of pages that are made at once; others wait."""

_WAIT_SECONDS: Final = 10.0
"""Time limit of that wait."""

_PAGE_SECONDS: Final = 30.0

_SESSION_COOKIE: Final = "verdictd_session"
_LANGUAGE_COOKIE: Final = "verdictd_language"
_YEAR_SECONDS: Final = 365 * 24 * 3600

_NOBODY: Final = Caller("not signed in", frozenset())

_TITLES: Final = {
    400: "The request is wrong",
    403: "Not allowed",
    404: "Not found",
    405: "Not allowed here",
    409: "Nothing was changed",
    413: "The form is too large",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available now",
}


class ConsoleListener:
    """HTTP listener of the console (see `Listener`).

    Args:
        address: address of the listener.
        site: the pages.
        operations: the management API.
        sessions: links and sessions.
        identity: how people are identified, and TLS.
        events: records sign-ins and refused requests.
    """

    def __init__(
        self,
        address: Address,
        *,
        site: Site,
        operations: Operations,
        sessions: Sessions,
        identity: Identity,
        events: Events,
    ) -> None:
        self.name = "console"
        self.address = address
        self._site = site
        self._operations = operations
        self._sessions = sessions
        self._identity = identity
        self._events = events
        self._listening: socket.socket | None = None
        self._turns = asyncio.Semaphore(REQUESTS_AT_ONCE)
        app = web.Application(client_max_size=MAX_FORM_BYTES)
        app.router.add_get("/console.css", partial(self._answered, self._style))
        app.router.add_get("/login", partial(self._answered, self._login))
        app.router.add_post("/login", partial(self._answered, self._sign_in))
        app.router.add_post("/logout", partial(self._answered, self._sign_out))
        for path, page in site.pages.items():
            app.router.add_get(path, partial(self._answered, partial(self._page, page)))
        for path in site.changes:
            app.router.add_post(path, partial(self._answered, partial(self._change, path)))
        app.router.add_route("*", "/{path:.*}", partial(self._answered, self._missing))
        self._runner = web.AppRunner(app)
        self._limits = Limits(connections=MAX_CONNECTIONS, handshake=10, request=30, idle=60)
        self._acceptor = Acceptor(
            events=events,
            limits=self._limits,
            proxies=Proxies(),
            tls=identity.context,
            name="console.accept",
        )

    def measure(self, meter: Meter | None) -> None:
        """Have connections measured; call it before the start."""
        self._acceptor.meter = meter

    @property
    def shares(self) -> Shares:
        """The connections by source."""
        return self._acceptor.shares

    @property
    def endpoint(self) -> str:
        return f"{'http' if self._identity.context is None else 'https'}://{self.address}"

    def bind(self) -> None:
        self._listening = sockets.bind(self.address, option="--console")
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)

    async def start(self, background: Background) -> None:
        if self._listening is None:
            return
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101  # set up
        self._acceptor.start(self._listening, server, background)

    async def stop(self, seconds: float) -> None:
        if self._listening is not None:
            self._listening.close()
        await self._acceptor.drain(seconds)
        await self._runner.cleanup()

    async def _answered(
        self, handler: Callable[[_Received], Awaitable[Answer]], request: web.Request
    ) -> web.StreamResponse:
        """Answer one request; every failure is a page, and an internal error an event."""
        if isinstance(request.protocol, Connection):
            request.protocol.begin(())
            if not request.can_read_body:
                request.protocol.received()
        received = _Received(request, self._language(request))
        try:
            require_host(request.headers.get("Host", ""), self._identity.is_own_host)
            answer = await within(_PAGE_SECONDS, self._in_turn(handler, received))
        except web.HTTPException as error:
            answer = self._failed(received, error.status, str(error.reason))
        except TimeoutError:
            answer = self._failed(received, 503, "the page took too long; try again")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # translated; others must still be served
            answer = self._explained(received, error)
        return self._response(received, answer)

    def _explained(self, received: _Received, error: Exception) -> Answer:
        if isinstance(error, OperationFailed):
            return self._failed(received, http_status(error), error.text)
        if isinstance(error, WrongHost | ForeignRequest | TokenInvalid):
            self._record(received, str(error))
            status = 400 if isinstance(error, TokenInvalid) else 403
            return self._failed(received, status, str(error))
        if isinstance(error, Overloaded):
            return self._failed(received, 429, str(error))
        if isinstance(error, StorageError):
            return self._failed(received, 503, str(error))
        text = report_bug(self._events, error, doing=f"console {received.request.method}")
        return self._failed(received, 500, text)

    async def _in_turn(
        self, handler: Callable[[_Received], Awaitable[Answer]], received: _Received
    ) -> Answer:
        """Make a page while at most `REQUESTS_AT_ONCE` others are made."""
        if received.request.method in ("GET", "HEAD") and received.request.can_read_body:
            raise web.HTTPBadRequest(reason="a page is requested without a body")
        try:
            await within(_WAIT_SECONDS, self._turns.acquire())
        except TimeoutError:
            raise Overloaded("too many pages are requested at once; try again") from None
        try:
            return await handler(received)
        finally:
            self._turns.release()

    async def _page(self, page: Page, received: _Received) -> Answer:
        session = self._session(received.request)
        if session is None:
            return Answer(status=303, location="/login")
        return await page(self._site, self._visit(received, session))

    async def _change(self, path: str, received: _Received) -> Answer:
        """Make a change: 1. session, 2. origin, 3. switch, 4. token, 5. the operation."""
        session = self._session(received.request)
        if session is None:  # 1
            return Answer(status=303, location="/login")
        require_own_origin(received.request.headers)  # 2
        if self._site.read_only:  # 3
            text = "this console is read-only (--console-read-only); use verdict-py"
            return self._failed(received, 403, text)
        form = await self._form(received.request)
        visit = self._visit(received, session, form)
        session.spend(visit.sent("csrf"), received.request.path)  # 4
        try:
            location = await self._site.changes[path](self._site, visit)  # 5
        except OperationFailed as error:
            return await self._refused_change(path, visit, error)
        return Answer(status=303, location=location)

    async def _refused_change(self, path: str, visit: Visit, error: OperationFailed) -> Answer:
        """Return the page of the form again, with the reason above it."""
        status = http_status(error)
        page = self._site.page_of_change(path)
        if status == 403 or page is None:  # the page itself needs the same right
            raise error
        pattern, show = page
        parts = visit.path.split("/")
        shown = "/".join(parts[: len(pattern.split("/"))])
        again = Visit(
            shown, visit.language, visit.session, visit.operations, visit.peer, (), visit.form
        )
        return await show(self._site, again, error.text, status)

    async def _login(self, received: _Received) -> Answer:
        if self._identity.context is not None:
            return Answer(status=303, location="/")
        code = received.query.get("code", "")
        values = {"code": code, "minutes": int(LINK_SECONDS // 60)}
        return self._site.bare(self._visit(received, None), "login.html", values)

    async def _sign_in(self, received: _Received) -> Answer:
        request = received.request
        require_own_origin(request.headers)
        code = dict(await self._form(request)).get("code", "").strip()
        try:
            secret, session = self._sessions.sign_in(code)
        except LinkInvalid as error:
            self._record(received, str(error))
            values = {"code": "", "minutes": int(LINK_SECONDS // 60), "problem": str(error)}
            visit = self._visit(received, None)
            return self._site.bare(visit, "login.html", values, status=403)
        try:
            signed_in = ConsoleSignedIn(caller=session.caller.name, peer=received.peer)
            await self._events.commit(signed_in)
        except StorageError:
            self._sessions.end(secret)
            raise
        received.cookies[_SESSION_COOKIE] = secret, None
        return Answer(status=303, location="/")

    async def _sign_out(self, received: _Received) -> Answer:
        request = received.request
        session = self._session(request)
        if session is not None:
            require_own_origin(request.headers)
            form = await self._form(request)
            session.spend(dict(form).get("csrf", ""), "/logout")
            self._sessions.end(request.cookies.get(_SESSION_COOKIE, ""))
        received.cookies[_SESSION_COOKIE] = "", 0
        return Answer(status=303, location="/login")

    async def _style(self, received: _Received) -> Answer:
        del received
        headers = {"Content-Type": "text/css; charset=utf-8", "Cache-Control": "max-age=3600"}
        return Answer(stylesheet(), headers=headers)

    async def _missing(self, received: _Received) -> Answer:
        if received.request.method not in ("GET", "HEAD", "POST"):
            return self._failed(received, 405, "only pages and forms are served here")
        return self._failed(received, 404, "there is no such page")

    def _session(self, request: web.Request) -> Session | None:
        """Return the session of the person who sent a request."""
        if self._identity.context is None:
            return self._sessions.of_secret(request.cookies.get(_SESSION_COOKIE, ""))
        if request.transport is None:  # the client has disconnected, so no answer is sent
            return None
        digest, caller = self._identity.certified(request.transport)
        return self._sessions.of_certificate(digest, caller)

    def _visit(
        self,
        received: _Received,
        session: Session | None,
        form: Sequence[tuple[str, str]] = (),
    ) -> Visit:
        caller = _NOBODY if session is None else session.caller
        return Visit(
            received.request.path,
            received.language,
            session,
            self._operations.of(caller),
            received.peer,
            tuple(received.query.items()),
            form,
        )

    @staticmethod
    async def _form(request: web.Request) -> Sequence[tuple[str, str]]:
        """Receive a form of URL-encoded values.

        Raises:
            web.HTTPException: it is of another type, or too large.
        """
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPBadRequest(reason="a form is sent as application/x-www-form-urlencoded")
        body = await request.read()
        if isinstance(request.protocol, Connection):
            request.protocol.received()
        try:
            return parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        except ValueError:
            raise web.HTTPBadRequest(reason="the form cannot be read") from None

    def _failed(self, received: _Received, status: int, text: str) -> Answer:
        try:
            session = self._session(received.request)
        except OperationFailed:
            session = None
        title = received.language(_TITLES.get(status, "The request failed"))
        values = {"title": title, "text": text, "status": str(status)}
        return self._site.bare(self._visit(received, session), "error.html", values, status=status)

    def _language(self, request: web.Request) -> Language:
        chosen = request.query.get("lang") or request.cookies.get(_LANGUAGE_COOKIE, "")
        accepted = request.headers.get("Accept-Language", "")
        return languages.named(chosen) or languages.preferred(accepted)

    def _response(self, received: _Received, answer: Answer) -> web.Response:
        headers = {"Content-Type": "text/html; charset=utf-8", **SECURITY_HEADERS}
        headers |= {"Content-Language": received.language.tag, **answer.headers}
        if answer.location:
            headers["Location"] = answer.location
        response = web.Response(body=answer.body.encode(), status=answer.status, headers=headers)
        for name, (value, age) in received.cookies.items():
            self._set_cookie(response, name, value, age)
        if named := languages.named(received.query.get("lang", "")):
            self._set_cookie(response, _LANGUAGE_COOKIE, named.code, _YEAR_SECONDS)
        return response

    def _set_cookie(self, response: web.Response, name: str, value: str, age: int | None) -> None:
        response.set_cookie(
            name,
            value,
            max_age=age,
            path="/",
            secure=self._identity.context is not None,
            httponly=True,
            samesite="Strict",
        )

    def _record(self, received: _Received, reason: str) -> None:
        doing = f"{received.request.method} {_pattern(received.request)}"
        self._events.record(ConsoleRefused(peer=received.peer, doing=doing, reason=reason))


@dataclass(slots=True)
class _Received:
    """A request as it arrived, and the cookies of its answer."""

    request: web.Request
    language: Language
    cookies: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    @property
    def peer(self) -> str:
        protocol = self.request.protocol
        return protocol.client.text if isinstance(protocol, Connection) else "unknown"


def _pattern(request: web.Request) -> str:
    """Return the pattern of the request's route; the path that the client sent is not logged."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical
