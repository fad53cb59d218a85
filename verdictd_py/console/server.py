"""Listener of the console: HTTP with its own limits, sign-in, and checks before every page.

1. The host is the console's. 2. The person is known by a session or a client certificate; without
one, only the sign-in is served. 3. A change comes from a form of the console, with its token.
4. The page calls the management API in the person's name, which checks every right.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from aiohttp import web

from verdictd_py.config import Address
from verdictd_py.console import language as languages
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.receiving import LANGUAGE_COOKIE, MAX_FORM_BYTES, Received
from verdictd_py.console.rendering import stylesheet
from verdictd_py.console.requests import (
    SECURITY_HEADERS,
    ForeignRequest,
    Visit,
    WrongHost,
    require_host,
    require_own_origin,
)
from verdictd_py.console.sessions import TokenInvalid
from verdictd_py.console.signin import SignIn
from verdictd_py.console.site import Answer, Page, Site, http_status
from verdictd_py.domain.events import ConsoleRefused
from verdictd_py.errors import NotAuthorized, Overloaded, StorageError
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

Handler = Callable[[Received], Awaitable[Answer]]

Receive = Callable[[Received], Awaitable[None]]
"""Receives the body of a request, before the page has a turn."""

MAX_CONNECTIONS: Final = 64

REQUESTS_AT_ONCE: Final = 8
"""Maximum number of pages that are made at once; others wait."""

_WAIT_SECONDS: Final = 10.0
"""Time limit of that wait."""

_PAGE_SECONDS: Final = 30.0

_YEAR_SECONDS: Final = 365 * 24 * 3600

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
        people: the sign-in, and who sent a request; its identity also has the settings of TLS.
        events: records refused requests.

    Attributes:
        people: as above.
    """

    def __init__(self, address: Address, *, site: Site, people: SignIn, events: Events) -> None:
        self.name = "console"
        self.address = address
        self._site = site
        self.people = people
        self._identity = identity = people.identity
        self._events = events
        self._listening: socket.socket | None = None
        self._turns = asyncio.Semaphore(REQUESTS_AT_ONCE)
        app = web.Application(client_max_size=MAX_FORM_BYTES)
        self._router = app.router
        self._route("GET", "/console.css", self._style)
        self._route("GET", "/login", people.page)
        self._route("POST", "/login", people.sign_in, people.receive)
        self._route("POST", "/logout", people.sign_out, people.receive_sign_out)
        for path, page in site.pages.items():
            self._route("GET", path, partial(self._page, page))
        for path in site.changes:
            self._route("POST", path, partial(self._change, path), self._receive_change)
        self._route("*", "/{path:.*}", self._missing, self._receive_nothing)
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

    def _route(
        self, method: str, path: str, handler: Handler, receive: Receive | None = None
    ) -> None:
        methods = ("GET", "HEAD") if method == "GET" else (method,)
        for each in methods:
            self._router.add_route(each, path, partial(self._answered, handler, receive))

    async def _answered(
        self, handler: Handler, receive: Receive | None, request: web.Request
    ) -> web.StreamResponse:
        """Answer one request; every failure is a page, and an internal error an event."""
        if isinstance(request.protocol, Connection):
            request.protocol.begin(())
            if not request.can_read_body:
                request.protocol.received()
        received = Received.of(request)
        try:
            require_host(request.headers.get("Host", ""), self._identity.is_own_host)
            answer = await within(_PAGE_SECONDS, self._in_turn(handler, receive, received))
        except web.HTTPSeeOther as error:
            answer = Answer(status=303, location=error.headers["Location"])
        except web.HTTPException as error:
            answer = self._failed(received, error.status, str(error.reason))
        except TimeoutError:
            answer = self._failed(received, 503, "the page took too long; try again")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # translated; others must still be served
            answer = self._explained(received, error)
        return self._response(received, answer)

    def _explained(self, received: Received, error: Exception) -> Answer:
        if isinstance(error, OperationFailed):
            return self._failed(received, http_status(error), error.text)
        if isinstance(error, WrongHost | ForeignRequest | TokenInvalid):
            doing = f"{received.request.method} {received.route}"
            event = ConsoleRefused(peer=received.peer, doing=doing, reason=str(error))
            self._events.record(event)
            status = 400 if isinstance(error, TokenInvalid) else 403
            return self._failed(received, status, str(error))
        if isinstance(error, NotAuthorized):
            return self._failed(received, 403, str(error))
        if isinstance(error, Overloaded):
            return self._failed(received, 429, str(error))
        if isinstance(error, StorageError):
            return self._failed(received, 503, str(error))
        text = report_bug(self._events, error, doing=f"console {received.request.method}")
        return self._failed(received, 500, text)

    async def _in_turn(
        self, handler: Handler, receive: Receive | None, received: Received
    ) -> Answer:
        """Receive the form, then make a page while at most `REQUESTS_AT_ONCE` others are made.

        A client that sends its form slowly holds only its own connection.
        """
        if receive is not None:
            await receive(received)
        elif received.request.can_read_body:
            raise web.HTTPBadRequest(reason="a page is requested without a body")
        try:
            await within(_WAIT_SECONDS, self._turns.acquire())
        except TimeoutError:
            raise Overloaded("too many pages are requested at once; try again") from None
        try:
            return await handler(received)
        finally:
            self._turns.release()

    async def _page(self, page: Page, received: Received) -> Answer:
        session = self.people.session(received)
        if session is None:
            return Answer(status=303, location="/login")
        return await page(self._site, self.people.visit(received, session))

    async def _receive_change(self, received: Received) -> None:
        """Receive the form of a change: 1. session, 2. origin, 3. switch, then the form."""
        if self.people.session(received) is None:  # 1
            raise web.HTTPSeeOther("/login")
        require_own_origin(received.request.headers)  # 2
        if self._site.read_only:  # 3
            text = "this console is read-only (--console-read-only); use verdict-py"
            raise web.HTTPForbidden(reason=text)
        await received.receive_form()

    async def _change(self, path: str, received: Received) -> Answer:
        """Make a change: 4. the token, 5. the operation; `_receive_change` checked the others."""
        session = self.people.session(received)
        if session is None:  # it ended meanwhile
            return Answer(status=303, location="/login")
        visit = self.people.visit(received, session)
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
        again = replace(visit, path=shown, query=())
        return await show(self._site, again, error.text, status)

    async def _style(self, received: Received) -> Answer:
        del received
        headers = {"Content-Type": "text/css; charset=utf-8", "Cache-Control": "max-age=3600"}
        return Answer(stylesheet(), headers=headers)

    async def _missing(self, received: Received) -> Answer:
        if received.request.method not in ("GET", "HEAD", "POST"):
            return self._failed(received, 405, "only pages and forms are served here")
        return self._failed(received, 404, "there is no such page")

    async def _receive_nothing(self, received: Received) -> None:
        """Accept a request with any body, which is not read."""

    def _failed(self, received: Received, status: int, text: str) -> Answer:
        try:
            session = self.people.session(received)
        except OperationFailed:
            session = None
        title = received.language(_TITLES.get(status, "The request failed"))
        values = {"title": title, "text": text, "status": str(status)}
        visit = self.people.visit(received, session)
        return self._site.bare(visit, "error.html", values, status=status)

    def _response(self, received: Received, answer: Answer) -> web.Response:
        headers = {"Content-Type": "text/html; charset=utf-8", **SECURITY_HEADERS}
        headers |= {"Content-Language": received.language.tag, **answer.headers}
        if answer.location:
            headers["Location"] = answer.location
        response = web.Response(body=answer.body.encode(), status=answer.status, headers=headers)
        for name, (value, age) in received.cookies.items():
            self._set_cookie(response, name, value, age)
        if named := languages.named(received.query.get("lang", "")):
            self._set_cookie(response, LANGUAGE_COOKIE, named.code, _YEAR_SECONDS)
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
