"""Pages of a list of names, and the tokens that lead from one page to the next.

A token has the last name of its page and the time when the list began, so that the store can serve
the next page from what it has read since then. Tokens are opaque to clients. Earlier versions
returned the bare name as a token; such a token is still accepted, as is any name.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic_ns
from typing import Final

from verdictd_py.errors import RequestError
from verdictd_py.ports import StoredName

MAX_PAGE: Final = 1000
"""Maximum number of names in one response, about 200 bytes each."""

_MARK: Final = "~"
"""First character of a token; no name has it."""

_MAX_TOKEN: Final = 4096
"""Maximum length in characters; three segments of a name have 767."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        next_token: leads to the next page; empty if this is the last one.
    """

    names: tuple[StoredName, ...]
    next_token: str


class Pages:
    """Reader of pages, whose tokens are those of one process.

    Args:
        read: reads names that follow a name, at most so many, of a list that began at a time
            (`KeyStore.page`).
        clock: monotonic, in nanoseconds, as the store's.
    """

    def __init__(
        self,
        read: Callable[[str, int, int], Awaitable[tuple[StoredName, ...]]],
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._read = read
        self._clock = clock
        self._process = token_hex(4)

    async def page(self, token: str, limit: int) -> Page:
        """Return the page to which a token leads; the first one if it is empty.

        Args:
            limit: maximum number of names, at most `MAX_PAGE`; 0 means `MAX_PAGE`.

        Raises:
            RequestError: the token was not returned by a broker.
            StorageError: the names cannot be listed.
        """
        size = min(limit or MAX_PAGE, MAX_PAGE)
        after, started = self._parse(token)
        names = await self._read(after, size + 1, started)
        if len(names) <= size:
            return Page(names, "")
        return Page(names[:size], self._token(names[size - 1].name, started))

    def _token(self, name: str, started: int) -> str:
        text = f"{self._process} {started} {name}"
        encoded = urlsafe_b64encode(text.encode("utf-8", "surrogateescape"))
        return _MARK + encoded.decode().rstrip("=")

    def _parse(self, token: str) -> tuple[str, int]:
        """Return the name after which the page begins, and when its list began.

        The list of a token of another process, or of an earlier version, begins now.
        """
        if not token.startswith(_MARK):
            return token, self._clock()
        if len(token) > _MAX_TOKEN:
            raise RequestError(_INVALID)
        try:
            padded = token[1:] + "=" * (-(len(token) - 1) % 4)
            text = urlsafe_b64decode(padded.encode("ascii")).decode("utf-8", "surrogateescape")
            process, started, name = text.split(" ", 2)
            began, now = int(started), self._clock()
        except ValueError:
            raise RequestError(_INVALID) from None
        return name, min(began, now) if process == self._process else now


_INVALID: Final = "the page token is not one of this broker's; request the first page again"
