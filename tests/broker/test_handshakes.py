"""HTTP guests: one challenge, one answer; nothing without a record, nothing about a part."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwcrypto import jwe as other_jwe
from jwcrypto import jwk as other_jwk

from tests.broker.support import (
    NOW,
    MemoryEvents,
    MemoryKeys,
    MemoryResources,
    ScriptedPolicy,
    ScriptedVerifier,
)
from tests.rcar.support import jwk_of, private_key
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.handshakes import Handshakes
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.evidence import JsonValue, Tee, VerifiedEvidence
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.ports import EventValue, Kind, SessionStore
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import (
    CollateralUnavailable,
    EvidenceFormat,
    GuestRefused,
    NotAuthorized,
    NotFound,
    ProtocolVersionRefused,
    QuoteInvalid,
    Reason,
    RequestError,
    SessionInvalid,
    SessionMissing,
    StorageError,
    TokenInvalid,
    VerdictdError,
)
from verdictd_py.rcar.tokens import Tokens
from verdictd_py.storage.sessions import MemorySessionStore
from verdictd_py.verifiers.sample import InsecureSampleVerifier

PATH = ResourcePath.parse("repo/type/tag")
SECRET = SecretBytes(b"the secret")
ADDRESS = "192.0.2.1:5"
QUOTE = b"\x04\0\x02\0\x81\0\0\0" + bytes(60)
AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
TOKEN_KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Release:
    """A release policy that keeps what it was asked."""

    refused: bool = False
    asked: list[tuple[AppraisedPeer, str]] = field(default_factory=list)

    async def failures(self, peer: AppraisedPeer, kind: Kind, path: str) -> tuple[Reason, ...]:
        self.asked.append((peer, path))
        return (Reason("release", "", "", "no"),) if self.refused else ()


class BrokenSessions(MemorySessionStore):
    """Fails where it is told to."""

    broken = ""

    def _check(self, name: str) -> None:
        if name == self.broken:
            raise StorageError("the sessions cannot be used: disk full")

    async def begin(self, *args: Any, **more: Any) -> None:
        self._check("begin")
        await super().begin(*args, **more)

    async def take_challenge(self, *args: Any, **more: Any) -> str | None:
        self._check("take_challenge")
        return await super().take_challenge(*args, **more)

    async def attested(self, *args: Any, **more: Any) -> None:
        self._check("attested")
        await super().attested(*args, **more)

    async def token(self, *args: Any, **more: Any) -> str | None:
        self._check("token")
        return await super().token(*args, **more)

    async def keep(self, *args: Any, **more: Any) -> None:
        self._check("keep")
        await super().keep(*args, **more)

    async def kept(self, *args: Any, **more: Any) -> str | None:
        self._check("kept")
        return await super().kept(*args, **more)


class RefusesToRecord(MemoryEvents):
    def record(self, event: str, /, **fields: EventValue) -> None:
        if event == "secret.released":
            raise StorageError("the audit trail cannot be written")
        super().record(event, **fields)


@dataclass
class Broker:
    """The use cases on ports in memory."""

    now: datetime = NOW
    anyone: bool = False
    claims: dict[str, JsonValue] = field(default_factory=lambda: {"mrTd": "ab"})
    sessions: SessionStore = field(default_factory=MemorySessionStore)
    events: MemoryEvents = field(default_factory=MemoryEvents)
    release: Release = field(default_factory=Release)
    verifier: ScriptedVerifier = field(default_factory=ScriptedVerifier)
    policy: ScriptedPolicy = field(default_factory=ScriptedPolicy)
    resources: MemoryResources = field(default_factory=lambda: MemoryResources({PATH: SECRET}))
    unpinned: tuple[str, ...] | Exception = ()
    more: dict[Tee, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        appraiser = Appraiser(
            verifiers={Tee.TDX: self.verifier, **self.more},
            policy=self.policy,
            clock=lambda: self.now,
            events=self.events,
            insecure_accept_anyone=self.anyone,
        )
        releaser = Releaser(
            keys=MemoryKeys({KeyId.parse("default/kek/1"): SecretBytes(b"k" * 32)}),
            resources=self.resources,
            policy=self.release,
            events=self.events,
        )
        self.use_cases = Handshakes(
            appraiser=appraiser,
            releaser=releaser,
            sessions=self.sessions,
            tokens=Tokens(TOKEN_KEY),
            clock=lambda: self.now,
            unpinned=self._unpinned,
        )

    async def _unpinned(self, tee: Tee) -> tuple[str, ...]:
        if isinstance(self.unpinned, Exception):
            raise self.unpinned
        return self.unpinned

    async def begin(self) -> tuple[str, str]:
        """Id of a new session, and its nonce."""
        begun = await self.use_cases.begin(AUTH)
        return begun.session_id, json.loads(begun.answer)["nonce"]

    def vouch(self, nonce: str, jwk: dict[str, JsonValue]) -> None:
        """The verifier finds that the hardware vouches for this answer."""
        text = json.dumps(
            {"additional-evidence": "", "nonce": nonce, "tee-pubkey": jwk},
            sort_keys=True,
            separators=(",", ":"),
        )
        report_data = hashlib.sha384(text.encode()).digest().ljust(64, b"\0")
        self.verifier.answer = VerifiedEvidence(
            Tee.TDX, report_data, self.claims, "UpToDate", (), "cd" * 32
        )

    async def attest(self, kind: str = "P-256", **changes: Any) -> tuple[str, str]:
        """A whole handshake: id of the session, and the token."""
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


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA-OAEP-256"])
async def test_a_guest(broker: Broker, kind: str) -> None:
    session_id, token = await broker.attest(kind)
    for found in (await broker.get(session_id), await broker.get(token=token)):
        assert opened(found, kind) == SECRET.reveal()
    peer, path = broker.release.asked[0]
    assert (peer.tee, peer.address, dict(peer.claims)) == (
        Tee.TDX,
        ADDRESS,
        {"mrTd": "ab", "initData": None},
    )
    assert path == str(PATH)
    (accepted,) = broker.events.named("guest.accepted")
    for released in broker.events.named("secret.released"):
        assert released["appraisal"] == accepted["appraisal"] == peer.appraisal_id


async def test_challenges_and_ids_are_all_different(broker: Broker) -> None:
    begun = [await broker.begin() for _ in range(50)]
    assert len({session_id for session_id, _ in begun}) == 50
    assert len({nonce for _, nonce in begun}) == 50
    assert {len(session_id) for session_id, _ in begun} == {64}
    assert {len(base64.b64decode(nonce)) for _, nonce in begun} == {32}


async def test_the_store_never_sees_an_id() -> None:
    """Whoever reads the store cannot show a session's cookie."""
    seen: list[str] = []

    class Watched(MemorySessionStore):
        async def begin(self, name: str, challenge: str, **more: Any) -> None:
            seen.extend((name, challenge))
            await super().begin(name, challenge, **more)

    session_id, _ = await Broker(sessions=Watched()).begin()
    assert seen
    assert all(session_id not in text for text in seen)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", RequestError),
        (b'{"version":"0.3.0","tee":"tdx"}', ProtocolVersionRefused),
        (b'{"version":"0.4.0","tee":"sample"}', EvidenceFormat),
        (b'{"version":"0.4.0","tee":"none"}', EvidenceFormat),
        (b'{"version":"0.4.0","tee":"nvidia"}', EvidenceFormat),
    ],
)
async def test_who_gets_no_challenge(
    broker: Broker, body: bytes, error: type[VerdictdError]
) -> None:
    with pytest.raises(error):
        await broker.use_cases.begin(body)


