"""Releases to HTTP guests: never without a record, never with a part of the claims."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.broker.http_guests import (
    ADDRESS,
    AUTH,
    PATH,
    SECRET,
    BrokenSessions,
    Broker,
    RefusesToRecord,
    answer,
    opened,
)
from tests.support.memory import NOW
from tests.support.rcar import jwk_of
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    EvidenceFormat,
    NotAuthorized,
    NotFound,
    SessionInvalid,
    StorageError,
    TokenInvalid,
)
from verdictd_py.protocols.rcar import jose
from verdictd_py.tees.sample.verifier import InsecureSampleVerifier


@pytest.fixture
def broker() -> Broker:
    return Broker()


async def test_a_key_as_a_resource(broker: Broker) -> None:
    session_id, _ = await broker.attest()
    path = ResourcePath.parse("default/kek/1")
    assert opened(await broker.get(session_id, path=path)) == b"k" * 32
    (released,) = broker.events.named("secret.released")
    assert (released["what"], released["path"]) == ("key", "keys/default/kek/1")


async def test_the_token_has_precedence(broker: Broker) -> None:
    """If a guest sends a token, its cookie is ignored."""
    session_id, token = await broker.attest("P-521")
    assert opened(await broker.get("unknown", token), "P-521") == SECRET.reveal()
    for bad in ("", "x", "a.b.c", token[:-4] + "AAAA"):
        with pytest.raises(TokenInvalid):
            await broker.get(session_id, bad)


async def test_tokens_and_sessions_expire(broker: Broker) -> None:
    session_id, token = await broker.attest()
    broker.now = NOW + timedelta(minutes=5)
    with pytest.raises(TokenInvalid, match="expired"):
        await broker.get(token=token)
    with pytest.raises(SessionInvalid, match="attest again"):
        await broker.get(session_id)


async def test_a_token_is_verified_at_most_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all by the broker that issued it; another one with its key verifies it once."""
    verified: list[str] = []
    verify = jose.Verifier.verify

    def counted(self: jose.Verifier, token: str, **more: Any) -> dict[str, Any]:
        verified.append(token)
        return verify(self, token, **more)

    monkeypatch.setattr(jose.Verifier, "verify", counted)
    session_id, token = await broker.attest()
    for ask in (broker.get(session_id), broker.get(token=token), broker.get(session_id)):
        assert opened(await ask) == SECRET.reveal()
    assert not verified
    other = Broker()
    for _ in range(2):
        assert opened(await other.get(token=token)) == SECRET.reveal()
    assert verified == [token]


async def test_a_session_that_has_not_attested_gets_nothing(broker: Broker) -> None:
    session_id, _ = await broker.begin()
    with pytest.raises(SessionInvalid, match="never attested"):
        await broker.get(session_id)
    assert not broker.release.asked


async def test_a_resource_that_the_release_policy_denies(broker: Broker) -> None:
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


async def test_the_policy_receives_all_claims_of_the_appraisal() -> None:
    broker = Broker(claims=LONG)
    session_id, token = await broker.attest()
    assert len(token) < 32 * 1024
    for ask in (broker.get(session_id), broker.get(token=token)):
        assert opened(await ask) == SECRET.reveal()
    assert [dict(peer.claims) for peer, _ in broker.release.asked] == [LONG, LONG]


@pytest.mark.parametrize("instead", [None, "", "{}", '{"x":[]}', "[]", "not JSON"])
async def test_the_policy_never_receives_a_part_of_the_claims(instead: str | None) -> None:
    """A policy may refuse because of an omitted claim, so it must receive every claim."""
    broker = Broker(claims=LONG)
    session_id, token = await broker.attest()
    payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    digest = payload["verdictd"]["kept"]
    gone = Broker(claims=LONG)  # a broker with the same key, and without what is kept
    if instead is not None:
        await gone.sessions.add_claims(digest, instead, now=NOW, expires=NOW + timedelta(hours=1))
    with pytest.raises(TokenInvalid, match="attest again"):
        await gone.get(token=token)
    assert not gone.release.asked
    assert opened(await broker.get(session_id)) == SECRET.reveal()


async def test_stored_claims_expire_with_the_last_token() -> None:
    """Guests of one image share stored claims; the last token determines the expiry."""
    broker = Broker(claims=LONG)
    _, first = await broker.attest()
    broker.now = NOW + timedelta(minutes=4)
    _, second = await broker.attest()
    broker.now = NOW + timedelta(minutes=8)
    assert opened(await broker.get(token=second)) == SECRET.reveal()
    with pytest.raises(TokenInvalid, match="expired"):
        await broker.get(token=first)


# A session store that fails.


@pytest.mark.parametrize("broken", ["add_challenge", "take_challenge", "add_claims", "add_token"])
async def test_a_handshake_fails_with_its_store(broken: str) -> None:
    sessions = BrokenSessions()
    broker = Broker(sessions=sessions, claims=LONG)
    sessions.broken = broken
    with pytest.raises(StorageError, match="disk full"):
        await broker.attest()


@pytest.mark.parametrize("broken", ["token", "claims"])
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
    """`nullverifier`: evidence is ignored; the response is encrypted nevertheless."""
    broker = Broker(anyone=True)
    begun = await broker.use_cases.begin(b'{"version":"0.4.0","tee":"csv"}')
    body = answer("whatever", **{"tee-evidence": {"primary_evidence": None}})
    made = await broker.use_cases.attest(begun.session_id, body, address=ADDRESS)
    token = json.loads(made)["token"]
    assert opened(await broker.get(token=token)) == SECRET.reveal()
    assert not broker.verifier.asked
    peer, _ = broker.release.asked[0]
    assert (peer.tee, dict(peer.claims)) == ("none", {})
    assert len(broker.events.named("secret.released")) == 1


async def test_a_broker_that_accepts_anyone_still_needs_a_valid_key() -> None:
    broker = Broker(anyone=True)
    begun = await broker.use_cases.begin(AUTH)
    body = answer("x", **{"runtime-data": {"nonce": "x", "tee-pubkey": {"kty": "EC"}}})
    with pytest.raises(EvidenceFormat):
        await broker.use_cases.attest(begun.session_id, body, address=ADDRESS)


async def test_tokens_of_an_insecure_broker_are_refused_by_a_secure_one() -> None:
    """The broker is restarted with the same key file and without the flag."""
    _, nobody = await Broker(anyone=True).attest()
    trying = Broker(more={"sample": InsecureSampleVerifier()})
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
