"""Sign-in to the console: one-time links, sessions, and tokens for changes.

All three are random, so that none can be guessed, and exist in memory only. The store has their
SHA-256, so that a lookup takes the same time for every wrong value. A restart ends them.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from verdictd_py.domain.callers import Caller
from verdictd_py.errors import NotAuthorized, Overloaded, RequestError

LINK_SECONDS: Final = 300.0
"""Validity of a link: time enough to paste it into a browser."""

SESSION_SECONDS: Final = 8 * 3600.0
"""Maximum length of a session: a working day."""

IDLE_SECONDS: Final = 1800.0
"""A session ends after this time without a request of the person."""

MAX_LINKS: Final = 16
MAX_SESSIONS: Final = 32
MAX_TOKENS: Final = 64
"""Tokens of a session, one for each form that is displayed; the oldest is discarded."""

FAILURES: Final = 10
FAILURE_SECONDS: Final = 60.0
"""After so many wrong codes of one peer in so much time, its wrong codes are answered and not
recorded until the time has passed. A valid code always signs in: 256 random bits cannot be guessed,
and people behind one address must not lock each other out."""

MAX_PEERS: Final = 256
"""Peers whose wrong codes are counted; the one that failed least recently is discarded."""

_RANDOM_BYTES: Final = 32


class LinkInvalid(NotAuthorized):
    """The code of a link is unknown, expired or used."""

    code = "link-invalid"


class TokenInvalid(RequestError):
    """A change came without a token of this session, or with one that is used or too old."""

    code = "csrf"


class NewTokens:
    """Tokens for the forms of one page, which a thread makes. `Session.accept` makes them valid."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self.made: list[tuple[str, str]] = []

    def __call__(self, change: str) -> str:
        """Return a new token for one change.

        Args:
            change: the path to which the form is sent. The token is valid for this path only.
        """
        token = _new(self._random)
        self.made.append((token, change))
        return token


@dataclass(slots=True)
class Session:
    """A person who is signed in.

    Attributes:
        caller: who it is; each operation is made in this name and with these rights.
        ends_at: monotonic time of its end.
        used_at: monotonic time of the last request of the person.
    """

    caller: Caller
    ends_at: float
    used_at: float
    _random: Callable[[int], bytes] = field(repr=False)
    _tokens: OrderedDict[bytes, str] = field(default_factory=OrderedDict, repr=False)

    def new_tokens(self) -> NewTokens:
        """Return a maker of tokens for the forms of one page."""
        return NewTokens(self._random)

    def accept(self, tokens: Iterable[tuple[str, str]]) -> None:
        """Make tokens valid that `NewTokens` has made, each for its change."""
        for token, change in tokens:
            self._tokens[_digest(token)] = change
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)

    def spend(self, token: str, change: str) -> None:
        """Accept a token once.

        Raises:
            TokenInvalid: it is not valid for this change, or was used.
        """
        if self._tokens.pop(_digest(token), None) != change:
            raise TokenInvalid(
                "this form was sent already, or is too old; check the values and send it again"
            )


class Sessions:
    """All links and sessions.

    Args:
        monotonic: monotonic clock, in seconds.
        random: returns a number of random bytes.
    """

    def __init__(
        self, monotonic: Callable[[], float], random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._monotonic = monotonic
        self._random = random
        self._links: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def link(self, caller: Caller) -> str:
        """Return the code of a new link, with which `caller` can sign in once."""
        code = _new(self._random)
        self._links[_digest(code)] = caller, self._monotonic() + LINK_SECONDS
        while len(self._links) > MAX_LINKS:
            self._links.popitem(last=False)
        return code

    def sign_in(self, code: str, peer: str = "") -> tuple[str, Session]:
        """Use the code of a link; return the secret of the new session, and the session.

        Args:
            peer: address of the client without its port.

        Raises:
            LinkInvalid: the code is not valid.
            Overloaded: the code is not valid, and this peer sent too many such codes.
        """
        now = self._monotonic()
        caller, expires = self._links.pop(_digest(code), (None, 0.0))
        if caller is None or expires <= now:
            self._note_failure(peer, now)
            raise LinkInvalid("this link was used already, has expired, or is not of this broker")
        return self._begin(caller, now)

    def _note_failure(self, peer: str, now: float) -> None:
        """Count a wrong code of a peer.

        Raises:
            Overloaded: the peer sent too many.
        """
        failures = self._failures.setdefault(peer, deque(maxlen=FAILURES))
        self._failures.move_to_end(peer)
        while len(self._failures) > MAX_PEERS:
            self._failures.popitem(last=False)
        if len(failures) == FAILURES and failures[0] > now - FAILURE_SECONDS:
            raise Overloaded("too many wrong codes from this address; make a new link")
        failures.append(now)

    def of_secret(self, secret: str, *, use: bool = True) -> Session | None:
        """Return the session with this secret, which a cookie has; None if it has ended.

        Args:
            use: whether this is a request of the person, which extends the session; a page that
                reloads itself is none.
        """
        key = _digest(secret)
        session = self._sessions.get(key)
        if session is None:
            return None
        now = self._monotonic()
        if now >= min(session.ends_at, session.used_at + IDLE_SECONDS):
            del self._sessions[key]
            return None
        if use:
            session.used_at = now
        return session

    def of_certificate(self, digest: str, caller: Caller) -> Session:
        """Return the session of a client certificate; begin one if there is none.

        Args:
            digest: identifies the certificate.
            caller: what the certificate's roles allow now.
        """
        secret = f"certificate {digest}"  # no value of a cookie: it has a space
        session = self.of_secret(secret)
        if session is None:
            _, session = self._begin(caller, self._monotonic(), secret)
        session.caller = caller
        return session

    def end(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(secret), None)

    def _begin(self, caller: Caller, now: float, secret: str = "") -> tuple[str, Session]:
        secret = secret or _new(self._random)
        session = Session(caller, now + SESSION_SECONDS, now, self._random)
        self._sessions[_digest(secret)] = session
        while len(self._sessions) > MAX_SESSIONS:
            oldest = min(self._sessions, key=lambda key: self._sessions[key].used_at)
            del self._sessions[oldest]
        return secret, session


def _new(random: Callable[[int], bytes]) -> str:
    return urlsafe_b64encode(random(_RANDOM_BYTES)).rstrip(b"=").decode()


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
