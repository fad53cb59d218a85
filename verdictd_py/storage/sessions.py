"""Sessions of HTTP guests in memory.

Source: port `SessionStore`; wire-rcar.md, "Handshake".
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from verdictd_py.ports.sessions import DEFAULT_LIMITS, MAX_AHEAD, SessionLimits


class MemorySessionStore:
    """Port `SessionStore` in the memory of this process."""

    def __init__(self, limits: SessionLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._challenges = _ExpiringTexts()
        self._tokens = _ExpiringTexts()
        self._claims = _ExpiringTexts()

    async def add_challenge(
        self, name: str, challenge: str, *, now: datetime, expires: datetime
    ) -> None:
        self._challenges.put(name, challenge, now, expires)
        self._challenges.evict(rows=self._limits.challenges)
        self._evict_sessions(now)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        return self._challenges.take(name, now)

    async def add_token(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        self._tokens.put(name, token, now, expires)
        self._tokens.evict(size=self._limits.token_bytes)
        self._evict_sessions(now)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return self._tokens.get(name, now)

    async def add_claims(
        self, digest: str, claims: str, *, now: datetime, expires: datetime
    ) -> None:
        self._claims.put(digest, claims, now, expires)
        self._claims.evict(size=self._limits.claims_bytes)

    async def claims(self, digest: str, *, now: datetime) -> str | None:
        return self._claims.get(digest, now)

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of unanswered challenges and of tokens."""
        return len(self._challenges), len(self._tokens)

    def release(self, now: datetime) -> None:
        """Release the memory of what has expired; otherwise the next guest's entry does that."""
        for texts in (self._challenges, self._tokens, self._claims):
            texts.discard_expired(now)

    def close(self) -> None:
        """Do nothing: there is no file to close."""

    def _evict_sessions(self, now: datetime) -> None:
        """Enforce the limit of sessions; evict unanswered challenges before tokens."""
        self._tokens.discard_expired(now)
        self._challenges.evict(rows=max(self._limits.sessions - len(self._tokens), 0))
        self._tokens.evict(rows=self._limits.sessions - len(self._challenges))


class _ExpiringTexts:
    """Texts by name, in the order of their expiry: all have the same lifetime."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[str, datetime]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, name: str, text: str, now: datetime, expires: datetime) -> None:
        self.discard_expired(now)
        while self._texts and next(iter(self._texts.values()))[1] > expires + MAX_AHEAD:
            self._remove(next(iter(self._texts)))
        self._remove(name)
        self._texts[name] = (text, expires)
        self._size += len(text)

    def get(self, name: str, now: datetime) -> str | None:
        text, expires = self._texts.get(name, (None, now))
        return text if expires > now else None

    def take(self, name: str, now: datetime) -> str | None:
        text = self.get(name, now)
        self._remove(name)
        return text

    def discard_expired(self, now: datetime) -> None:
        while self._texts and next(iter(self._texts.values()))[1] <= now:
            self._remove(next(iter(self._texts)))

    def evict(self, *, rows: int | None = None, size: int | None = None) -> None:
        """Remove the oldest texts until there are at most `rows`, with `size` characters."""
        while (rows is not None and len(self._texts) > rows) or (
            size is not None and self._size > size
        ):
            self._remove(next(iter(self._texts)))

    def _remove(self, name: str) -> None:
        removed = self._texts.pop(name, None)
        if removed is not None:
            self._size -= len(removed[0])
