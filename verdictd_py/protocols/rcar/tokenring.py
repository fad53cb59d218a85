"""Keys of attestation tokens and challenges that brokers share, and their rotation.

All brokers of a site have the same ring and choose from it by the time alone. A new key is
published `PUBLISH` before it signs, so that every broker accepts it when the first one signs with
it. The key before it is accepted for `OVERLAP` after that, longer than any token or challenge is
valid. So no guest notices a rotation:

    published           signs_from            signs_from + OVERLAP
    |  the old key signs  |  the new key signs  |
    |  both are accepted  |  both are accepted  |  the new key is accepted

Challenges are sealed with a key that is derived from the key of tokens (`challenges`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from verdictd_py.encoding import decode_base64, encode_base64
from verdictd_py.errors import RequestError, SessionInvalid, StorageError, TokenInvalid
from verdictd_py.protocols.rcar import challenges, jose, tokens
from verdictd_py.protocols.rcar.challenges import Challenges
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.tokens import AttestedGuest, IssuedToken, TokenContent, Tokens

PUBLISH: Final = timedelta(minutes=2)
"""Time from the publication of a key until it signs; brokers read the ring more often."""

OVERLAP: Final = max(tokens.LIFETIME, challenges.LIFETIME) + timedelta(minutes=2)
"""Time for which a key is accepted after the next one signs: the lifetime of what it signed, and
differences between the clocks of brokers."""

MAX_KEYS: Final = 16
"""Maximum number of keys in a document. A usual one has two."""

_VERSION: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RingKey:
    """Key of the ring.

    Attributes:
        signs_from: time from which it signs, until the next key does.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    signs_from: datetime


class RingUnreadable(StorageError):
    """The stored document is not one of token keys."""


def new_key(signs_from: datetime) -> RingKey:
    """Generate a key."""
    return RingKey(ec.generate_private_key(ec.SECP256R1()), signs_from)


def key_id(key: RingKey) -> str:
    """Return the id of a key, which its tokens and the key set have as `kid`."""
    return str(jose.public_jwk(key.key.public_key())["kid"])


def rotated(keys: Sequence[RingKey], now: datetime) -> tuple[RingKey, ...]:
    """Return the keys with a new one that signs soon, without those that are no longer accepted.

    The first key signs at once: nothing was signed by another.

    Raises:
        StorageError: there would be more than `MAX_KEYS`, which no broker reads.
    """
    current = accepted(keys, now)
    if len(current) >= MAX_KEYS:
        raise StorageError(
            f"{MAX_KEYS} token keys are still accepted; wait {OVERLAP.seconds // 60} minutes"
        )
    return (*current, new_key(now + PUBLISH if current else now))


def accepted(keys: Sequence[RingKey], now: datetime) -> tuple[RingKey, ...]:
    """Return the keys whose tokens are accepted at this time or later, the oldest first."""
    ordered = sorted(keys, key=lambda key: key.signs_from)
    signing = [key for key in ordered if key.signs_from <= now - OVERLAP]
    return tuple(ordered[max(len(signing) - 1, 0) :])


def encode(keys: Sequence[RingKey]) -> bytes:
    """Return the document that brokers share: a secret."""
    members = [
        {
            "key": encode_base64(
                key.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            ),
            "signs_from": key.signs_from.timestamp(),
        }
        for key in keys
    ]
    return json.dumps({"version": _VERSION, "keys": members}).encode()


def parse(content: bytes) -> tuple[RingKey, ...]:
    """Return the keys of a document.

    Raises:
        RingUnreadable: it has another form. The message repeats nothing of it.
    """
    try:
        document = json.loads(content)
        if document["version"] != _VERSION or not 0 < len(document["keys"]) <= MAX_KEYS:
            raise ValueError
        return tuple(
            RingKey(_private_key(member["key"]), _time(member["signs_from"]))
            for member in document["keys"]
        )
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm, RequestError, RecursionError):
        raise RingUnreadable(
            "the stored token keys are damaged, or of a newer version; restore them, or remove "
            "them: guests then attest again"
        ) from None


