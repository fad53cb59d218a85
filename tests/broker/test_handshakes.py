"""HTTP guests: one answer to each challenge, and no trust in the store's content."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.broker.http_guests import ADDRESS, PATH, SECRET, Broker, answer, opened
from tests.support.memory import NOW
from tests.support.rcar import jwk_of
from verdictd_py.domain.trust import HARDWARE_UNKNOWN
from verdictd_py.errors import (
    CollateralUnavailable,
    EvidenceFormat,
    GuestRefused,
    NotAppraised,
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
from verdictd_py.protocols.rcar import messages, teekey
from verdictd_py.protocols.rcar.teekey import text_members
from verdictd_py.protocols.rcar.versions import Version
from verdictd_py.storage.sessions import MemorySessionStore


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
        "tdx",
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
    """Read access to the store does not disclose the cookie of a session."""
    seen: list[str] = []

    class Watched(MemorySessionStore):
        async def add_challenge(self, name: str, challenge: str, **more: Any) -> None:
            seen.extend((name, challenge))
            await super().add_challenge(name, challenge, **more)

    session_id, _ = await Broker(sessions=Watched()).begin()
    assert seen
    assert all(session_id not in text for text in seen)


@pytest.mark.parametrize("tee", ["nvidia", "az-tdx-vtpm", "TDX", "tdx ", "", "é\n", "x" * 9999])
async def test_the_name_of_an_unknown_tee_is_bounded(broker: Broker, tee: str) -> None:
    body = json.dumps({"version": "0.4.0", "tee": tee}).encode()
    with pytest.raises(EvidenceFormat, match="is not served here") as refused:
        await broker.use_cases.begin(body)
    assert len(str(refused.value)) < 150
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (b"", RequestError, "not valid JSON"),
        (b'{"version":"0.3.0","tee":"tdx"}', ProtocolVersionRefused, "0.3.0"),
        (b'{"version":"0.4.0","tee":"sample"}', EvidenceFormat, "evidence of sample is not"),
        (b'{"version":"0.4.0","tee":"none"}', EvidenceFormat, "evidence of 'none' is not"),
        (b'{"version":"0.4.0","tee":"nvidia"}', EvidenceFormat, "evidence of 'nvidia' is not"),
    ],
)
async def test_guests_that_get_no_challenge(
    broker: Broker, body: bytes, error: type[VerdictdError], text: str
) -> None:
    with pytest.raises(error, match=text):
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
    """Otherwise a guest could try any number of answers within five minutes."""
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


async def test_only_one_of_many_concurrent_answers_is_appraised(broker: Broker) -> None:
    session_id, nonce = await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    results = await asyncio.gather(
        *(broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS) for _ in range(100)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, bytes) for each in results) == 1
    assert sum(isinstance(each, SessionInvalid) for each in results) == 99
    assert len(broker.verifier.asked) == 1


async def test_a_challenge_expires(broker: Broker) -> None:
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
    """An attacker on the network swaps the cookies of two guests."""
    (_, nonce), (other_id, _) = await broker.begin(), await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    with pytest.raises(GuestRefused, match="nonce-mismatch"):
        await broker.use_cases.attest(other_id, answer(nonce), address=ADDRESS)


async def test_an_answer_read_for_another_challenge_is_an_internal_error(broker: Broker) -> None:
    (one, nonce), (other, _) = await broker.begin(), await broker.begin()
    broker.vouch(nonce, jwk_of("P-256"))
    first, second = await broker.handshakes.open(one), await broker.handshakes.open(other)
    attestation = messages.parse_attest(answer(nonce), first.challenge)
    with pytest.raises(ValueError, match="another challenge"):
        await broker.handshakes.attest(second, attestation, address=ADDRESS)
    assert not broker.verifier.asked


async def test_the_key_of_a_guest_is_parsed_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Walk 2: evidence, binding and token use one parsed key."""
    parsed: list[Any] = []

    def counted(jwk: Any) -> dict[str, str]:
        parsed.append(jwk)
        return text_members(jwk)

    monkeypatch.setattr(teekey, "text_members", counted)
    await broker.attest()
    assert len(parsed) == 1