# One challenge, one answer.


async def test_no_session(broker: Broker) -> None:
    with pytest.raises(SessionMissing):
        await broker.use_cases.attest(None, answer("x"), address=ADDRESS)
    with pytest.raises(SessionMissing):
        await broker.get()
    for unknown in ("", "0" * 64, "\ud800", "é" * 300):
        with pytest.raises(SessionInvalid):
            await broker.use_cases.attest(unknown, answer("x"), address=ADDRESS)
        with pytest.raises(SessionInvalid):
            await broker.get(unknown)
    assert not broker.verifier.asked


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda nonce: b"{", id="no JSON"),
        pytest.param(lambda nonce: answer("b3RoZXI="), id="another nonce"),
        pytest.param(lambda nonce: answer(nonce, **{"runtime-data": None}), id="no shape"),
        pytest.param(lambda nonce: answer(nonce, "P-521"), id="another key"),
    ],
)
async def test_a_challenge_is_spent_by_a_bad_answer(broker: Broker, bad: Any) -> None:
    """Otherwise one challenge would be good for as many guesses as fit into five minutes."""
    session_id, nonce = await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    with pytest.raises((RequestError, GuestRefused)):
        await broker.use_cases.attest(session_id, bad(nonce), address=ADDRESS)
    with pytest.raises(SessionInvalid, match="answered already"):
        await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
    with pytest.raises(SessionInvalid):
        await broker.get(session_id)


