"""Tokens that this process has issued or verified, so that it verifies each of them once.

A guest sends the same token with all its requests of five minutes. The signature, the claims and
the guest's key in it cannot change meanwhile; whether it is valid now is checked each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from verdictd_py.errors import TokenInvalid
from verdictd_py.protocols.rcar.tokens import AttestedGuest, IssuedToken, TokenContent

MAX_CHARACTERS: Final = 1024 * 1024
"""Maximum length of all tokens together: some 270 usual ones, which take some 4 MiB. A guest
requests its secrets at once after it has attested; a token that was evicted is verified again."""


class Issuer(Protocol):
    """Issuer and reader of tokens, with one key or a ring of keys.

    Attributes:
        generation: changes when a key was removed, so that known tokens must be verified again.
    """

    @property
    def generation(self) -> int: ...

    def issue(self, guest: AttestedGuest, *, now: datetime, policy: str) -> IssuedToken: ...

    def read(self, token: str, *, now: datetime) -> TokenContent: ...


@dataclass(frozen=True, slots=True)
class KnownToken:
    """Verified token.

    Attributes:
        digest: SHA-256 of its text, in hex, which identifies it without disclosing it.
        content: what it states.
    """

    digest: str = field(repr=False)
    content: TokenContent


class KnownTokens:
    """Issuer and reader of tokens, which stores the content of those it knows.

    A token is known by its whole text, signature included. So neither a client nor a writer of
    the session store can make a known token of another text. The content is discarded when the
    token has expired or is not valid yet, when the keys of the issuer have changed, and, the
    oldest first, when there are too many.

    Args:
        most: maximum length of all tokens together.
    """

    def __init__(self, tokens: Issuer, *, most: int = MAX_CHARACTERS) -> None:
        self._tokens = tokens
        self._most = most
        self._known: OrderedDict[str, KnownToken] = OrderedDict()
        self._size = 0
        self._generation = tokens.generation

    def issue(self, guest: AttestedGuest, *, now: datetime, policy: str) -> IssuedToken:
        """Issue a token, as `Tokens.issue` does, and know it."""
        issued = self._tokens.issue(guest, now=now, policy=policy)
        self._add(issued.token, issued.content, now)
        return issued

    def read(self, token: str, *, now: datetime) -> KnownToken:
        """Return the content of a token; verify it first, as `Tokens.read` does, if it is unknown.

        Raises:
            TokenInvalid: see `Tokens.read`.
        """
        self._require_generation()
        known = self._known.get(token)
        if known is None:
            return self._add(token, self._tokens.read(token, now=now), now)
        try:
            known.content.require_valid(now)
        except TokenInvalid:
            self._discard(token)
            raise
        return known

    def release(self, now: datetime) -> None:
        """Release the memory of expired tokens; otherwise the next new token does that."""
        while self._known:
            oldest = next(iter(self._known))
            if self._known[oldest].content.expires > now.timestamp():
                return
            self._discard(oldest)

    def _require_generation(self) -> None:
        """Discard all tokens if the keys have changed."""
        if self._generation != self._tokens.generation:
            self._generation = self._tokens.generation
            self._known.clear()
            self._size = 0

    def _add(self, token: str, content: TokenContent, now: datetime) -> KnownToken:
        self.release(now)
        self._discard(token)
        digest = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        self._known[token] = known = KnownToken(digest, content)
        self._size += len(token)
        while self._size > self._most:
            self._discard(next(iter(self._known)))
        return known

    def _discard(self, token: str) -> None:
        if self._known.pop(token, None) is not None:
            self._size -= len(token)
