"""What is kept of HTTP guests between their requests."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class SessionStore(Protocol):
    """What is kept of HTTP guests between their requests, perhaps for several brokers.

    A session is named by a digest of its id, which the guest alone has. It begins with a
    challenge, which is answered once, and may then hold an attestation token. Claims that are
    too long for a token are kept under their digest, once for all guests that share them.
    Nothing of it is secret, and whoever can write it makes no peer: challenges and tokens
    bear the broker's seal, and tokens the digest of claims.

    Everything is bounded in number and size: an unanswered challenge, which any stranger can
    ask for, never displaces a token. What has ended is forgotten.
    """

    async def begin(self, name: str, challenge: str, *, now: datetime, expires: datetime) -> None:
        """A new session with a challenge.

        Where there are too many, the oldest unanswered challenge is forgotten.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        """The challenge, to the first who asks; None for everybody else, and when it is over.

        Raises:
            StorageError: the store fails. The challenge may be spent.
        """
        ...

    async def attested(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        """The session whose challenge was taken now holds a token.

        Where there are too many, unanswered challenges go first, then the oldest token.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def token(self, name: str, *, now: datetime) -> str | None:
        """The token, None where there is none, or when it is over.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def keep(self, digest: str, claims: str, *, now: datetime, expires: datetime) -> None:
        """Keeps claims until `expires`, or longer where they are kept already.

        Where there are too many, the oldest are forgotten.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def kept(self, digest: str, *, now: datetime) -> str | None:
        """The claims, None where there are none, or no longer; not compared with the digest.

        Raises:
            StorageError: the store fails.
        """
        ...
