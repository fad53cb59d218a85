"""Challenges that are kept: whoever can write where, makes none."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rcar import NONCE, NOW, tokens
from verdictd_py.domain.evidence import Tee
from verdictd_py.errors import SessionInvalid
from verdictd_py.protocols.rcar.challenges import Challenges
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.versions import Version

CHALLENGES = Challenges.of(tokens().key)
GOOD = Challenge(Version.V0_4_0, Tee.TDX, NONCE)
EXPIRES = NOW + timedelta(minutes=5)
SEALED = CHALLENGES.seal(GOOD, session="one", expires=EXPIRES)


def refused(sealed: str, session: str = "one", seconds: float = 0) -> None:
    with pytest.raises(SessionInvalid):
        CHALLENGES.open(sealed, session=session, now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SAMPLE])
def test_what_was_sealed_is_opened(version: Version, tee: Tee) -> None:
    challenge = Challenge(version, tee, NONCE)
    sealed = CHALLENGES.seal(challenge, session="one", expires=EXPIRES)
    assert CHALLENGES.open(sealed, session="one", now=NOW) == challenge
    again = Challenges.of(tokens().key)  # another broker with the same key
    assert again.open(sealed, session="one", now=NOW) == challenge


def test_another_session_another_broker_another_time() -> None:
    """An old nonce would be answered by old evidence, of a guest that is no more."""
    refused(SEALED, "two")
    refused(SEALED, seconds=300)
    assert CHALLENGES.open(SEALED, session="one", now=NOW + timedelta(seconds=299)) == GOOD
    other = Challenges.of(ec.generate_private_key(ec.SECP256R1()))
    refused(other.seal(GOOD, session="one", expires=EXPIRES))


def test_nothing_of_it_can_be_changed() -> None:
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


def test_the_key_is_made_of_the_tokens_and_is_another() -> None:
    private = tokens().key.private_numbers().private_value.to_bytes(32)
    assert CHALLENGES.key != private
    assert len(CHALLENGES.key) == 32
    assert CHALLENGES.key.hex() not in repr(CHALLENGES)


def test_the_session_cannot_be_taken_for_the_challenge() -> None:
    """What is sealed begins with the session's name, which has no blanks: a digest."""
    text = json.dumps(["0.4.0", "tdx", NONCE, EXPIRES.timestamp()])
    assert SEALED.endswith(text)


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text(sealed: str) -> None:
    refused(sealed)


@pytest.mark.parametrize("sealed", ["\ud800 []", "\ud800", f"{'0' * 64} \ud800"])
def test_text_that_utf_8_cannot_encode_is_refused(sealed: str) -> None:
    refused(sealed)


def test_a_session_that_utf_8_cannot_encode_is_refused() -> None:
    refused(SEALED, "\ud800")
