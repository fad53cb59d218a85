"""Use cases of guests that attest over several HTTP requests: challenge, evidence, resources.

A token replaces the attested channel of RATS-TLS: it states which guest was accepted, and the
key that everything is encrypted to. The session that a cookie names holds one token.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from verdictd_py.broker.appraiser import Appraiser, EvidenceReader
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.evidence import NO_TEE, Evidence
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import encode_base64, quoted
from verdictd_py.errors import (
    AttestationError,
    EvidenceFormat,
    GuestRefused,
    SessionInvalid,
    SessionMissing,
    TokenInvalid,
)
from verdictd_py.offload import offload
from verdictd_py.ports import NO_QUERY, SessionStore, Tees
from verdictd_py.protocols.rcar import challenges, evidence, messages
from verdictd_py.protocols.rcar.knowntokens import KnownTokens
from verdictd_py.protocols.rcar.messages import (
    Attestation,
    AuthRequest,
    Challenge,
    ReleasedResource,
)
from verdictd_py.protocols.rcar.tokenring import TokenRing
from verdictd_py.protocols.rcar.tokens import LIFETIME, AttestedGuest, TokenContent
from verdictd_py.stages import Stage, measured

SESSION_LIFETIME: Final = challenges.LIFETIME
"""Lifetime of a session from its challenge; once attested, it lives as long as its token."""

_ID_BYTES: Final = 32

Admission = Callable[[str | None, str], AbstractContextManager[object]]
"""Counts a request of an attested guest, by platform and digest of its token, while it lasts."""


def _unlimited(platform: str | None, token: str) -> AbstractContextManager[object]:
    del platform, token
    return nullcontext()


@dataclass(frozen=True, slots=True)
class NewSession:
    """A new session: the challenge, and the id that the guest must send again."""

    session_id: str = field(repr=False)
    challenge: Challenge


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session whose challenge was taken from the store and can be answered once.

    Attributes:
        name: the key under which the session is stored.
    """

    name: str = field(repr=False)
    challenge: Challenge


