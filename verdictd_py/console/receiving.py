"""One request to the console as it arrived: its language, its client, and its form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

from verdictd_py.console import language as languages
from verdictd_py.console.language import Language
from verdictd_py.listeners.kbs.connections import Connection

MAX_FORM_BYTES: Final = 1024 * 1024
"""Maximum size of a form; a policy has at most 256 KiB, up to three times as much encoded."""

MAX_SIGN_IN_BYTES: Final = 4096
"""Maximum size of the form of an unauthenticated client: the code of a link."""

MAX_FIELDS: Final = 100

LANGUAGE_COOKIE: Final = "verdictd_language"

AUTOMATIC: Final = "auto"
"""Name in the query of a page that reloads itself, which does not extend a session."""

Form = Sequence[tuple[str, str]]


@dataclass(slots=True)
class Received:
    """A request, and the cookies of its answer.

    Attributes:
        form: values of its form; empty before `receive_form`.
        cookies: values and ages in seconds, by name; the age None lasts as long as the browser.
    """

    request: web.Request
    language: Language
    form: Form = field(default=(), repr=False)
    cookies: dict[str, tuple[str, int | None]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, request: web.Request) -> Received:
        """Return a request in the language that the person chose, else that of the browser."""
        chosen = request.query.get("lang") or request.cookies.get(LANGUAGE_COOKIE, "")
        accepted = request.headers.get("Accept-Language", "")
        return cls(request, languages.named(chosen) or languages.preferred(accepted))

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    @property
    def automatic(self) -> bool:
        """Whether a page has reloaded itself."""
        return self.request.method == "GET" and self.query.get(AUTOMATIC) == "1"

    @property
    def peer(self) -> str:
        """Address of the client, `host:port`."""
        protocol = self.request.protocol
        return protocol.client.text if isinstance(protocol, Connection) else "unknown"

    @property
    def route(self) -> str:
        """Pattern of the request's route; the path that the client sent is not logged."""
        resource = self.request.match_info.route.resource
        return "unknown" if resource is None else resource.canonical

    async def receive_form(self, limit: int = MAX_FORM_BYTES) -> None:
        """Receive a form of URL-encoded values.

        Args:
            limit: maximum number of bytes.

        Raises:
            web.HTTPException: it is of another type, or too large.
        """
        if self.request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPBadRequest(reason="a form is sent as application/x-www-form-urlencoded")
        body = bytearray()
        async for part in self.request.content.iter_any():
            body += part
            if len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(limit, len(body))
        if isinstance(self.request.protocol, Connection):
            self.request.protocol.received()
        try:
            self.form = parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
            )
        except ValueError:
            raise web.HTTPBadRequest(reason="the form cannot be read") from None

    def sent(self, name: str) -> str:
        """Return a value of the form, empty if there is none."""
        return dict(self.form).get(name, "")
