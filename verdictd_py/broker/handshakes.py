"""Guests that attest over several HTTP requests: challenge, evidence, then resources.

What the attested channel is for RATS-TLS, a token is here: it says which guest was accepted,
and to which key everything is encrypted. The session that a cookie names holds one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.evidence import Evidence, Tee
from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.ports import SessionStore
from verdictd_py.errors import EvidenceFormat, GuestRefused, SessionInvalid, SessionMissing
from verdictd_py.rcar import evidence, jwe, messages
from verdictd_py.rcar.messages import Attestation, Challenge
from verdictd_py.rcar.teekey import TeeKey
from verdictd_py.rcar.tokens import LIFETIME, Attested, Tokens
from verdictd_py.rcar.versions import Version

SESSION_LIFETIME: Final = timedelta(minutes=5)
"""From the challenge to its answer, and from there to the end of the token."""

_ID_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Begun:
    """A new session: what the guest gets, and the id it has to show again."""

    session_id: str = field(repr=False)
    answer: bytes = field(repr=False)


class Handshakes:
    """The use cases of HTTP guests, each a request.

    Args:
        appraiser: judges them, as it judges every guest.
        releaser: gives those that were accepted what they ask for.
        unpinned: measurements of a TEE that have no reference values, for tokens.
    """

    def __init__(
        self,
        *,
        appraiser: Appraiser,
        releaser: Releaser,
        sessions: SessionStore,
        tokens: Tokens,
        clock: Callable[[], datetime],
        unpinned: Callable[[Tee], Awaitable[tuple[str, ...]]],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._appraiser = appraiser
        self._releaser = releaser
        self._sessions = sessions
        self._tokens = tokens
        self._clock = clock
        self._unpinned = unpinned
        self._random = random

    async def begin(self, body: bytes) -> Begun:
        """A challenge for whoever asks.

        Raises:
            RequestError: another shape.
            ProtocolVersionRefused, EvidenceFormat: version or TEE is not served.
            StorageError: sessions cannot be kept.
        """
        version, tee = messages.parse_auth(body)
        if not self._appraiser.serves(tee):
            raise EvidenceFormat(f"evidence of {tee} is not served here")
        nonce, answer = messages.challenge(self._random(messages.NONCE_BYTES))
        session_id = self._random(_ID_BYTES).hex()
        await self._sessions.begin(
            _name(session_id),
            json.dumps([version.value, tee.value, nonce]),
            expires=self._clock() + SESSION_LIFETIME,
        )
        return Begun(session_id, answer)

    async def attest(self, session_id: str | None, body: bytes, *, address: str) -> bytes:
        """A token for a guest that answers its challenge.

        1. The challenge is spent now, whatever comes of it. 2. The answer's shape. 3. The
        appraiser judges. 4. The session holds the token from now on.

        Raises:
            SessionMissing, SessionInvalid: there is no such challenge, or no longer.
            RequestError: another shape.
            GuestRefused: it is told its code and the id of its appraisal, nothing else.
            CollateralUnavailable, StorageError: it cannot be judged now.
        """
        if session_id is None:
            raise SessionMissing("there is no session; begin with /auth")
        name = _name(session_id)
        stored = await self._sessions.take_challenge(name, now=self._clock())  # 1
        if stored is None:
            raise SessionInvalid("the session is over, or its challenge was answered already")
        challenge = _challenge(stored)
        answer = messages.parse_attest(body, challenge.version)  # 2
        read = partial(_read, answer, challenge)
        appraisal = await self._appraiser.admit(read, address=address)  # 3
        if not appraisal.accepted:
            raise GuestRefused(appraisal.told)
        key = TeeKey.parse(answer.jwk, challenge.version)
        now = self._clock()
        token = self._tokens.issue(  # 4
            Attested(appraisal, key, challenge.version),
            now=now,
            open_measurements=await self._unpinned(challenge.tee),
        )
        await self._sessions.attested(name, token, expires=now + LIFETIME)
        return messages.token(token)

    async def resource(
        self, path: ResourcePath, *, session_id: str | None, token: str | None, address: str
    ) -> bytes:
        """A resource (or a key of that name), encrypted to the guest's key.

        Args:
            token: what the guest shows itself; looked at before its session.

        Raises:
            SessionMissing, SessionInvalid, TokenInvalid: the guest has to attest (again).
            NotAuthorized: not for this guest, whether it is there or not.
            NotFound, StorageError: it cannot be served.
        """
        if token is None:
            token = await self._token_of(session_id)
        attested = self._tokens.read(token, now=self._clock())
        peer = AppraisedPeer.of(attested.appraisal, address=address)
        found = await self._releaser.find(peer, path)
        content = self._releaser.hand_out(peer, found)
        return jwe.encrypt(content, attested.key, attested.version)

    async def _token_of(self, session_id: str | None) -> str:
        if session_id is None:
            raise SessionMissing("there is neither a session nor a token; attest first")
        token = await self._sessions.token(_name(session_id), now=self._clock())
        if token is None:
            raise SessionInvalid("the session is over, or was never attested; attest again")
        return token


def _name(session_id: str) -> str:
    """What a session is stored under: whoever reads the store cannot show its id."""
    return hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()


def _challenge(stored: str) -> Challenge:
    version, tee, nonce = json.loads(stored)
    return Challenge(Version(version), Tee(tee), nonce)


def _read(answer: Attestation, challenge: Challenge, now: datetime) -> Evidence:
    del now  # evidence is as old as its nonce
    return evidence.read(answer, challenge)