def _private_key(text: object) -> ec.EllipticCurvePrivateKey:
    if not isinstance(text, str):
        raise TypeError
    key = load_der_private_key(decode_base64(text, "key"), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TypeError
    return key


def _time(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not 0 <= value < 253402300800:  # NaN, or after the year 9999
        raise ValueError
    return _EPOCH + timedelta(seconds=value)


@dataclass(frozen=True, slots=True)
class _Usable:
    """Key of the ring, prepared for use."""

    signs_from: datetime
    tokens: Tokens
    challenges: Challenges


class TokenRing:
    """Issuer and reader of tokens and challenges with the keys of a ring.

    Args:
        root: see `Tokens`.

    Attributes:
        problem: why there are no keys yet; for the error of guests' requests.
        generation: changes when keys were replaced: what was verified before may no longer be
            accepted.
    """

    def __init__(self, root: str | None = None) -> None:
        self._root = root
        self._keys: tuple[_Usable, ...] = ()
        self.problem = "they have not been read yet"
        self.generation = 0

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey, root: str | None = None) -> Self:
        """Return a ring of one key that is never rotated."""
        ring = cls(root)
        ring.replace((RingKey(key, _EPOCH),))
        return ring

    @property
    def public_keys(self) -> tuple[ec.EllipticCurvePublicKey, ...]:
        """All keys, for comparison with those of administrators."""
        return tuple(key.tokens.key.public_key() for key in self._keys)

    def replace(self, keys: Sequence[RingKey]) -> None:
        """Use these keys from now on."""
        known = {key.tokens.key.private_numbers(): key for key in self._keys}
        usable = []
        for key in sorted(keys, key=lambda key: key.signs_from):
            before = known.get(key.key.private_numbers())
            if before is None or before.signs_from != key.signs_from:
                own = Tokens(key.key, self._root)
                before = _Usable(key.signs_from, own, Challenges.of(key.key))
            usable.append(before)
        if tuple(usable) != self._keys:
            self._keys = tuple(usable)
            self.generation += 1

    def issue(self, guest: AttestedGuest, *, now: datetime, policy: str) -> IssuedToken:
        """Issue a token with the key that signs now; see `Tokens.issue`.

        Raises:
            AttestationError: see `Tokens.issue`.
            StorageError: there are no keys.
        """
        return self._signing(now).tokens.issue(guest, now=now, policy=policy)

    def read(self, token: str, *, now: datetime) -> TokenContent:
        """Verify a token with each key that is accepted now; see `Tokens.read`.

        Raises:
            TokenInvalid: see `Tokens.read`.
            StorageError: there are no keys.
        """
        refusal: TokenInvalid | None = None
        for key in self._accepted(now):
            try:
                return key.tokens.read(token, now=now)
            except TokenInvalid as error:
                # Expired tokens are those of the key that verifies them: more than "unknown key".
                refusal = error if refusal is None or type(error) is not TokenInvalid else refusal
        if refusal is None:
            raise self._missing()
        raise refusal

    def seal(self, challenge: Challenge, *, session: str, now: datetime, expires: datetime) -> str:
        """Return a sealed challenge; see `Challenges.seal`.

        Raises:
            StorageError: there are no keys.
        """
        return self._signing(now).challenges.seal(challenge, session=session, expires=expires)

    def open(self, sealed: str, *, session: str, now: datetime) -> Challenge:
        """Return a challenge that was sealed with a key that is accepted now; see `Challenges`.

        Raises:
            SessionInvalid: see `Challenges.open`.
            StorageError: there are no keys.
        """
        refusal: SessionInvalid | None = None
        for key in self._accepted(now):
            try:
                return key.challenges.open(sealed, session=session, now=now)
            except SessionInvalid as error:
                refusal = error
        if refusal is None:
            raise self._missing()
        raise refusal

    def jwks(self) -> dict[str, Any]:
        """Return the key set that verifies the tokens of all brokers (RFC 7517, 5)."""
        return {"keys": [key for own in self._keys for key in own.tokens.jwks()["keys"]]}

    def _signing(self, now: datetime) -> _Usable:
        """Return the newest key that signs already; the first one if the clock is behind."""
        if not self._keys:
            raise self._missing()
        return next((key for key in reversed(self._keys) if key.signs_from <= now), self._keys[0])

    def _accepted(self, now: datetime) -> tuple[_Usable, ...]:
        """Return the keys whose tokens are accepted, the newest first."""
        last = len(self._keys) - 1
        return tuple(
            key
            for number, key in reversed(list(enumerate(self._keys)))
            if number == last or self._keys[number + 1].signs_from > now - OVERLAP
        )

    def _missing(self) -> StorageError:
        return StorageError(f"the token keys cannot be used: {self.problem}")
