"""Port of the store of HTTP guests' sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Maximum contents of a session store.

    Attributes:
        challenges: number of unanswered challenges, some 400 bytes each. Unauthenticated
            clients cause them. A guest answers within a second, so an attacker would have to
            cause this many in that second to displace its challenge.
        sessions: number of challenges and tokens together.
        token_bytes: size of all tokens; one has some 6 KiB.
        claims_bytes: size of all claims that are too long for tokens; guests of one image
            share theirs.
    """

    challenges: int = 20_000
    sessions: int = 50_000
    token_bytes: int = 512 * 1024 * 1024
    claims_bytes: int = 256 * 1024 * 1024


DEFAULT_LIMITS: Final = SessionLimits()

MAX_AHEAD: Final = timedelta(minutes=1)
"""Entries of one type all have the same lifetime. An entry that expires later than a new one
by more than this was stored while the clock was wrong, and is discarded: otherwise it would
outlast all entries that follow it."""


class SessionStore(Protocol):
    """Store of the sessions of HTTP guests, which several brokers may share.

    A session is named by a digest of its id, which only the guest has. It begins with a
    challenge, which is answered at most once, and may then have an attestation token. Claims
    that are too long for a token are stored under their digest, once for all guests that
    share them. Nothing in the store is secret, and write access to it does not make a client
    an accepted guest: challenges and tokens are sealed by the broker, and tokens contain the
    digest of the claims.

    Numbers and sizes are limited. An unanswered challenge, which any unauthenticated client
    can cause, never displaces a token. Expired entries are removed.
    """

    async def add_challenge(
        self, name: str, challenge: str, *, now: datetime, expires: datetime
    ) -> None:
        """Store a new session with its challenge.

        If there are too many, the oldest unanswered challenge is evicted.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        """Remove the challenge and return it; None if it was taken before or has expired.

        Raises:
            StorageError: the store fails. The challenge may be lost.
        """
        ...

    async def add_token(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        """Store the token of a session whose challenge was taken.

        If there are too many, unanswered challenges are evicted first, then the oldest token.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def token(self, name: str, *, now: datetime) -> str | None:
        """Return the token; None if there is none or it has expired.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def add_claims(
        self, digest: str, claims: str, *, now: datetime, expires: datetime
    ) -> None:
        """Store claims until `expires`, or longer if they are stored already.

        If there are too many, the oldest claims are evicted.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def claims(self, digest: str, *, now: datetime) -> str | None:
        """Return the claims, None if there are none or they have expired.

        The store does not compare them with the digest; the caller does.

        Raises:
            StorageError: the store fails.
        """
        ...
