"""Known tokens: each is verified once, and its content is exactly that of its text."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.rcar import (
    KINDS,
    NOW,
    POLICY,
    appraisal,
    attested,
    b64url,
    tee_key,
    tokens,
    unb64url,
)
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.errors import Reason, ReasonKind, TokenInvalid
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.knowntokens import KnownTokens
from verdictd_py.protocols.rcar.tokens import AttestedGuest, Tokens
from verdictd_py.protocols.rcar.versions import Version

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature is verified, in order."""
    seen: list[str] = []
    decode = jose.Verifier.verify

    def counted(self: jose.Verifier, token: str, **more: Any) -> dict[str, Any]:
        seen.append(token)
        return decode(self, token, **more)

    monkeypatch.setattr(jose.Verifier, "verify", counted)
    return seen


def issue(known: KnownTokens, guest: AttestedGuest | None = None, **more: Any) -> str:
    return known.issue(guest or attested(), **{"now": NOW, "policy": POLICY, **more}).token


def full_guest() -> AttestedGuest:
    """A guest whose evidence has everything that is not in a token, too."""
    fault = Reason("x", "", "", "no", kind=ReasonKind.TCB)
    found = appraisal(faults=(fault,), valid_until=NOW, platform="ef" * 32)
    trust = {"hardware": 2, "executables": 33}
    return AttestedGuest(replace(found, trust=trust), tee_key(), Version.V0_4_0)


@pytest.mark.parametrize(
    "guest",
    [
        *(AttestedGuest(appraisal(), tee_key(kind, version), version) for kind, version in KINDS),
        attested(tcb_status=None, advisory_ids=()),
        attested(claims={}),
        attested(claims={"x": [1, 2.5, -0.0, True, None, "é \n\u2028", {"": []}], "y": 2**63 - 1}),
        attested(claims={"initData": {"data": {"policy.rego": "é𝄞\0" * 9000}}, "mrTd": "00"}),
        attested(claims={"eventLog": {"events": [{"index": 1}], "kernelDigest": "ab"}}),
        AttestedGuest(
            Appraisal("77", NOW, "none", "none", None, bound=True, refusal=None),
            tee_key(),
            Version.V0_4_0,
        ),
        full_guest(),
    ],
)
def test_the_content_of_an_issued_token_is_that_of_its_text(guest: AttestedGuest) -> None:
    issued = tokens().issue(guest, now=NOW, policy=POLICY)
    read = tokens().read(issued.token, now=NOW)
    stored = None if issued.stored_claims is None else issued.stored_claims.text
    ours, theirs = issued.content.guest(stored), read.guest(stored)
    assert issued.content.stored_digest == read.stored_digest
    assert issued.content.expires == read.expires
    assert ours.appraisal == theirs.appraisal
    assert repr(ours.appraisal.claims) == repr(theirs.appraisal.claims)  # also the members' order
    assert ours.appraisal.trust == theirs.appraisal.trust
    assert (ours.version, list(ours.key.jwk.items())) == (
        theirs.version,
        list(theirs.key.jwk.items()),
    )
    assert ours.key.public.public_numbers() == theirs.key.public.public_numbers()


def test_an_issued_token_is_not_verified_again(verified: list[str]) -> None:
    known = KnownTokens(tokens())
    token = issue(known)
    for _ in range(3):
        assert known.read(token, now=NOW).content.guest().appraisal == attested().appraisal
    assert not verified


def test_a_token_of_another_process_is_verified_once(verified: list[str]) -> None:
    known = KnownTokens(tokens())
    token = issue(KnownTokens(tokens()))
    found = [known.read(token, now=NOW) for _ in range(3)]
    assert verified == [token]
    assert found[0] is found[1] is found[2]


def test_a_token_that_is_refused_is_verified_each_time(verified: list[str]) -> None:
    known = KnownTokens(tokens())
    other = issue(KnownTokens(Tokens(ec.generate_private_key(ec.SECP256R1()))))
    for _ in range(2):
        with pytest.raises(TokenInvalid, match="not signed by a trusted key"):
            known.read(other, now=NOW)
    assert verified == [other, other]