async def test_a_challenge_is_spent_by_a_good_answer(broker: Broker) -> None:
    session_id, nonce = await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
    with pytest.raises(SessionInvalid, match="answered already"):
        await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
    assert len(broker.verifier.asked) == 1
    assert opened(await broker.get(session_id)) == SECRET.reveal()  # and the session stays good


async def test_of_many_answers_at_once_one_is_judged(broker: Broker) -> None:
    session_id, nonce = await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    results = await asyncio.gather(
        *(broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS) for _ in range(100)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, bytes) for each in results) == 1
    assert sum(isinstance(each, SessionInvalid) for each in results) == 99
    assert len(broker.verifier.asked) == 1


async def test_a_challenge_ends(broker: Broker) -> None:
    for seconds, good in ((299, True), (300, False)):
        broker.now = NOW
        session_id, nonce = await broker.begin()
        broker.vouch(nonce, jwk_of("P-256"))
        broker.now = NOW + timedelta(seconds=seconds)
        if good:
            assert await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
        else:
            with pytest.raises(SessionInvalid):
                await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)


async def test_an_answer_is_for_its_own_session(broker: Broker) -> None:
    """The network between sees everything: it swaps the cookies of two guests."""
    (_, nonce), (other_id, _) = await broker.begin(), await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    with pytest.raises(GuestRefused, match="nonce-mismatch"):
        await broker.use_cases.attest(other_id, answer(nonce), address=ADDRESS)


async def test_an_old_challenge_put_into_the_store_is_worth_nothing(broker: Broker) -> None:
    """Whoever can write the store has the old evidence of a guest answer again."""
    session_id, nonce = await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    name = hashlib.sha256(session_id.encode()).hexdigest()
    old = await broker.sessions.take_challenge(name, now=NOW)
    assert old is not None
    later = NOW + timedelta(hours=1)
    forged = json.dumps(["0.4.0", "tdx", nonce, later.timestamp()])
    other_id = "1" * 64
    other = hashlib.sha256(other_id.encode()).hexdigest()
    for now, put_id, put_name, text in (
        (later, session_id, name, old),  # over
        (NOW, other_id, other, old),  # of another session
        (NOW, session_id, name, forged),
        (NOW, session_id, name, f"{old.split()[0]} {forged}"),
        (NOW, session_id, name, ""),
    ):
        broker.now = now
        await broker.sessions.begin(put_name, text, now=now, expires=now + timedelta(hours=1))
        with pytest.raises(SessionInvalid):
            await broker.use_cases.attest(put_id, answer(nonce), address=ADDRESS)
    assert not broker.verifier.asked


async def test_a_token_put_into_the_store_is_worth_nothing(broker: Broker) -> None:
    session_id, _ = await broker.begin()
    name = hashlib.sha256(session_id.encode()).hexdigest()
    _, good = await broker.attest()
    for text in ("", "a.b.c", good[:-4] + "AAAA"):
        await broker.sessions.attested(name, text, now=NOW, expires=NOW + timedelta(hours=9))
        with pytest.raises(TokenInvalid):
            await broker.get(session_id)
    # A good one is as good as it was: for the guest whose key is in it, until it ends.
    await broker.sessions.attested(name, good, now=NOW, expires=NOW + timedelta(hours=9))
    assert opened(await broker.get(session_id)) == SECRET.reveal()
    broker.now = NOW + timedelta(minutes=5)
    with pytest.raises(TokenInvalid, match="over"):
        await broker.get(session_id)


# Who is refused, and what becomes of it.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda broker: setattr(broker.verifier, "answer", QuoteInvalid("no")), "quote-invalid"),
        (
            lambda broker: setattr(broker.policy, "answer", (Reason("x", "", "", "no"),)),
            "policy-refused",
        ),
        (
            lambda broker: setattr(
                broker.verifier, "answer", replace(broker.verifier.answer, report_data=bytes(64))
            ),
            "binding-mismatch",
        ),
    ],
)
async def test_a_refused_guest_learns_a_code_and_gets_nothing(
    broker: Broker, change: Any, code: str
) -> None:
    session_id, nonce = await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    change(broker)
    with pytest.raises(GuestRefused) as caught:
        await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
    (refused,) = broker.events.named("guest.refused")
    told = f"refused: {code}; ask the operator about {refused['appraisal']}"
    assert str(caught.value) == told
    with pytest.raises(SessionInvalid):
        await broker.get(session_id)
    assert not broker.release.asked


