"""Guests that attest over several HTTP requests: challenge, evidence, then resources.

What the attested channel is for RATS-TLS, a token is here: it says which guest was accepted,
and to which key everything is encrypted. The session that a cookie names holds one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.evidence import NO_TEE, Evidence
from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.trust import HARDWARE_UNKNOWN
from verdictd_py.encoding import shown
from verdictd_py.errors import (
    EvidenceFormat,
    GuestRefused,
    SessionInvalid,
    SessionMissing,
    TokenInvalid,
)
from verdictd_py.ports import SessionStore, Tees
from verdictd_py.protocols.rcar import evidence, jwe, messages
from verdictd_py.protocols.rcar.challenges import Challenges
from verdictd_py.protocols.rcar.ear import Assessment
from verdictd_py.protocols.rcar.messages import Attestation, Challenge
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.tokens import LIFETIME, Attested, Tokens

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
        unpinned: Callable[[str], Awaitable[tuple[str, ...]]],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._appraiser = appraiser
        self._releaser = releaser
        self._sessions = sessions
        self._tokens = tokens
        self._challenges = Challenges.of(tokens.key)
        self._clock = clock
        self._unpinned = unpinned
        self._tees = appraiser.tees
        self._random = random

    async def begin(self, body: bytes) -> Begun:
        """A challenge for whoever asks.

        Raises:
            RequestError: another shape.
            ProtocolVersionRefused, EvidenceFormat: version or TEE is not served.
            StorageError: sessions cannot be kept.
        """
        version, named = messages.parse_auth(body)
        tee = self._tees.of_rcar(named)
        name = NO_TEE if tee is None else tee.name
        if not self._appraiser.serves(name):
            raise EvidenceFormat(f"evidence of {shown(named)} is not served here")
        nonce, answer = messages.challenge(self._random(messages.NONCE_BYTES))
        session_id = self._random(_ID_BYTES).hex()
        stored, now = _name(session_id), self._clock()
        expires = now + SESSION_LIFETIME
        sealed = self._challenges.seal(
            Challenge(version, name, nonce), session=stored, expires=expires
        )
        await self._sessions.begin(stored, sealed, now=now, expires=expires)
        return Begun(session_id, answer)

    async def attest(self, session_id: str | None, body: bytes, *, address: str) -> bytes:
        """A token for a guest that answers its challenge.

        1. The challenge is spent now, whatever comes of it. 2. The answer's shape. 3. The
        appraiser judges. 4. The session holds the token from now on; what is too long for it
        is kept beside it.

        Raises:
            SessionMissing, SessionInvalid: there is no such challenge, or no longer.
            RequestError: another shape.
            GuestRefused: it is told its code and the id of its appraisal, nothing else.
            NotJudged, StorageError: it cannot be judged now.
        """
        if session_id is None:
            raise SessionMissing("there is no session; begin with /auth")
        name = _name(session_id)
        now = self._clock()
        sealed = await self._sessions.take_challenge(name, now=now)  # 1
        if sealed is None:
            raise SessionInvalid("the session is over, or its challenge was answered already")
        challenge = self._challenges.open(sealed, session=name, now=now)
        answer = messages.parse_attest(body, challenge.version)  # 2
        read = partial(_read, answer, challenge, self._tees)
        appraisal = await self._appraiser.admit(read, address=address)  # 3
        if not appraisal.accepted:
            raise GuestRefused(appraisal.told)
        key = TeeKey.parse(answer.jwk, challenge.version)
        assessment = await self._assessment(appraisal)
        now = self._clock()
        expires = now + LIFETIME
        issued = self._tokens.issue(  # 4
            Attested(appraisal, key, challenge.version), now=now, assessment=assessment
        )
        if issued.kept is not None:
            digest, claims = issued.kept
            await self._sessions.keep(digest, claims, now=now, expires=expires)
        await self._sessions.attested(name, issued.token, now=now, expires=expires)
        return messages.token(issued.token)

    async def resource(
        self, path: ResourcePath, *, session_id: str | None, token: str | None, address: str
    ) -> bytes:
        """A resource (or a key of that name), encrypted to the guest's key.

        1. A token, or that of the session. 2. Whom it is about, all claims of the appraisal
        together: no policy is asked about a part. 3. This broker still serves its TEE. 4. The
        releaser decides, records and hands out.

        Args:
            token: what the guest shows itself; looked at before its session.

        Raises:
            SessionMissing, SessionInvalid, TokenInvalid: the guest has to attest (again).
            NotAuthorized: not for this guest, whether it is there or not.
            NotFound, StorageError: it cannot be served.
        """
        if token is None:
            token = await self._token_of(session_id)  # 1
        attested = await self._attested(token)  # 2
        if not self._appraiser.serves(attested.appraisal.tee or NO_TEE):  # 3
            raise TokenInvalid("the token is about a TEE that is not served here; attest again")
        peer = AppraisedPeer.of(attested.appraisal, address=address)  # 4
        found = await self._releaser.find(peer, path)
        content = self._releaser.hand_out(peer, found)
        return jwe.encrypt(content, attested.key, attested.version, random=self._random)

    async def _attested(self, token: str) -> Attested:
        now = self._clock()
        shown = self._tokens.read(token, now=now)
        if shown.kept is None:
            return shown.attested()
        return shown.attested(await self._sessions.kept(shown.kept, now=now))

    async def _assessment(self, appraisal: Appraisal) -> Assessment:
        tee, found = self._tees.get(appraisal.tee), appraisal.evidence
        if tee is None or found is None:
            return Assessment(NO_TEE, {"hardware": HARDWARE_UNKNOWN})
        unpinned = await self._unpinned(tee.name)
        return Assessment(tee.documents.policy, tee.trust(found, unpinned))

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


def _read(answer: Attestation, challenge: Challenge, tees: Tees, now: datetime) -> Evidence:
    del now  # evidence is as old as its nonce
    return evidence.read(answer, challenge, tees)