class Handshakes:
    """Use cases of HTTP guests, one for each request.

    They take and return typed values, which `protocols.rcar` reads and writes.

    Args:
        appraiser: appraises HTTP guests as it appraises every guest.
        releaser: releases secrets to guests that were accepted.
        ring: keys of tokens and challenges.
    """

    def __init__(
        self,
        *,
        appraiser: Appraiser,
        releaser: Releaser,
        sessions: SessionStore,
        ring: TokenRing,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._appraiser = appraiser
        self._releaser = releaser
        self._sessions = sessions
        self._tokens = KnownTokens(ring)
        self._ring = ring
        self._clock = clock
        self._tees = appraiser.tees
        self._random = random

    async def begin(self, request: AuthRequest) -> NewSession:
        """Create a session with a challenge.

        Raises:
            EvidenceFormat: the TEE is not served.
            StorageError: the session cannot be stored.
        """
        known = self._tees.of_rcar(request.tee)
        tee = NO_TEE if known is None else known.name
        if not self._appraiser.serves(tee):
            named = quoted(request.tee) if known is None else tee
            raise EvidenceFormat(f"evidence of {named} is not served here")
        nonce = encode_base64(self._random(messages.NONCE_BYTES))
        challenge = Challenge(request.version, tee, nonce)
        session_id = self._random(_ID_BYTES).hex()
        name, now = _name(session_id), self._clock()
        expires = now + SESSION_LIFETIME
        sealed = self._ring.seal(challenge, session=name, now=now, expires=expires)
        await self._sessions.add_challenge(name, sealed, now=now, expires=expires)
        return NewSession(session_id, challenge)

    async def open(self, session_id: str | None) -> OpenSession:
        """Take the challenge of a session, which cannot be answered again from now on.

        Call this before the answer's body is parsed; otherwise a guest could try any number
        of malformed bodies against one challenge.

        Raises:
            SessionMissing: the guest sent no session id.
            SessionInvalid: the session is unknown or expired, or its challenge was answered.
            StorageError: the session cannot be read.
        """
        if session_id is None:
            raise SessionMissing("there is no session; begin with /auth")
        name, now = _name(session_id), self._clock()
        sealed = await self._sessions.take_challenge(name, now=now)
        if sealed is None:
            raise SessionInvalid(
                "the session is unknown or expired, or its challenge was answered already; "
                "begin with /auth"
            )
        return OpenSession(name, self._ring.open(sealed, session=name, now=now))

    async def attest(self, session: OpenSession, answer: Attestation, *, address: str) -> str:
        """Return the token of a guest that answered its challenge and is accepted.

        1. Appraise the guest. 2. Issue the token, and store claims that do not fit into it.
        3. Store the token in the session.

        Raises:
            GuestRefused: only the code and the id of the appraisal are disclosed to the guest.
            NotAppraised, StorageError: the guest cannot be appraised now.
            ValueError: the answer is for the challenge of another session (internal error).
        """
        if answer.challenge is not session.challenge:
            raise ValueError("the attestation is for another challenge")
        with measured(Stage.EVIDENCE):
            read = await offload(answer.body_bytes, lambda: _read(answer, self._tees))
        appraisal = await self._appraiser.admit(read, address=address)  # 1
        if not appraisal.accepted:
            raise GuestRefused(appraisal.text_for_guest)
        guest = AttestedGuest(appraisal, answer.key, session.challenge.version)
        now = self._clock()
        expires = now + LIFETIME
        issued = self._tokens.issue(guest, now=now, policy=self._policy_of(appraisal))  # 2
        if (stored := issued.stored_claims) is not None:
            await self._sessions.add_claims(stored.digest, stored.text, now=now, expires=expires)
        await self._sessions.add_token(  # 3
            session.name, issued.token, now=now, expires=expires
        )
        return issued.token

    async def resource(
        self,
        path: ResourcePath,
        *,
        session_id: str | None,
        token: str | None,
        address: str,
        query: Mapping[str, str] = NO_QUERY,
        admission: Admission = _unlimited,
    ) -> ReleasedResource:
        """Release a resource, or a key of that name, with the key to encrypt it to.

        1. Take the guest's token, or the token of its session. 2. Read the appraisal in it, with
        all its claims, so that no policy decides on a part of them. 3. Check that this broker
        still serves the guest's TEE. 4. Release the resource, if the release policy allows it.

        Args:
            token: the token that the guest sent, if any; it has precedence over the session.
            query: query of the request's URL, for the release policy.
            admission: entered with the guest's platform and a digest of its token in step 4; it
                raises an error of its own if the guest has too many requests.

        Raises:
            SessionMissing, SessionInvalid, TokenInvalid: the guest must attest (again).
            NotAuthorized: the release policy denies it, whether it exists or not.
            NotFound, StorageError: the resource cannot be served.
        """
        if token is None:
            token = await self._token_of(session_id)  # 1
        now = self._clock()
        known = self._tokens.read(token, now=now)  # 2
        attested = await self._attested(known.content, now)
        if not self._appraiser.serves(attested.appraisal.tee or NO_TEE):  # 3
            raise TokenInvalid("the token is for a TEE that is not served here; attest again")
        peer = AppraisedPeer.of(attested.appraisal, address=address)  # 4
        with admission(attested.appraisal.platform, known.digest):
            stored = await self._releaser.find(peer, path, query)
            content = await self._releaser.release(peer, stored)
        return ReleasedResource(content, attested.key, attested.version)

    def release(self, now: datetime) -> None:
        """Release the memory of expired tokens, which an idle broker would otherwise retain."""
        self._tokens.release(now)

    async def _attested(self, content: TokenContent, now: datetime) -> AttestedGuest:
        if content.stored_digest is None:
            return content.guest()
        return content.guest(await self._sessions.claims(content.stored_digest, now=now))

    def _policy_of(self, appraisal: Appraisal) -> str:
        tee = self._tees.get(appraisal.tee)
        return NO_TEE if tee is None else tee.documents.policy

    async def _token_of(self, session_id: str | None) -> str:
        if session_id is None:
            raise SessionMissing("there is neither a session nor a token; attest first")
        token = await self._sessions.token(_name(session_id), now=self._clock())
        if token is None:
            raise SessionInvalid("the session is expired, or was never attested; attest again")
        return token


def _read(answer: Attestation, tees: Tees) -> EvidenceReader:
    """Read the evidence now, and return a function that returns it or raises its error."""
    try:
        found = evidence.read(answer, tees)
    except AttestationError as error:
        refusal = error.with_traceback(None)

        def refused(_: datetime) -> Evidence:
            raise refusal

        return refused
    return lambda _: found


def _name(session_id: str) -> str:
    """Return the name that a session is stored under; its id cannot be derived from it."""
    return hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()