def test_another_text_with_a_known_content_is_verified(verified: list[str]) -> None:
    """A writer of the session store changes the signature, or a claim, of a known token."""
    known = KnownTokens(tokens())
    token = issue(known)
    header, payload, signature = token.split(".")
    raw = unb64url(signature)
    first = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    for other in (
        f"{header}.{payload}.",
        f"{header}.{payload}.{b64url(bytes(64))}",
        f"{header}.{payload}.{b64url(raw[32:] + raw[:32])}",
        f"{header}.{first}.{signature}",
        f"{token} ",
        f" {token}",
        f"{token}=",
        token.swapcase(),
    ):
        with pytest.raises(TokenInvalid):
            known.read(other, now=NOW)
        assert verified.pop() == other
    # ECDSA has a second valid signature for each: it is another text, which is verified.
    mirrored = raw[:32] + (P256_ORDER - int.from_bytes(raw[32:])).to_bytes(32)
    other = f"{header}.{payload}.{b64url(mirrored)}"
    assert known.read(other, now=NOW).content.guest().appraisal == attested().appraisal
    assert verified == [other]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-61, "not valid yet"), (-60, ""), (0, ""), (299.9, ""), (300, "expired"), (1e9, "expired")],
)
def test_the_time_of_a_known_token_is_checked_at_each_use(seconds: float, text: str) -> None:
    """It expires, and a clock that is set back by more than a minute ends it."""
    known = KnownTokens(tokens())
    token = issue(known)
    now = NOW + timedelta(seconds=seconds)
    if not text:
        assert known.read(token, now=now)
        return
    for _ in range(2):  # known, then unknown: the same refusal
        with pytest.raises(TokenInvalid, match=text) as raised:
            known.read(token, now=now)
        with pytest.raises(TokenInvalid) as fresh:
            tokens().read(token, now=now)
        assert (str(raised.value), raised.value.code) == (str(fresh.value), fresh.value.code)


def test_an_expired_token_is_discarded(verified: list[str]) -> None:
    known = KnownTokens(tokens())
    token = issue(known)
    with pytest.raises(TokenInvalid):
        known.read(token, now=NOW + timedelta(minutes=5))
    assert known.read(token, now=NOW)  # the clock is right again
    assert verified == [token]


def test_tokens_of_another_key_or_root_are_not_known() -> None:
    """Each has an object of its own, so a new key begins with no known token."""
    key = ec.generate_private_key(ec.SECP256R1())
    before = KnownTokens(Tokens(key))
    token = issue(before)
    assert before.read(token, now=NOW)
    for after in (Tokens(ec.generate_private_key(ec.SECP256R1())), Tokens(key, "ab" * 32)):
        with pytest.raises(TokenInvalid):
            KnownTokens(after).read(token, now=NOW)


def test_the_oldest_tokens_are_evicted(verified: list[str]) -> None:
    length = len(issue(KnownTokens(tokens())))
    known = KnownTokens(tokens(), most=length * 3 + 100)
    made = [issue(known) for _ in range(5)]
    for token in made[2:]:
        known.read(token, now=NOW)
    assert not verified
    known.read(made[0], now=NOW)
    assert verified == [made[0]]
    assert known._size == sum(map(len, known._known)) <= length * 3 + 100


def test_a_token_that_is_longer_than_the_limit_is_not_stored(verified: list[str]) -> None:
    known = KnownTokens(tokens(), most=100)
    token = issue(known)
    for _ in range(2):
        assert known.read(token, now=NOW).content.guest().appraisal == attested().appraisal
    assert verified == [token, token]
    assert known._size == 0


def test_expired_tokens_are_released() -> None:
    known = KnownTokens(tokens())
    issue(known)
    later = NOW + timedelta(minutes=4)
    token = issue(known, now=later)
    known.release(NOW + timedelta(minutes=5))
    assert list(known._known) == [token]
    assert known._size == len(token)
    issue(known, now=NOW + timedelta(minutes=9))  # a new one releases the expired
    assert token not in known._known


def test_a_token_is_identified_by_a_digest_and_not_disclosed() -> None:
    known = KnownTokens(tokens())
    one, other = issue(known), issue(known)
    found = known.read(one, now=NOW)
    assert found.digest != known.read(other, now=NOW).digest
    assert len(found.digest) == 64
    assert one not in repr(found)


def test_claims_that_the_guest_sends_again_do_not_change_a_known_token() -> None:
    known = KnownTokens(tokens())
    claims: dict[str, Any] = {"mrTd": "ab"}
    guest = attested(claims=claims)
    token = issue(known, guest)
    claims["mrTd"] = "cd"
    evidence = known.read(token, now=NOW).content.guest().appraisal.evidence
    assert isinstance(evidence, VerifiedEvidence)
    assert evidence.claims == {"mrTd": "ab"}
