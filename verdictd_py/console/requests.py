"""One request to the console: who sent it, its form, and the checks that come before any page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from google.protobuf.message import Message

from verdictd_py.console.language import Language
from verdictd_py.console.sessions import Session
from verdictd_py.domain.callers import Caller
from verdictd_py.errors import RequestError

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer."""


class Calls(Protocol):
    """The management API in the name of one person."""

    @property
    def caller(self) -> Caller: ...

    async def call(self, method: str, request: Message) -> Any:  # noqa: ANN401  # of that method
        """Call a method, `verdictd.v1.KeyService/ListKeys`, and return its answer.

        Raises:
            OperationFailed: it was refused, or it failed.
        """
        ...


class WrongHost(RequestError):
    """The request is for another host: a name that a foreign site resolves to this address."""

    code = "host"


class ForeignRequest(RequestError):
    """The request was caused by a page of another site."""

    code = "cross-site"


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that passed the checks.

    Attributes:
        session: the person; None before the sign-in.
        operations: the management API in the person's name.
        query: values of the address by name.
        form: values of a form that was sent.
        peer: address of the client.
    """

    path: str
    language: Language
    session: Session | None
    operations: Calls
    peer: str
    query: Sequence[tuple[str, str]] = ()
    form: Sequence[tuple[str, str]] = field(default=(), repr=False)

    @property
    def caller(self) -> Caller:
        return self.operations.caller

    def asked(self, name: str) -> str:
        """Return a value of the address, empty if there is none."""
        return dict(self.query).get(name, "")

    def asked_all(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def sent(self, name: str) -> str:
        """Return a value of the form, empty if there is none."""
        return dict(self.form).get(name, "")

    def sent_all(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]


def require_host(value: str, is_own: Callable[[str], bool]) -> None:
    """Require that a request is for this console.

    A browser sends the name in its address bar. A foreign site can give its own name this
    address (DNS rebinding), and its pages could then read the console's.

    Args:
        value: value of the header `Host`.
        is_own: returns whether a host name, or an address without brackets, is this console's.

    Raises:
        WrongHost: it is not.
    """
    try:
        host = urlsplit(f"//{value}").hostname
        port_valid = urlsplit(f"//{value}").port != 0
    except ValueError:
        host, port_valid = None, False
    if not host or not port_valid or "@" in value or not is_own(host):
        raise WrongHost("this address is not the console's; use the one that the link names")


def require_own_origin(headers: Mapping[str, str]) -> None:
    """Require that a change was sent by a page of the console, as far as the browser reports it.

    A browser sends `Origin: null` because the pages have no referrer. `Sec-Fetch-Site` has no such
    exception. The token of the form is required in addition.

    Raises:
        ForeignRequest: it was not.
    """
    site = headers.get("Sec-Fetch-Site", "same-origin")
    origin = headers.get("Origin", "null")
    own = origin == "null" or _is_of_host(origin, headers.get("Host", ""))
    if site not in ("same-origin", "none") or not own:
        raise ForeignRequest("this form was sent by a page of another site; nothing was changed")


def _is_of_host(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # no browser sends such a text
        return False
