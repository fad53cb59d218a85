"""Use cases of HTTP guests with ports in memory, and guests with scripted evidence."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwcrypto import jwe as other_jwe
from jwcrypto import jwk as other_jwk

from tests.support.events import RecordedEvents
from tests.support.memory import (
    NOW,
    MemoryKeys,
    MemoryResources,
    ScriptedPolicy,
    ScriptedVerifier,
)
from tests.support.rcar import jwk_of, private_key
from tests.support.tees import TEES
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.handshakes import Handshakes
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.events import SecretReleased
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason, StorageError
from verdictd_py.ports import NO_QUERY, Failures, Kind, SessionStore
from verdictd_py.protocols.rcar import jwe, messages
from verdictd_py.protocols.rcar.tokenring import TokenRing
from verdictd_py.storage.sessions import MemorySessionStore

PATH = ResourcePath.parse("repo/type/tag")
SECRET = SecretBytes(b"the secret")
ADDRESS = "192.0.2.1:5"
QUOTE = b"\x04\0\x02\0\x81\0\0\0" + bytes(60)
AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
TOKEN_KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Release:
    """A release policy that records its requests."""

    refused: bool = False
    asked: list[tuple[AppraisedPeer, str]] = field(default_factory=list)

    async def failures(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> Failures:
        self.asked.append((peer, path))
        return Failures.of([Reason("release", "", "", "no")] if self.refused else ())


class BrokenSessions(MemorySessionStore):
    """Session store whose operation `broken` fails."""

    broken = ""

    def _check(self, name: str) -> None:
        if name == self.broken:
            raise StorageError("the sessions cannot be used: disk full")

    async def add_challenge(self, *args: Any, **more: Any) -> None:
        self._check("add_challenge")
        await super().add_challenge(*args, **more)

    async def take_challenge(self, *args: Any, **more: Any) -> str | None:
        self._check("take_challenge")
        return await super().take_challenge(*args, **more)

    async def add_token(self, *args: Any, **more: Any) -> None:
        self._check("add_token")
        await super().add_token(*args, **more)

    async def token(self, *args: Any, **more: Any) -> str | None:
        self._check("token")
        return await super().token(*args, **more)

    async def add_claims(self, *args: Any, **more: Any) -> None:
        self._check("add_claims")
        await super().add_claims(*args, **more)

    async def claims(self, *args: Any, **more: Any) -> str | None:
        self._check("claims")
        return await super().claims(*args, **more)


class RefusesToRecord(RecordedEvents):
    def record(self, event: Event) -> None:
        if isinstance(event, SecretReleased):
            raise StorageError("the audit trail cannot be written")
        super().record(event)


@dataclass
class FirstResponse:
    """Response to a guest's first request."""

    session_id: str
    answer: bytes


@dataclass
class Guests:
    """Use cases with the bodies of HTTP guests, read and written as by the listener."""

    handshakes: Handshakes

    async def begin(self, body: bytes) -> FirstResponse:
        session = await self.handshakes.begin(messages.parse_auth(body))
        return FirstResponse(session.session_id, messages.challenge(session.challenge))

    async def attest(self, session_id: str | None, body: bytes, *, address: str) -> bytes:
        session = await self.handshakes.open(session_id)
        read = messages.parse_attest(body, session.challenge)
        return messages.token(await self.handshakes.attest(session, read, address=address))

    async def resource(self, path: ResourcePath, **more: Any) -> bytes:
        found = await self.handshakes.resource(path, **more)
        return jwe.encrypt(found.content, found.key, found.version, random=os.urandom)


@dataclass
class Broker:
    """A broker for HTTP guests with ports in memory."""

    now: datetime = NOW
    anyone: bool = False
    claims: dict[str, JsonValue] = field(default_factory=lambda: {"mrTd": "ab"})
    sessions: SessionStore = field(default_factory=MemorySessionStore)
    events: RecordedEvents = field(default_factory=RecordedEvents)
    release: Release = field(default_factory=Release)
    verifier: ScriptedVerifier = field(default_factory=ScriptedVerifier)
    policy: ScriptedPolicy = field(default_factory=ScriptedPolicy)
    resources: MemoryResources = field(default_factory=lambda: MemoryResources({PATH: SECRET}))
    trust: TrustVector = field(default_factory=lambda: {"hardware": 2, "executables": 2})
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        appraiser = Appraiser(
            tees=TEES,
            verifiers={"tdx": self.verifier, **self.more},
            policy=self.policy,
            clock=lambda: self.now,
            events=self.events,
            insecure_accept_anyone=self.anyone,
            trust=self._trust,
        )
        releaser = Releaser(
            keys=MemoryKeys({KeyId.parse("default/kek/1"): SecretBytes(b"k" * 32)}),
            resources=self.resources,
            policy=self.release,
            events=self.events,
        )
        self.handshakes = Handshakes(
            appraiser=appraiser,
            releaser=releaser,
            sessions=self.sessions,
            ring=TokenRing.of(TOKEN_KEY),
            clock=lambda: self.now,
        )
        self.use_cases = Guests(self.handshakes)

    async def _trust(self, found: VerifiedEvidence) -> TrustVector:
        del found
        return self.trust

    async def begin(self) -> tuple[str, str]:
        """Return the id of a new session, and its nonce."""
        begun = await self.use_cases.begin(AUTH)
        return begun.session_id, json.loads(begun.answer)["nonce"]

    def vouch(self, nonce: str, jwk: dict[str, JsonValue]) -> None:
        """Make the verifier return the report data of this answer."""
        text = json.dumps(
            {"additional-evidence": "", "nonce": nonce, "tee-pubkey": jwk},
            sort_keys=True,
            separators=(",", ":"),
        )
        report_data = hashlib.sha384(text.encode()).digest().ljust(64, b"\0")
        self.verifier.answer = VerifiedEvidence(
            "tdx", report_data, self.claims, "UpToDate", (), "cd" * 32
        )

    async def attest(self, kind: str = "P-256", **changes: Any) -> tuple[str, str]:
        """Complete a handshake, and return the id of the session and the token."""
        session_id, nonce = await self.begin()
        self.vouch(nonce, jwk_of(kind))
        body = answer(nonce, kind, **changes)
        made = await self.use_cases.attest(session_id, body, address=ADDRESS)
        return session_id, json.loads(made)["token"]

    async def get(
        self, session_id: str | None = None, token: str | None = None, path: ResourcePath = PATH
    ) -> bytes:
        return await self.use_cases.resource(
            path, session_id=session_id, token=token, address=ADDRESS
        )


def answer(nonce: str, kind: str = "P-256", /, **changes: Any) -> bytes:
    evidence = {"quote": base64.b64encode(QUOTE).decode(), "cc_eventlog": None}
    body = {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": jwk_of(kind)},
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        **changes,
    }
    return json.dumps(body).encode()


def opened(text: bytes, kind: str = "P-256") -> bytes:
    pem = private_key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found = other_jwe.JWE()
    found.deserialize(text.decode(), other_jwk.JWK.from_pem(pem))
    assert isinstance(found.payload, bytes)
    return found.payload
