"""Routes of guests: challenge, attestation, resources; and the keys that judge our tokens."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from verdictd_py.broker.handshakes import SESSION_LIFETIME, Handshakes
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import encode_object
from verdictd_py.errors import RequestError
from verdictd_py.listeners.kbs import answers
from verdictd_py.listeners.sockets import peer_text
from verdictd_py.protocols.rcar.tokens import Tokens

PREFIX: Final = "/kbs/v0"
COOKIE: Final = "kbs-session-id"
RESOURCE: Final = PREFIX + "/resource/{repository}/{type}/{tag}"

MAX_COOKIE_CHARACTERS: Final = 8 * 1024
"""Of all cookies; guests have one. Reading many takes long, and strangers send them."""

_MAX_ID_CHARACTERS: Final = 256


class GuestRoutes:
    """Handlers of guests' requests; errors are answered by the server around them.

    Args:
        secure: whether the session's cookie may travel over TLS only.
    """

    def __init__(self, handshakes: Handshakes, tokens: Tokens, *, secure: bool) -> None:
        self._handshakes = handshakes
        self._tokens = tokens
        self._secure = secure

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(PREFIX + "/auth", self.auth),
            web.post(PREFIX + "/attest", self.attest),
            web.get(RESOURCE, self.resource, allow_head=False),
            web.get(PREFIX + "/jwks", self.jwks, allow_head=False),
            web.get("/.well-known/jwks.json", self.jwks, allow_head=False),
        ]

    async def auth(self, request: web.Request) -> web.Response:
        """A challenge, and the cookie of a session."""
        begun = await self._handshakes.begin(await request.read())
        answer = answers.succeeded(begun.answer)
        answer.set_cookie(
            COOKIE,
            begun.session_id,
            path="/kbs",
            httponly=True,
            secure=self._secure,
            max_age=int(SESSION_LIFETIME.total_seconds()),
        )
        return answer

    async def attest(self, request: web.Request) -> web.Response:
        """A token for evidence that answers the challenge and is accepted."""
        return answers.succeeded(
            await self._handshakes.attest(
                session_id(request), await request.read(), address=address(request)
            )
        )

    async def resource(self, request: web.Request) -> web.Response:
        """A resource, encrypted to the guest's key. A query is for other brokers: ignored."""
        return answers.succeeded(
            await self._handshakes.resource(
                resource_path(request),
                session_id=session_id(request),
                token=bearer(request),
                address=address(request),
            )
        )

    async def jwks(self, request: web.Request) -> web.Response:
        """The public keys of our tokens."""
        del request
        return answers.succeeded(encode_object(self._tokens.jwks()))


def resource_path(request: web.Request) -> ResourcePath:
    """The path in the address.

    Raises:
        web.HTTPNotFound: it is no name of a resource.
    """
    parts = (request.match_info[name] for name in ("repository", "type", "tag"))
    try:
        return ResourcePath.parse("/".join(parts))
    except RequestError:
        raise web.HTTPNotFound(reason="that is no name of a resource") from None


def session_id(request: web.Request) -> str | None:
    """What the cookie says, None where there is none; too long is as good as unknown."""
    if len(request.headers.get("Cookie", "")) > MAX_COOKIE_CHARACTERS:
        return None
    found = request.cookies.get(COOKIE)
    return None if found is None else found[:_MAX_ID_CHARACTERS]


def bearer(request: web.Request) -> str | None:
    """The token of an `Authorization: Bearer` header, None where there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def address(request: web.Request) -> str:
    """The peer's, `host:port`, for log and audit. What a proxy says of others is not believed."""
    return peer_text(request.transport and request.transport.get_extra_info("peername"))
