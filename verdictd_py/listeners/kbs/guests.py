"""Routes for guests: challenge, attestation, resources, and the keys that verify tokens.

Each handler reads a typed request from a body (`protocols.rcar`), calls the use case
(`broker.handshakes`), and writes its result into a body.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from aiohttp import web

from verdictd_py.broker.handshakes import SESSION_LIFETIME, Handshakes
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import encode_object
from verdictd_py.errors import RequestError
from verdictd_py.listeners.kbs import answers
from verdictd_py.listeners.kbs.bodies import receive
from verdictd_py.listeners.kbs.connections import Connection
from verdictd_py.offload import offload
from verdictd_py.ports import NO_QUERY
from verdictd_py.protocols.rcar import jwe, messages
from verdictd_py.protocols.rcar.tokenring import TokenRing

PREFIX: Final = "/kbs/v0"
ATTEST: Final = PREFIX + "/attest"
COOKIE: Final = "kbs-session-id"
RESOURCE: Final = PREFIX + "/resource/{repository}/{type}/{tag}"

MAX_COOKIE_CHARACTERS: Final = 8 * 1024
"""Maximum size of all cookies. Guests send one; parsing many takes long."""

_MAX_ID_CHARACTERS: Final = 256

_USUAL_COOKIE: Final = re.compile(f"{COOKIE}=([0-9a-f]{{64}})")
"""The header of guests that this broker gave a session, and no proxy another cookie. To parse
any header takes the library ten times as long."""


class GuestRoutes:
    """Handlers of guests' requests; the server answers the errors that they raise.

    Args:
        secure: whether the session's cookie may be sent over TLS only.
    """

    def __init__(self, handshakes: Handshakes, ring: TokenRing, *, secure: bool) -> None:
        self._handshakes = handshakes
        self._ring = ring
        lifetime = int(SESSION_LIFETIME.total_seconds())
        self._cookie = f"; HttpOnly; Max-Age={lifetime}; Path=/kbs{'; Secure' if secure else ''}"

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(PREFIX + "/auth", self.auth),
            web.post(ATTEST, self.attest),
            web.get(RESOURCE, self.resource, allow_head=False),
            web.get(PREFIX + "/jwks", self.jwks, allow_head=False),
            web.get("/.well-known/jwks.json", self.jwks, allow_head=False),
        ]

    async def auth(self, request: web.Request) -> web.Response:
        """Answer with a challenge, and the cookie of a new session."""
        session = await self._handshakes.begin(messages.parse_auth(await receive(request)))
        answer = answers.succeeded(messages.challenge(session.challenge))
        answer.headers["Set-Cookie"] = f"{COOKIE}={session.session_id}{self._cookie}"
        return answer

    async def attest(self, request: web.Request) -> web.Response:
        """Answer with a token if the evidence answers the challenge and is accepted.

        The body is received only for a session with an open challenge.
        """
        session = await self._handshakes.open(session_id(request))
        if isinstance(request.protocol, Connection):
            request.protocol.share.prove()
        body = await receive(request)
        parse = partial(messages.parse_attest, body, session.challenge)
        attestation = await offload(len(body), parse)
        token = await self._handshakes.attest(session, attestation, address=address(request))
        return answers.succeeded(messages.token(token))

    async def resource(self, request: web.Request) -> web.Response:
        """Answer with a resource, encrypted to the guest's key.

        The query is for the release policy. The last value of a name that is repeated counts.
        """
        released = await self._handshakes.resource(
            resource_path(request),
            session_id=session_id(request),
            token=bearer(request),
            address=address(request),
            query=dict(request.query.items()) if request.query_string else NO_QUERY,
            admission=partial(_counted, request.protocol),
        )
        return answers.succeeded(
            jwe.encrypt(released.content, released.key, released.version, random=os.urandom)
        )

    async def jwks(self, request: web.Request) -> web.Response:
        """Answer with the public keys that verify attestation tokens."""
        del request
        return answers.succeeded(encode_object(self._ring.jwks()))


@contextmanager
def _counted(connection: object, platform: str | None, token: str) -> Iterator[None]:
    """Count a request of an attested guest under its platform and token while it lasts.

    Raises:
        Overloaded: there are too many.
    """
    if not isinstance(connection, Connection):
        raise TypeError("the request has no connection of the listener")
    connection.share.attest(platform)
    with connection.share.request(token):
        yield


def resource_path(request: web.Request) -> ResourcePath:
    """Return the resource path in the request's URL.

    Raises:
        web.HTTPNotFound: it is not a valid name of a resource.
    """
    parts = (request.match_info[name] for name in ("repository", "type", "tag"))
    try:
        return ResourcePath.parse("/".join(parts))
    except RequestError:
        raise web.HTTPNotFound(reason="the path is not a valid name of a resource") from None


def session_id(request: web.Request) -> str | None:
    """Return the session id in the cookie, None if there is none or the cookies are too long."""
    header = request.headers.get("Cookie")
    if header is None:
        return None
    if (usual := _USUAL_COOKIE.fullmatch(header)) is not None:
        return usual[1]
    if len(header) > MAX_COOKIE_CHARACTERS:
        return None
    cookie = request.cookies.get(COOKIE)
    return None if cookie is None else cookie[:_MAX_ID_CHARACTERS]


def bearer(request: web.Request) -> str | None:
    """Return the token of an `Authorization: Bearer` header, None if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def address(request: web.Request) -> str:
    """Return the client's address for log and audit; of a named proxy, that of its client."""
    connection = request.protocol
    return connection.client.text if isinstance(connection, Connection) else "unknown"
