"""RCAR as guests speak it: one session of a guest with a key broker (KBS) over HTTP.

It knows the broker by the documents only and shares no code with it, so that it tests any.
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
"""To get one resource (kbs_protocol/src/client/mod.rs, KBS_GET_RESOURCE_MAX_ATTEMPT)."""

_UNAUTHORIZED: Final = 401


@dataclass(frozen=True, slots=True)
class RcarGuest:
    """Who asks: its evidence, its key, and the version it speaks.

    Attributes:
        key: as guests of that version make it, where left out.
        init_data: the text of its init-data file; None for none.
        additional: evidence of its devices.
        order: of the JSON that versions before 0.4.0 measure.
        offer_hashes: whether `auth` names hash algorithms.
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
    their steps, for whoever wants to change something in between.
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
        """A session that has said nothing yet.

        Args:
            token: resources are asked for with it and no handshake is made, as guests do
                whose attestation-agent attests for them; `guest.key` is the key in it.
            transport: answers in place of the network.

        Raises:
            ConfigError: the link cannot be used.
        """
        async with link.client(transport) as http:
            yield cls(http, guest, timeout_seconds=link.timeout_seconds, token=token)

    @property
    def guest(self) -> RcarGuest:
        return self._guest

    @property
    def cookies(self) -> httpx.Cookies:
        """What the KBS has set."""
        return self._http.cookies

    async def auth(self) -> Challenge:
        """Asks to be challenged.

        Raises:
            KbsRefused: not this version, or not this TEE.
            BrokerRefused: no answer that guests can read.
        """
        guest = self._guest
        request = auth_request(guest.version, guest.evidence.tee, offer_hashes=guest.offer_hashes)
        answer = await self._post("/auth", request)
        nonce = text_of(answer, "nonce", "the challenge")
        if "extra-params" not in answer:  # guests' decoders need it
            raise AnswerInvalid("the challenge lacks 'extra-params'")
        try:
            return Challenge(nonce, selected_algorithm(answer["extra-params"]))
        except ValueError as error:
            raise AnswerInvalid(f"the challenge cannot be met: {error}") from None

    async def answer(self, challenge: Challenge) -> JsonObject:
        """The body that answers a challenge, with fresh evidence; nothing is sent.

        Raises:
            ConfigError: this guest has no evidence, or its version cannot carry it all.
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
        """Sends an answer to a challenge.

        Raises:
            KbsRefused: the evidence was judged and refused, or could not be judged.
            BrokerRefused: no answer that guests can read.
        """
        answer = await self._post("/attest", body)
        self._token = Token.parse(text_of(answer, "token", "the answer"))
        return self._token

    async def handshake(self) -> Token:
        """All of it: challenge, evidence, token. The cookie is this session's from then on.

        Raises:
            ConfigError, KbsRefused, BrokerRefused: as in its steps.
        """
        return await self.attest(await self.answer(await self.auth()))

    async def token(self) -> Token:
        """A token that is valid now: the last one, or that of a new handshake.

        Raises:
            AnswerInvalid: not even a new one is valid now.
            ConfigError, KbsRefused, BrokerRefused: as in a handshake.
        """
        now = datetime.now(UTC)
        if self._token is not None:
            try:
                self._token.check(now)
            except AnswerInvalid:
                self._token = None
        found = self._token or await self.handshake()
        found.check(datetime.now(UTC))
        return found

    async def get(self, path: str) -> SecretBytes:
        """Asks for a resource once.

        Args:
            path: behind `/resource/`, sent as it stands, with a query if it has one.

        Raises:
            KbsRefused: 401 without a session or token, 403 by policy, 404 not there.
            BrokerRefused: no answer that this guest can open.
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
        """A resource, as guests get it: they ask first, and attest when they are told to.

        1. It is asked for at most `MAX_ATTEMPTS` times.
        2. A 401 with an error body: a new handshake, then again. One without stops guests.
        3. With a token from elsewhere there is no handshake.

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