@pytest.mark.parametrize(
    "error", [CollateralUnavailable("later"), StorageError("the policies cannot be read")]
)
async def test_who_cannot_be_judged_now_is_told_so(broker: Broker, error: VerdictdError) -> None:
    session_id, nonce = await broker.begin()
    broker.verifier.answer = error
    with pytest.raises(type(error)):
        await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
    with pytest.raises(SessionInvalid):
        await broker.get(session_id)


async def test_unpinned_measurements_that_cannot_be_read(broker: Broker) -> None:
    broker.unpinned = StorageError("the reference data cannot be read")
    with pytest.raises(StorageError):
        await broker.attest()


async def test_unpinned_measurements_are_a_warning(broker: Broker) -> None:
    broker.unpinned = ("rtmr1",)
    _, token = await broker.attest()
    payload = token.split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert said["submods"]["cpu0"]["ear.status"] == "warning"


# Resources.


async def test_a_key_as_a_resource(broker: Broker) -> None:
    session_id, _ = await broker.attest()
    path = ResourcePath.parse("default/kek/1")
    assert opened(await broker.get(session_id, path=path)) == b"k" * 32
    (released,) = broker.events.named("secret.released")
    assert (released["what"], released["path"]) == ("key", "keys/default/kek/1")


async def test_the_token_is_looked_at_first(broker: Broker) -> None:
    """A guest that shows one is judged by it, whatever its cookie is worth."""
    session_id, token = await broker.attest("P-521")
    assert opened(await broker.get("unknown", token), "P-521") == SECRET.reveal()
    for bad in ("", "x", "a.b.c", token[:-4] + "AAAA"):
        with pytest.raises(TokenInvalid):
            await broker.get(session_id, bad)


async def test_tokens_and_sessions_end(broker: Broker) -> None:
    session_id, token = await broker.attest()
    broker.now = NOW + timedelta(minutes=5)
    with pytest.raises(TokenInvalid, match="over"):
        await broker.get(token=token)
    with pytest.raises(SessionInvalid, match="attest again"):
        await broker.get(session_id)


async def test_a_session_that_has_not_attested_gets_nothing(broker: Broker) -> None:
    session_id, _ = await broker.begin()
    with pytest.raises(SessionInvalid, match="never attested"):
        await broker.get(session_id)
    assert not broker.release.asked


async def test_what_the_release_policy_keeps_back(broker: Broker) -> None:
    session_id, _ = await broker.attest()
    broker.release.refused = True
    for path in (PATH, ResourcePath.parse("there/is/none")):
        with pytest.raises(NotAuthorized):
            await broker.get(session_id, path=path)
    assert not broker.events.named("secret.released")
    broker.release.refused = False
    with pytest.raises(NotFound):
        await broker.get(session_id, path=ResourcePath.parse("there/is/none"))


async def test_nothing_is_released_without_a_record() -> None:
    broker = Broker(events=RefusesToRecord())
    session_id, _ = await broker.attest()
    with pytest.raises(StorageError, match="audit"):
        await broker.get(session_id)


async def test_a_resource_that_cannot_be_read(broker: Broker) -> None:
    session_id, _ = await broker.attest()
    broker.resources.broken.add(PATH)
    with pytest.raises(StorageError):
        await broker.get(session_id)
    assert not broker.events.named("secret.released")


# Claims that are too long for a token.

LONG: dict[str, JsonValue] = {"mrTd": "ab", "x": ["y" * 50_000], "initData": None}


async def test_the_policy_is_asked_about_all_claims_of_the_appraisal() -> None:
    broker = Broker(claims=LONG)
    session_id, token = await broker.attest()
    assert len(token) < 32 * 1024
    for ask in (broker.get(session_id), broker.get(token=token)):
        assert opened(await ask) == SECRET.reveal()
    assert [dict(peer.claims) for peer, _ in broker.release.asked] == [LONG, LONG]


