"""What every page has around its content: menu, person, languages, tokens for its forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import quote, urlencode

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.language import Language, languages
from verdictd_py.console.rendering import style_version
from verdictd_py.domain.callers import ROLES, Right

_MENU: Final = (
    ("/", "Overview"),
    ("/guests", "Guests"),
    ("/reference", "Reference values"),
    ("/policies", "Policies"),
    ("/release", "Release"),
    ("/keys", "Keys and resources"),
    ("/collateral", "Collateral"),
    ("/audit", "Audit"),
)


_NOT_OF_THE_PAGE: Final = ("lang", "code", "auto")
"""Values of an address that a link to the same page does not have."""


@dataclass(frozen=True, slots=True)
class MenuItem:
    """An entry of the menu.

    Attributes:
        current: `page` for the page itself, `true` for a page below it, otherwise empty.
        number: number next to the name; 0 for none.
        meaning: what is counted, a key of the translations.
    """

    path: str
    name: str
    current: str = ""
    number: int = 0
    kind: str = ""
    meaning: str = ""


class Tokens(Protocol):
    """Maker of tokens for the forms of one page.

    Attributes:
        made: the tokens with their changes.
    """

    made: list[tuple[str, str]]

    def __call__(self, change: str) -> str:
        """Return a new token for a change, by the path of its form."""
        ...


class _NoTokens:
    """Maker of tokens for a page without forms."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def __call__(self, change: str) -> str:
        raise RuntimeError(f"no form is displayed on this page: {change}")


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything around the content.

    Attributes:
        broker: name of the broker's host.
        person: name of the person who is signed in; empty before.
        rights: the person's rights.
        changes: whether forms that change something are displayed.
        signs_out: whether the person can sign out, which ends a session and no certificate.
        token: returns a new token for a change, by the path of its form.
        now: time of the data, RFC 3339.
        path: path of this page.
        query: query of this page.
    """

    broker: str
    person: str = ""
    rights: frozenset[Right] = frozenset()
    read_only: bool = False
    changes: bool = False
    signs_out: bool = False
    token: Tokens = field(default_factory=_NoTokens)
    now: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    path: str = "/"
    query: Sequence[tuple[str, str]] = ()
    status: v1.Status = field(default_factory=v1.Status)

    @property
    def languages(self) -> tuple[Language, ...]:
        return languages()

    @property
    def style(self) -> str:
        return style_version()

    @property
    def role(self) -> str:
        """Name of the role with exactly the person's rights."""
        names = [name for name, rights in ROLES.items() if rights == self.rights]
        return names[0] if names else ", ".join(sorted(self.rights)) or "-"

    def here(self, code: str) -> str:
        """Return the address of this page in another language.

        The path is what the client sent. Browsers read two slashes or backslashes at its beginning
        as the name of another host.
        """
        others = [(name, value) for name, value in self.query if name not in _NOT_OF_THE_PAGE]
        path = "/" + quote(self.path.lstrip("/"))
        return f"{path}?{urlencode([*others, ('lang', code)])}"

    @property
    def menu(self) -> tuple[MenuItem, ...]:
        numbers: Mapping[str, tuple[int, str, str]] = {
            "/guests": (self.status.guests_refused, "bad", "refused"),
            "/reference": (len(self.status.unpinned), "warn", "not pinned"),
            "/policies": (len(self.status.problems), "bad", "problems"),
        }
        return tuple(
            MenuItem(path, name, self._current(path), *numbers.get(path, ()))
            for path, name in _MENU
        )

    def _current(self, path: str) -> str:
        if self.path == path:
            return "page"
        return "true" if path != "/" and self.path.startswith(f"{path}/") else ""
