"""Sealed challenges: write access to the session store is not enough to forge one."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rcar import NONCE, NOW, tokens
from verdictd_py.errors import SessionInvalid
from verdictd_py.protocols.rcar.challenges import Challenges
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.versions import Version

CHALLENGES = Challenges.of(tokens().key)
GOOD = Challenge(Version.V0_4_0, "tdx", NONCE)
EXPIRES = NOW + timedelta(minutes=5)
SEALED = CHALLENGES.seal(GOOD, session="one", expires=EXPIRES)


def refused(sealed: str, session: str = "one", seconds: float = 0) -> None:
    with pytest.raises(SessionInvalid):
        CHALLENGES.open(sealed, session=session, now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("tee", ["tdx", "sample"])
def test_a_sealed_challenge_is_opened(version: Version, tee: str) -> None:
    challenge = Challenge(version, tee, NONCE)
    sealed = CHALLENGES.seal(challenge, session="one", expires=EXPIRES)
    assert CHALLENGES.open(sealed, session="one", now=NOW) == challenge
    again = Challenges.of(tokens().key)  # another broker with the same key
    assert again.open(sealed, session="one", now=NOW) == challenge


def test_a_challenge_of_another_session_broker_or_time_is_refused() -> None:
    """Old evidence, of a guest that no longer runs, would answer an old nonce."""
    refused(SEALED, "two")
    refused(SEALED, seconds=300)
    assert CHALLENGES.open(SEALED, session="one", now=NOW + timedelta(seconds=299)) == GOOD
    other = Challenges.of(ec.generate_private_key(ec.SECP256R1()))
    refused(other.seal(GOOD, session="one", expires=EXPIRES))


def test_a_changed_challenge_is_refused() -> None:
    mac, _, text = SEALED.partition(" ")
    for changed in (
        text.replace("0.4.0", "0.1.1"),
        text.replace("tdx", "sample"),
        text.replace(NONCE, NONCE[::-1]),
        text.replace(str(EXPIRES.timestamp()), str(EXPIRES.timestamp() + 60)),
        text + " ",
        "",
    ):
        assert changed != text
        refused(f"{mac} {changed}")
        refused(changed)
    for at in range(len(SEALED)):
        refused(SEALED[:at] + ("a" if SEALED[at] != "a" else "b") + SEALED[at + 1 :])
    refused(SEALED, "one " + text)


def test_the_key_is_derived_from_the_tokens_key() -> None:
    private = tokens().key.private_numbers().private_value.to_bytes(32)
    assert CHALLENGES.key != private
    assert len(CHALLENGES.key) == 32
    assert CHALLENGES.key.hex() not in repr(CHALLENGES)


def test_session_and_challenge_cannot_be_confused() -> None:
    """The sealed text begins with the session's name, a digest without spaces."""
    text = json.dumps(["0.4.0", "tdx", NONCE, EXPIRES.timestamp()])
    assert SEALED.endswith(text)


@given(st.text(st.characters(codec=None), max_size=200))
def test_arbitrary_text_is_refused(sealed: str) -> None:
    refused(sealed)


@pytest.mark.parametrize("sealed", ["\ud800 []", "\ud800", f"{'0' * 64} \ud800"])
def test_text_that_utf_8_cannot_encode_is_refused(sealed: str) -> None:
    refused(sealed)


def test_a_session_that_utf_8_cannot_encode_is_refused() -> None:
    refused(SEALED, "\ud800")