@pytest.mark.parametrize("instead", [None, "", "{}", '{"x":[]}', "[]", "not JSON"])
async def test_the_policy_is_never_asked_about_a_part(instead: str | None) -> None:
    """A policy may refuse for what is left out: it must not pass because that is not there."""
    broker = Broker(claims=LONG)
    session_id, token = await broker.attest()
    payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    digest = payload["verdictd"]["kept"]
    gone = Broker(claims=LONG)  # a broker with the same key, and without what is kept
    if instead is not None:
        await gone.sessions.keep(digest, instead, now=NOW, expires=NOW + timedelta(hours=1))
    with pytest.raises(TokenInvalid, match="attest again"):
        await gone.get(token=token)
    assert not gone.release.asked
    assert opened(await broker.get(session_id)) == SECRET.reveal()


async def test_what_is_kept_outlives_no_token_and_is_renewed() -> None:
    """Guests of one image share it: the last of them decides."""
    broker = Broker(claims=LONG)
    _, first = await broker.attest()
    broker.now = NOW + timedelta(minutes=4)
    _, second = await broker.attest()
    broker.now = NOW + timedelta(minutes=8)
    assert opened(await broker.get(token=second)) == SECRET.reveal()
    with pytest.raises(TokenInvalid, match="over"):
        await broker.get(token=first)


# A session store that fails.


@pytest.mark.parametrize("broken", ["begin", "take_challenge", "keep", "attested"])
async def test_a_handshake_fails_with_its_store(broken: str) -> None:
    sessions = BrokenSessions()
    broker = Broker(sessions=sessions, claims=LONG)
    sessions.broken = broken
    with pytest.raises(StorageError, match="disk full"):
        await broker.attest()


@pytest.mark.parametrize("broken", ["token", "kept"])
async def test_a_resource_fails_with_the_session_store(broken: str) -> None:
    sessions = BrokenSessions()
    broker = Broker(sessions=sessions, claims=LONG)
    session_id, _ = await broker.attest()
    sessions.broken = broken
    with pytest.raises(StorageError, match="disk full"):
        await broker.get(session_id)
    assert not broker.release.asked
    assert not broker.events.named("secret.released")


# A broker that accepts anyone, and one that does not any more.


async def test_a_broker_that_accepts_anyone() -> None:
    """`nullverifier`: no evidence is looked at; what comes back is encrypted all the same."""
    broker = Broker(anyone=True)
    begun = await broker.use_cases.begin(b'{"version":"0.4.0","tee":"csv"}')
    body = answer("whatever", **{"tee-evidence": {"primary_evidence": None}})
    made = await broker.use_cases.attest(begun.session_id, body, address=ADDRESS)
    token = json.loads(made)["token"]
    assert opened(await broker.get(token=token)) == SECRET.reveal()
    assert not broker.verifier.asked
    peer, _ = broker.release.asked[0]
    assert (peer.tee, dict(peer.claims)) == (Tee.NONE, {})
    assert len(broker.events.named("secret.released")) == 1


async def test_also_there_the_key_must_be_one() -> None:
    broker = Broker(anyone=True)
    begun = await broker.use_cases.begin(AUTH)
    body = answer("x", **{"runtime-data": {"nonce": "x", "tee-pubkey": {"kty": "EC"}}})
    with pytest.raises(EvidenceFormat):
        await broker.use_cases.attest(begun.session_id, body, address=ADDRESS)


async def test_tokens_of_an_insecure_broker_open_nothing_at_a_secure_one() -> None:
    """The same key file, started again without the flag: five minutes are five too many."""
    _, nobody = await Broker(anyone=True).attest()
    trying = Broker(more={Tee.SAMPLE: InsecureSampleVerifier()})
    begun = await trying.use_cases.begin(b'{"version":"0.4.0","tee":"sample"}')
    nonce = json.loads(begun.answer)["nonce"]
    trying.vouch(nonce, jwk_of("P-256"))
    found = trying.verifier.answer
    assert isinstance(found, VerifiedEvidence)
    said = {"svn": "1", "report_data": base64.b64encode(found.report_data).decode()}
    body = answer(nonce, **{"tee-evidence": {"primary_evidence": said}})
    made = await trying.use_cases.attest(begun.session_id, body, address=ADDRESS)
    sample = json.loads(made)["token"]
    assert opened(await trying.get(token=sample)) == SECRET.reveal()
    secure = Broker()
    for token in (nobody, sample):
        with pytest.raises(TokenInvalid, match="not served here"):
            await secure.get(token=token)
    assert not secure.release.asked
