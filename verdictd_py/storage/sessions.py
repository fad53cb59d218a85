"""Sessions of HTTP guests in this process, and the bounds of every session store.

Source: port `SessionStore`; wire-rcar.md, "Handshake".
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a session store keeps; below each, whoever made it.

    Attributes:
        challenges: unanswered ones, some 400 bytes each. Strangers can make them; a guest
            answers in a second, so they would have to make that many in this second to keep
            it out.
        sessions: challenges and tokens together.
        token_bytes: of all tokens; one has some 6 KiB.
        claims_bytes: of claims too long for tokens. Guests of one image share theirs.
    """

    challenges: int = 20_000
    sessions: int = 50_000
    token_bytes: int = 512 * 1024 * 1024
    claims_bytes: int = 256 * 1024 * 1024


USUAL: Final = Bounds()

AHEAD: Final = timedelta(minutes=1)
"""All of a kind live equally long. What ends later than a new one by more than this was put
in while the clock was ahead: it would take the room of all that come until then."""


class MemorySessionStore:
    """Port `SessionStore` in this process."""

    def __init__(self, bounds: Bounds = USUAL) -> None:
        self._bounds = bounds
        self._challenges = _Shelf()
        self._tokens = _Shelf()
        self._claims = _Shelf()

    async def begin(self, name: str, challenge: str, *, now: datetime, expires: datetime) -> None:
        self._challenges.put(name, challenge, now, expires)
        self._challenges.bound(rows=self._bounds.challenges)
        self._bound_sessions(now)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        return self._challenges.take(name, now)

    async def attested(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        self._tokens.put(name, token, now, expires)
        self._tokens.bound(size=self._bounds.token_bytes)
        self._bound_sessions(now)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return self._tokens.get(name, now)

    async def keep(self, digest: str, claims: str, *, now: datetime, expires: datetime) -> None:
        self._claims.put(digest, claims, now, expires)
        self._claims.bound(size=self._bounds.claims_bytes)

    async def kept(self, digest: str, *, now: datetime) -> str | None:
        return self._claims.get(digest, now)

    def close(self) -> None:
        """Do nothing: there is no file to close."""

    def _bound_sessions(self, now: datetime) -> None:
        """Unanswered challenges go first."""
        self._tokens.forget_ended(now)
        self._challenges.bound(rows=max(self._bounds.sessions - len(self._tokens), 0))
        self._tokens.bound(rows=self._bounds.sessions - len(self._challenges))


class _Shelf:
    """Texts by name, in the order of their ends: all live equally long."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[str, datetime]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, name: str, text: str, now: datetime, expires: datetime) -> None:
        self.forget_ended(now)
        while self._texts and next(iter(self._texts.values()))[1] > expires + AHEAD:
            self._remove(next(iter(self._texts)))
        self._remove(name)
        self._texts[name] = (text, expires)
        self._size += len(text)

    def get(self, name: str, now: datetime) -> str | None:
        text, expires = self._texts.get(name, (None, now))
        return text if expires > now else None

    def take(self, name: str, now: datetime) -> str | None:
        found = self.get(name, now)
        self._remove(name)
        return found

    def forget_ended(self, now: datetime) -> None:
        while self._texts and next(iter(self._texts.values()))[1] <= now:
            self._remove(next(iter(self._texts)))

    def bound(self, *, rows: int | None = None, size: int | None = None) -> None:
        """Forgets the oldest until neither is exceeded."""
        while (rows is not None and len(self._texts) > rows) or (
            size is not None and self._size > size
        ):
            self._remove(next(iter(self._texts)))

    def _remove(self, name: str) -> None:
        found = self._texts.pop(name, None)
        if found is not None:
            self._size -= len(found[0])
