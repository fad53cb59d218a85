"""The helpers that end-to-end tests rely on: each changes what it says, and only that."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from jwcrypto import jwk, jws

from tests.support.fake_kbs import FakeKbs, jwt
from tests.support.rcar_guests import (
    EVERY_GUEST,
    Tamper,
    connected,
    forged,
    keyed_with_public_key,
    primary_evidence,
    tdx_guest,
    unsigned,
    with_additional,
    with_event_log,
    with_init_data,
    with_key,
    with_nonce,
    with_quote,
)
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import (
    Challenge,
    JsonObject,
    Version,
    init_data_digest,
    report_data,
    runtime_digest,
)
from verdictd_py.guest.rcar.session import RcarGuest
from verdictd_py.guest.rcar.token import Token
from verdictd_py.simulator import SimulatedPlatform

INIT_DATA = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n'
CHALLENGE = Challenge("bm9uY2U=")
MR_CONFIG_ID, RTMR1, REPORT_DATA = (  # tdx.md, "Quote v4"
    slice(232, 280),
    slice(424, 472),
    slice(568, 632),
)

JWK: JsonObject = {"kty": "EC"}


@pytest.fixture(scope="module")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=datetime.now(UTC))


async def said(guest: RcarGuest) -> JsonObject:
    async with connected("http://127.0.0.1:1", guest, transport=FakeKbs().transport) as session:
        return await session.answer(CHALLENGE)


@pytest.mark.parametrize(("version", "kind"), EVERY_GUEST)
async def test_a_quote_covers_nonce_and_key(
    platform: SimulatedPlatform, version: Version, kind: TeeKeyKind
) -> None:
    guest = tdx_guest(platform, version, kind)
    evidence = primary_evidence(await said(guest))
    assert evidence["cc_eventlog"] is None
    quote = base64.b64decode(str(evidence["quote"]))
    covered = report_data(runtime_digest(version, CHALLENGE, guest.tee_key.jwk))
    assert quote[REPORT_DATA] == covered


async def test_an_honest_guest_has_measured_its_init_data(platform: SimulatedPlatform) -> None:
    evidence = primary_evidence(await said(tdx_guest(platform, init_data=INIT_DATA)))
    quote = base64.b64decode(str(evidence["quote"]))
    assert quote[MR_CONFIG_ID] == init_data_digest(INIT_DATA)


async def test_an_honest_guest_has_measured_its_event_log(platform: SimulatedPlatform) -> None:
    digest = hashlib.sha384(b"what was measured").digest()
    header = b"Spec ID Event03\0" + bytes(8) + bytes.fromhex("01000000 0c00 3000 00")
    log = b"".join(  # TCG_PCR_EVENT with a header, then one TCG_PCR_EVENT2 of CCMR 2
        (
            bytes.fromhex("00000000 03000000") + bytes(20),
            len(header).to_bytes(4, "little") + header,
            bytes.fromhex("02000000 0d000000 01000000 0c00") + digest + bytes(4),
        )
    )
    evidence = primary_evidence(await said(tdx_guest(platform, event_log=log)))
    assert base64.b64decode(str(evidence["cc_eventlog"])) == log
    quote = base64.b64decode(str(evidence["quote"]))
    assert quote[RTMR1] == hashlib.sha384(bytes(48) + digest).digest()


def _set(*path: str, value: object) -> Callable[[JsonObject], None]:
    def change(body: JsonObject) -> None:
        place: object = body
        for name in path[:-1]:
            assert isinstance(place, dict)
            place = place[name]
        assert isinstance(place, dict)
        assert place[path[-1]] != value
        place[path[-1]] = value

    return change


PRIMARY = ("tee-evidence", "primary_evidence")


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (with_nonce("b"), _set("runtime-data", "nonce", value="b")),
        (with_key(JWK), _set("runtime-data", "tee-pubkey", value=JWK)),
        (with_additional("{}"), _set("tee-evidence", "additional_evidence", value="{}")),
        (with_init_data(None), _set("init-data", value=None)),
        (with_init_data("x"), _set("init-data", value={"format": "toml", "body": "x"})),
        (with_event_log(b"log"), _set(*PRIMARY, "cc_eventlog", value="bG9n")),
        (with_quote(lambda _: b"q"), _set(*PRIMARY, "quote", value="cQ==")),
    ],
)
async def test_a_tamper_changes_one_thing(
    platform: SimulatedPlatform, tamper: Tamper, expected: Tamper
) -> None:
    body = await said(tdx_guest(platform, init_data=INIT_DATA))
    by_hand = copy.deepcopy(body)
    tamper(body)
    expected(by_hand)
    assert body == by_hand


async def test_older_bodies_are_tampered_with_too(platform: SimulatedPlatform) -> None:
    body = await said(tdx_guest(platform, Version.V0_2_0))
    with_key(JWK)(body)
    with_event_log(b"log")(body)
    assert body["tee-pubkey"] == JWK
    assert primary_evidence(body)["cc_eventlog"] == "bG9n"


class TestForgedTokens:
    TOKEN = Token.parse(jwt({"exp": 5, "sub": "guest"}))

    @staticmethod
    def verified(token: Token, key: jwk.JWK, algorithm: str) -> JsonObject:
        signed = jws.JWS()
        signed.allowed_algs = [algorithm]
        signed.deserialize(token.content.reveal().decode(), key)
        found = json.loads(signed.payload)
        assert isinstance(found, dict)
        return found

    def test_by_another_key_that_the_header_brings(self) -> None:
        token = forged(self.TOKEN, claims={"exp": 9})
        key = jwk.JWK.from_json(json.dumps(token.header["jwk"]))
        assert self.verified(token, key, "ES256") == {"exp": 9, "sub": "guest"}

    def test_by_the_public_key(self) -> None:
        public = TeeKey.new(TeeKeyKind.EC_P256).to_pem().reveal()
        token = keyed_with_public_key(self.TOKEN, public)
        key = jwk.JWK(kty="oct", k=base64.urlsafe_b64encode(public).rstrip(b"=").decode())
        assert self.verified(token, key, "HS256") == self.TOKEN.claims
        assert token.header["alg"] == "HS256"

    def test_by_nobody(self) -> None:
        token = unsigned(self.TOKEN)
        assert (token.header["alg"], token.claims) == ("none", self.TOKEN.claims)
        assert token.content.reveal().endswith(b".")
