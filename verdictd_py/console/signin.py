"""Sign-in and sign-out of people, and the session of a request."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from verdictd_py.console.identity import Identity
from verdictd_py.console.operations import Operations
from verdictd_py.console.receiving import MAX_SIGN_IN_BYTES, Received
from verdictd_py.console.requests import Visit, require_own_origin
from verdictd_py.console.sessions import LINK_SECONDS, LinkInvalid, Session, Sessions
from verdictd_py.console.site import Answer, Site
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.events import ConsoleRefused, ConsoleSignedIn
from verdictd_py.errors import StorageError
from verdictd_py.ports import Events

SESSION_COOKIE: Final = "verdictd_session"

_NOBODY: Final = Caller("not signed in", frozenset())


class SignIn:
    """The pages of the sign-in, and who sent a request.

    Args:
        site: renders the pages.
        operations: the management API.
        sessions: links and sessions of people.
        identity: how people are identified.
        events: records sign-ins and refused codes.

    Attributes:
        operations, sessions, identity: as above.
    """

    def __init__(
        self,
        site: Site,
        operations: Operations,
        sessions: Sessions,
        identity: Identity,
        events: Events,
    ) -> None:
        self._site = site
        self.operations = operations
        self.sessions = sessions
        self.identity = identity
        self._events = events

    def session(self, received: Received) -> Session | None:
        """Return the session of the person who sent a request; None for other clients."""
        request, use = received.request, not received.automatic
        if self.identity.context is None:
            secret = request.cookies.get(SESSION_COOKIE, "")
            return self.sessions.of_secret(secret, use=use)
        if request.transport is None:  # the client has disconnected, so no answer is sent
            return None
        digest, caller = self.identity.certified(request.transport)
        return self.sessions.of_certificate(digest, caller)

    def visit(self, received: Received, session: Session | None) -> Visit:
        """Return a request in the name of the person with this session."""
        return Visit(
            received.request.path,
            received.language,
            session,
            self.operations.of(_NOBODY if session is None else session.caller),
            received.peer,
            tuple(received.query.items()),
            received.form,
        )

    async def page(self, received: Received) -> Answer:
        """The form of a link. Only sending it uses the link, so that a preview does not."""
        if self.identity.context is not None:
            return Answer(status=303, location="/")
        return self._form(received, code=received.query.get("code", ""))

    async def receive(self, received: Received) -> None:
        """Receive the code of a link."""
        require_own_origin(received.request.headers)
        await received.receive_form(MAX_SIGN_IN_BYTES)

    async def sign_in(self, received: Received) -> Answer:
        """Use the code of a link, and begin a session.

        Raises:
            Overloaded: this client sent too many wrong codes.
            StorageError: the sign-in cannot be recorded, so that there is no session.
        """
        address = received.peer.rpartition(":")[0]
        try:
            secret, session = self.sessions.sign_in(received.sent("code").strip(), address)
        except LinkInvalid as error:
            doing = f"POST {received.route}"
            self._events.record(ConsoleRefused(peer=received.peer, doing=doing, reason=str(error)))
            return self._form(received, problem=str(error), status=403)
        try:
            signed_in = ConsoleSignedIn(caller=session.caller.name, peer=received.peer)
            await self._events.commit(signed_in)
        except StorageError:
            self.sessions.end(secret)
            raise
        received.cookies[SESSION_COOKIE] = secret, None
        return Answer(status=303, location="/")

    async def receive_sign_out(self, received: Received) -> None:
        """Receive the token of a person who signs out."""
        if self.session(received) is None:
            raise web.HTTPSeeOther("/login")
        require_own_origin(received.request.headers)
        await received.receive_form(MAX_SIGN_IN_BYTES)

    async def sign_out(self, received: Received) -> Answer:
        """End the session."""
        session = self.session(received)
        if session is not None:
            session.spend(received.sent("csrf"), "/logout")
            self.sessions.end(received.request.cookies.get(SESSION_COOKIE, ""))
        received.cookies[SESSION_COOKIE] = "", 0
        return Answer(status=303, location="/login")

    def _form(
        self, received: Received, *, code: str = "", problem: str = "", status: int = 200
    ) -> Answer:
        values = {"code": code, "minutes": int(LINK_SECONDS // 60), "problem": problem}
        return self._site.bare(self.visit(received, None), "login.html", values, status=status)
