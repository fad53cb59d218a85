"""One RCAR session of a guest with a key broker (KBS) over HTTP, as real guests have it.

It follows the documents and shares no code with the broker, so that it can test any KBS.
Sources: wire-rcar.md; guest-components, attestation-agent/kbs_protocol/src/client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import httpx

from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.guest.rcar.errors import AnswerInvalid, KbsRefused, read_object, refusal, text_of
from verdictd_py.guest.rcar.evidence import AdditionalEvidence, Evidence, no_devices
from verdictd_py.guest.rcar.http import KbsLink, exchange
from verdictd_py.guest.rcar.jwe import open_answer
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import (
    Challenge,
    JsonObject,
    MemberOrder,
    Version,
    attestation,
    auth_request,
    device_digest,
    runtime_digest,
    selected_algorithm,
)
from verdictd_py.guest.rcar.token import Token

MAX_ATTEMPTS: Final = 3
"""Attempts to get one resource (kbs_protocol/src/client/mod.rs, KBS_GET_RESOURCE_MAX_ATTEMPT)."""

_UNAUTHORIZED: Final = 401


@dataclass(frozen=True, slots=True)
class RcarGuest:
    """A guest: its evidence, its key and its protocol version.

    Attributes:
        key: default: a new key of the kind that guests of that version generate.
        init_data: the text of its init-data file; None for none.
        additional: source of the evidence of its devices.
        order: order of the JSON that the evidence of versions before 0.4.0 covers.
        offer_hashes: whether `auth` offers hash algorithms.
        tee_key: `key`, or the generated one.
    """

    evidence: Evidence
    version: Version = Version.V0_4_0
    key: TeeKey | None = None
    init_data: str | None = None
    additional: AdditionalEvidence = no_devices
    order: MemberOrder = MemberOrder.SORTED
    offer_hashes: bool = True
    tee_key: TeeKey = field(init=False)

    def __post_init__(self) -> None:
        key = self.key or TeeKey.new(TeeKeyKind.usual(self.version), self.version)
        object.__setattr__(self, "tee_key", key)


class RcarSession:
    """Requests of one guest, which share its cookies.

    `handshake` and `resource` do what guests do; `auth`, `answer`, `attest` and `get` are
    their steps, for callers that change something between the steps.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        guest: RcarGuest,
        *,
        timeout_seconds: float,
        token: Token | None,
    ) -> None:
        self._http = http
        self._guest = guest
        self._timeout_seconds = timeout_seconds
        self._passport = token
        self._token: Token | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        link: KbsLink,
        guest: RcarGuest,
        *,
        token: Token | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> AsyncIterator[RcarSession]:
        """Open a session, without sending anything.

        Args:
            token: requests resources with this token and without a handshake, as guests do
                whose attestation-agent attests for them; `guest.key` is the key in it.
            transport: replaces the network, for tests.

        Raises:
            ConfigError: the link's CA file cannot be read.
        """
        async with link.client(transport) as http:
            yield cls(http, guest, timeout_seconds=link.timeout_seconds, token=token)

    @property
    def guest(self) -> RcarGuest:
        return self._guest

    @property
    def cookies(self) -> httpx.Cookies:
        """Cookies that the KBS has set."""
        return self._http.cookies

    async def auth(self) -> Challenge:
        """Request a challenge.

        Raises:
            KbsRefused: the KBS does not support this version or this TEE.
            BrokerRefused: the answer cannot be read by guests.
        """
        guest = self._guest
        request = auth_request(guest.version, guest.evidence.tee, offer_hashes=guest.offer_hashes)
        answer = await self._post("/auth", request)
        nonce = text_of(answer, "nonce", "the challenge")
        if "extra-params" not in answer:  # guests' decoders require it
            raise AnswerInvalid("the challenge lacks 'extra-params'")
        try:
            return Challenge(nonce, selected_algorithm(answer["extra-params"]))
        except ValueError as error:
            raise AnswerInvalid(f"the challenge cannot be answered: {error}") from None

    async def answer(self, challenge: Challenge) -> JsonObject:
        """Return the body that answers a challenge, with fresh evidence, without sending it.

        Raises:
            ConfigError: this guest has no evidence, or its version does not support all of it.
        """
        guest = self._guest
        jwk = guest.tee_key.jwk
        devices = await asyncio.to_thread(guest.additional, device_digest(challenge, jwk))
        digest = runtime_digest(
            guest.version, challenge, jwk, additional_evidence=devices, order=guest.order
        )
        evidence: JsonValue = await asyncio.to_thread(guest.evidence.collect, digest)
        return attestation(
            guest.version,
            challenge,
            jwk,
            evidence,
            additional_evidence=devices,
            init_data=guest.init_data,
        )

    async def attest(self, body: JsonObject) -> Token:
        """Send the answer to a challenge and return the token.

        Raises:
            KbsRefused: the guest was refused, or could not be appraised.
            BrokerRefused: the answer cannot be read by guests.
        """
        answer = await self._post("/attest", body)
        self._token = Token.parse(text_of(answer, "token", "the answer"))
        return self._token

    async def handshake(self) -> Token:
        """Attest: request a challenge, send evidence, return the token; the session has a cookie.

        Raises:
            ConfigError, KbsRefused, BrokerRefused: as in its steps.
        """
        return await self.attest(await self.answer(await self.auth()))

    async def token(self) -> Token:
        """Return a token that is valid now: the last one, or that of a new handshake.

        Raises:
            AnswerInvalid: even the new token is not valid now.
            ConfigError, KbsRefused, BrokerRefused: as in a handshake.
        """
        now = datetime.now(UTC)
        if self._token is not None:
            try:
                self._token.check(now)
            except AnswerInvalid:
                self._token = None
        token = self._token or await self.handshake()
        token.check(datetime.now(UTC))
        return token

    async def get(self, path: str) -> SecretBytes:
        """Request a resource once.

        Args:
            path: follows `/resource/`, sent unchanged, with its query if any.

        Raises:
            KbsRefused: 401 without a session or token, 403 by policy, 404 if it is missing.
            BrokerRefused: this guest cannot read or decrypt the answer.
        """
        token = "" if self._passport is None else self._passport.content.reveal().decode()
        what = f"GET of {path}"
        status, body = await exchange(
            self._http, "GET", f"/resource/{path}", token=token, seconds=self._timeout_seconds
        )
        if status != httpx.codes.OK:
            raise refusal(what, status, body)
        return open_answer(body, self._guest.tee_key, self._guest.version)

    async def resource(self, path: ResourcePath) -> SecretBytes:
        """Return a resource as guests get it: request it first, and attest after a 401.

        1. At most `MAX_ATTEMPTS` requests.
        2. After a 401 with an error body: a handshake, then another request. Guests give up
           after a 401 without one.
        3. No handshake with a token from another source.

        Raises:
            ConfigError, KbsRefused, BrokerRefused: as in `get` and `handshake`.
        """
        for _ in range(MAX_ATTEMPTS):  # 1
            try:
                return await self.get(str(path))
            except KbsRefused as error:
                renewable = error.status == _UNAUTHORIZED and error.has_body  # 2
                if not renewable or self._passport is not None:  # 3
                    raise
                refused = error
            await self.handshake()
        raise refused

    async def _post(self, path: str, body: JsonObject) -> JsonObject:
        status, answer = await exchange(
            self._http, "POST", path, json=body, seconds=self._timeout_seconds
        )
        if status != httpx.codes.OK:
            raise refusal(path, status, answer)
        return read_object(answer, f"the answer to {path}")
