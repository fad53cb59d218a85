"""Port of the store of HTTP guests' sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


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
