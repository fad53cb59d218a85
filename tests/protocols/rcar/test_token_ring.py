"""Rotation of the keys of tokens and challenges that brokers share."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tests.support.rcar import NOW, attested
from verdictd_py.encoding import encode_base64
from verdictd_py.errors import SessionInvalid, StorageError, TokenInvalid
from verdictd_py.protocols.rcar import tokenring
from verdictd_py.protocols.rcar.knowntokens import KnownTokens
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.tokenring import (
    OVERLAP,
    PUBLISH,
    RingKey,
    RingUnreadable,
    TokenRing,
)
from verdictd_py.protocols.rcar.tokens import LIFETIME
from verdictd_py.protocols.rcar.versions import Version

SECOND = timedelta(seconds=1)
SESSION = "ab" * 32
CHALLENGE = Challenge(next(reversed(Version)), "tdx", "bm9uY2U=")


def ring_of(*keys: RingKey) -> TokenRing:
    ring = TokenRing()
    ring.replace(keys)
    return ring


def rotated_once() -> tuple[RingKey, RingKey]:
    old, new = tokenring.rotated(tokenring.rotated((), NOW), NOW)
    return old, new


def test_the_first_key_signs_at_once_and_the_next_one_later() -> None:
    old, new = rotated_once()
    assert (old.signs_from, new.signs_from) == (NOW, NOW + PUBLISH)


def test_a_broker_that_has_not_read_the_new_key_yet_signs_what_the_others_accept() -> None:
    old, new = rotated_once()
    late, current = ring_of(old), ring_of(old, new)
    for now in (NOW, NOW + PUBLISH - SECOND):
        token = current.issue(attested(), now=now, policy="p").token
        late.read(token, now=now)
        sealed = current.seal(CHALLENGE, session=SESSION, now=now, expires=now + LIFETIME)
        assert late.open(sealed, session=SESSION, now=now) == CHALLENGE
    now = NOW + PUBLISH + LIFETIME
    current.read(late.issue(attested(), now=now, policy="p").token, now=now)


def test_tokens_and_challenges_of_the_old_key_are_accepted_until_they_expire() -> None:
    old, new = rotated_once()
    ring, before = ring_of(old, new), NOW + PUBLISH - SECOND
    token = ring.issue(attested(), now=before, policy="p").token
    sealed = ring.seal(CHALLENGE, session=SESSION, now=before, expires=before + LIFETIME)
    ends = before + LIFETIME - SECOND
    ring.read(token, now=ends)
    ring.open(sealed, session=SESSION, now=ends)
    after = NOW + PUBLISH + OVERLAP
    again = ring_of(old).issue(attested(), now=after, policy="p").token
    with pytest.raises(TokenInvalid, match="not signed by a trusted key"):
        ring.read(again, now=after)
    late = ring_of(old).seal(CHALLENGE, session=SESSION, now=after, expires=after + LIFETIME)
    with pytest.raises(SessionInvalid, match="not issued"):
        ring.open(late, session=SESSION, now=after)


def test_the_new_key_signs_from_its_time() -> None:
    old, new = rotated_once()
    token = ring_of(old, new).issue(attested(), now=NOW + PUBLISH, policy="p").token
    ring_of(new).read(token, now=NOW + PUBLISH)
    with pytest.raises(TokenInvalid):
        ring_of(old).read(token, now=NOW + PUBLISH)


def test_an_expired_token_is_reported_as_expired_whichever_key_signed_it() -> None:
    old, new = rotated_once()
    for key in (old, new):
        token = ring_of(key).issue(attested(), now=NOW, policy="p").token
        with pytest.raises(TokenInvalid, match="expired"):
            ring_of(old, new).read(token, now=NOW + LIFETIME)


def test_keys_that_are_no_longer_accepted_are_removed_by_the_next_rotation() -> None:
    keys: tuple[RingKey, ...] = ()
    for day in range(40):
        keys = tokenring.rotated(keys, NOW + timedelta(days=day))
        assert len(keys) <= 2
    assert tokenring.parse(tokenring.encode(keys))[-1].signs_from == keys[-1].signs_from


def test_many_rotations_at_once_remove_no_key_that_is_accepted() -> None:
    keys = tokenring.rotated((), NOW)
    first = keys[0]
    for _ in range(5):
        keys = tokenring.rotated(keys, NOW + SECOND)
    assert first in keys


def test_known_tokens_of_a_removed_key_are_refused() -> None:
    old, new = rotated_once()
    ring = ring_of(old, new)
    known = KnownTokens(ring)
    token = known.issue(attested(), now=NOW, policy="p").token
    known.read(token, now=NOW)
    ring.replace((new,))
    with pytest.raises(TokenInvalid):
        known.read(token, now=NOW)


def test_reading_the_same_keys_again_changes_nothing() -> None:
    old, new = rotated_once()
    ring = ring_of(old, new)
    before = ring.generation
    ring.replace(tokenring.parse(tokenring.encode((old, new))))
    assert ring.generation == before


def test_the_key_set_has_all_keys_and_nothing_secret() -> None:
    old, new = rotated_once()
    keys = ring_of(old, new).jwks()["keys"]
    assert [key["kid"] for key in keys] == [tokenring.key_id(old), tokenring.key_id(new)]
    assert all("d" not in key for key in keys)


def test_a_ring_without_keys_refuses_with_the_cause() -> None:
    ring = TokenRing()
    ring.problem = "the KMS does not answer"
    with pytest.raises(StorageError, match="the KMS does not answer"):
        ring.read("a.b.c", now=NOW)
    with pytest.raises(StorageError, match="the KMS does not answer"):
        ring.open("x", session=SESSION, now=NOW)
    with pytest.raises(StorageError, match="the KMS does not answer"):
        ring.issue(attested(), now=NOW, policy="p")


def test_nothing_displays_a_private_key() -> None:
    (key,) = tokenring.rotated((), NOW)
    private = key.key.private_numbers().private_value
    assert str(private) not in repr(key) + repr(ring_of(key))
    assert encode_base64(private.to_bytes(32)) not in repr(key)


GOOD = json.loads(tokenring.encode(tokenring.rotated((), NOW)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({**GOOD, "version": 2}).encode(),
        json.dumps({**GOOD, "keys": []}).encode(),
        json.dumps({**GOOD, "keys": GOOD["keys"] * 17}).encode(),
        json.dumps({**GOOD, "keys": [{"key": "AAAA", "signs_from": 1}]}).encode(),
        json.dumps({**GOOD, "keys": [{**GOOD["keys"][0], "key": 7}]}).encode(),
        json.dumps({**GOOD, "keys": [{**GOOD["keys"][0], "signs_from": "now"}]}).encode(),
        json.dumps({**GOOD, "keys": [{**GOOD["keys"][0], "signs_from": float("nan")}]}).encode(),
        json.dumps({**GOOD, "keys": [{**GOOD["keys"][0], "signs_from": True}]}).encode(),
    ],
)
def test_a_damaged_document_is_refused(content: bytes) -> None:
    with pytest.raises(RingUnreadable, match="damaged"):
        tokenring.parse(content)