async def test_an_old_challenge_put_into_the_store_is_refused(broker: Broker) -> None:
    """An attacker with write access to the store replays a guest's old evidence."""
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
        (later, session_id, name, old),  # expired
        (NOW, other_id, other, old),  # of another session
        (NOW, session_id, name, forged),
        (NOW, session_id, name, f"{old.split()[0]} {forged}"),
        (NOW, session_id, name, ""),
    ):
        broker.now = now
        await broker.sessions.add_challenge(
            put_name, text, now=now, expires=now + timedelta(hours=1)
        )
        with pytest.raises(SessionInvalid):
            await broker.use_cases.attest(put_id, answer(nonce), address=ADDRESS)
    assert not broker.verifier.asked


async def test_a_token_put_into_the_store_is_refused(broker: Broker) -> None:
    session_id, _ = await broker.begin()
    name = hashlib.sha256(session_id.encode()).hexdigest()
    _, good = await broker.attest()
    for text in ("", "a.b.c", good[:-4] + "AAAA"):
        await broker.sessions.add_token(name, text, now=NOW, expires=NOW + timedelta(hours=9))
        with pytest.raises(TokenInvalid):
            await broker.get(session_id)
    # A good one is as good as it was: for the guest whose key is in it, until it ends.
    await broker.sessions.add_token(name, good, now=NOW, expires=NOW + timedelta(hours=9))
    assert opened(await broker.get(session_id)) == SECRET.reveal()
    broker.now = NOW + timedelta(minutes=5)
    with pytest.raises(TokenInvalid, match="expired"):
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
async def test_a_refused_guest_receives_only_a_code(broker: Broker, change: Any, code: str) -> None:
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
    ("error", "code"),
    [
        (CollateralUnavailable("later"), "collateral-unavailable"),
        (StorageError("the policies cannot be read"), "internal-error"),
        (RuntimeError("a bug"), "internal-error"),
    ],
)
async def test_a_guest_that_cannot_be_appraised_receives_no_verdict(
    broker: Broker, error: Exception, code: str
) -> None:
    session_id, nonce = await broker.begin()
    broker.verifier.answer = error
    with pytest.raises(NotAppraised, check=lambda raised: raised.code == code):
        await broker.use_cases.attest(session_id, answer(nonce), address=ADDRESS)
    with pytest.raises(SessionInvalid):
        await broker.get(session_id)


async def test_the_token_and_the_release_policy_have_the_trust_of_the_appraisal(
    broker: Broker,
) -> None:
    broker.trust = {"hardware": 2, "executables": 33}
    session_id, token = await broker.attest()
    broker.trust = {"hardware": 2, "executables": 2}  # a later pin does not rate this guest
    await broker.get(session_id)
    assert broker.release.asked[-1][0].trust == {"hardware": 2, "executables": 33}
    assert submodule(token)["ear.status"] == "warning"


async def test_a_token_names_the_policy_and_the_trust_of_its_tee(broker: Broker) -> None:
    _, token = await broker.attest()
    assert submodule(token)["ear.appraisal-policy-id"] == "tdxPolicy.rego"
    assert submodule(token)["ear.status"] == "affirming"
    _, token = await Broker(anyone=True).attest()
    assert submodule(token)["ear.appraisal-policy-id"] == "none"
    assert submodule(token)["ear.trustworthiness-vector"] == {"hardware": HARDWARE_UNKNOWN}
    assert submodule(token)["ear.status"] == "contraindicated"


async def test_a_resource_is_for_the_key_and_the_version_of_the_guest(broker: Broker) -> None:
    session_id, _ = await broker.attest()
    found = await broker.handshakes.resource(
        PATH, session_id=session_id, token=None, address=ADDRESS
    )
    assert (found.content, dict(found.key.jwk)) == (SECRET, jwk_of("P-256"))
    assert found.version is Version.V0_4_0
    (accepted,) = broker.events.named("guest.accepted")
    assert accepted["peer"] == ADDRESS


def submodule(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    found: dict[str, Any] = claims["submods"]["cpu0"]
    return found
