"""Attestation tokens: what goes in comes out, and nothing but the broker's key makes one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwk as other_jwk
from jwcrypto import jws as other_jws

from tests.rcar.support import (
    KINDS,
    NOW,
    appraisal,
    attested,
    b64url,
    coordinates,
    ec_jwk,
    jwk_of,
    tee_key,
    tokens,
    unb64url,
)
from tests.rcar.test_teekey import padded
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import JsonValue, Tee
from verdictd_py.errors import EvidenceFormat, TokenInvalid
from verdictd_py.rcar import claims, jose
from verdictd_py.rcar.teekey import TeeKey
from verdictd_py.rcar.tokens import LIFETIME, Attested, Issued, Tokens
from verdictd_py.rcar.versions import Version

MAX_CHARACTERS = 32 * 1024
JWK_PLACES = (
    ("submods", "cpu0", "ear.veraison.annotated-evidence", "runtime_data_claims", "tee-pubkey"),
    ("customized_claims", "runtime_data", "tee-pubkey"),
)


def issued(guest: Attested, **more: Any) -> Issued:
    return tokens().issue(guest, **{"now": NOW, "open_measurements": (), **more})


def came_out(made: Issued, *, now: datetime = NOW) -> Attested:
    shown = tokens().read(made.token, now=now)
    assert (None if made.kept is None else made.kept[0]) == shown.kept
    return shown.attested(None if made.kept is None else made.kept[1])


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.split(".")
    return json.loads(unb64url(header)), json.loads(unb64url(payload))


def signed(said: Any, header: dict[str, Any] | None = None, key: Any = None) -> str:
    return jose.signed(said, header or {}, key or tokens().key)


def refused(token: str, *, now: datetime = NOW) -> str:
    with pytest.raises(TokenInvalid) as caught:
        tokens().read(token, now=now).attested()
    return str(caught.value)


@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_what_goes_in_comes_out(kind: str, version: Version) -> None:
    guest = Attested(appraisal(), tee_key(kind, version), version)
    found = came_out(issued(guest))
    assert found.appraisal == guest.appraisal
    assert (found.version, dict(found.key.jwk)) == (version, dict(guest.key.jwk))
    assert found.key.public.public_numbers() == guest.key.public.public_numbers()


@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SGX, Tee.SAMPLE])
@pytest.mark.parametrize(
    "evidence",
    [
        {},
        {"tcb_status": None, "advisory_ids": ()},
        {"claims": {}},
        {"claims": {"x": [1, 2.5, -0.0, True, None, "é \n\u2028", {"": []}], "y": 2**63 - 1}},
        {"claims": {"initData": {"data": {"policy.rego": "é𝄞\0" * 9000}}, "mrTd": "00"}},
        {"claims": {"eventLog": {"events": [{"index": 1}], "kernelDigest": "ab"}}},
        {"claims": {"eventLog": {"events": [], "efiApplications": ["ab" * 48] * 4000}}},
    ],
)
def test_all_of_it_comes_out(tee: Tee, evidence: dict[str, Any]) -> None:
    guest = attested(tee=tee, **evidence)
    assert came_out(issued(guest)).appraisal == guest.appraisal


def test_a_guest_that_was_accepted_without_evidence() -> None:
    """A broker that accepts anyone, as its operator wants."""
    nobody = Appraisal("77", NOW, Tee.NONE, "none", None, bound=True, refusal=None)
    guest = Attested(nobody, tee_key(), Version.V0_4_0)
    assert came_out(issued(guest)).appraisal == nobody


def test_a_padded_key_comes_out_as_it_was_sent() -> None:
    x, y = coordinates(379, "P-256")
    jwk = ec_jwk(padded(x), padded(y))
    guest = Attested(appraisal(), TeeKey.parse(jwk, Version.V0_2_0), Version.V0_2_0)
    found = came_out(issued(guest))
    assert dict(found.key.jwk) == jwk
    assert found.key.public.public_numbers() == guest.key.public.public_numbers()


def test_no_token_about_a_guest_that_was_refused() -> None:
    refusal = EvidenceFormat("no")
    with pytest.raises(EvidenceFormat):
        issued(Attested(replace(appraisal(), refusal=refusal), tee_key(), Version.V0_4_0))


def test_others_read_it_with_the_published_keys() -> None:
    """By jwcrypto, and what guests look for where they look for it."""
    token = issued(attested()).token
    (published,) = tokens().jwks()["keys"]
    assert "d" not in published
    assert published["alg"] == "ES256"
    key = other_jwk.JWK(**published)
    assert published["kid"] == key.thumbprint()
    verified = other_jws.JWS()
    verified.deserialize(token, key, alg="ES256")
    said = json.loads(verified.payload)
    begins = int(NOW.timestamp())
    assert (said["iat"], said["nbf"], said["exp"]) == (begins, begins, begins + 300)
    assert (said["iss"], said["jti"]) == ("verdictd-py", "0123")
    for place in JWK_PLACES:
        at: Any = said
        for name in place:
            at = at[name]
        assert at == jwk_of("P-256")
    header, _ = parts(token)
    assert header["alg"] == "ES256"
    assert other_jwk.JWK(**header["jwk"]).thumbprint() == key.thumbprint()
    assert "d" not in header["jwk"]


def test_guests_can_parse_the_types_of_its_claims() -> None:
    """guest-components refuses a token with a claim of another type."""
    _, said = parts(issued(attested()).token)
    for name in ("iat", "exp", "nbf"):
        assert type(said[name]) is int
    for name in ("iss", "jti"):
        assert type(said[name]) is str
    assert not {"sub", "aud", "nonce"} & set(said)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, "not valid yet"), (0, ""), (299.9, ""), (300, "is over"), (10**9, "is over")],
)
def test_time(seconds: float, told: str) -> None:
    token = issued(attested()).token
    now = NOW + timedelta(seconds=seconds)
    if told:
        assert told in refused(token, now=now)
    else:
        assert tokens().read(token, now=now)
    assert timedelta(minutes=5) == LIFETIME


# Forgeries: whoever has a token of a guest, the published keys and all of our source.


def forged(said: dict[str, Any], header: dict[str, Any], signature: bytes) -> str:
    both = f"{b64url(json.dumps(header).encode())}.{b64url(json.dumps(said).encode())}"
    return f"{both}.{b64url(signature)}"


def test_tokens_of_other_keys() -> None:
    """Whatever the header says about the key that should judge them."""
    _, said = parts(issued(attested()).token)
    thief = ec.generate_private_key(ec.SECP256R1())
    own = jose.public_jwk(tokens().key.public_key())
    theirs = jose.public_jwk(thief.public_key())
    for header in (
        {},
        {"jwk": theirs},
        {"jwk": own},
        {"kid": own["kid"]},
        {"kid": theirs["kid"], "jwk": theirs},
        {"jku": "https://example.com/jwks"},
        {"x5u": "https://example.com/x5u", "x5t": "AA"},
        {"x5c": [base64.b64encode(b"certificate").decode()]},
    ):
        assert "not signed by a key" in refused(signed(said, header, thief))
        try:
            good = signed(said, header)
        except ValueError:
            continue
        assert tokens().read(good, now=NOW)  # and nothing of it matters with the right key


def test_algorithms_of_others() -> None:
    token = issued(attested()).token
    header, said = parts(token)
    public = tokens().key.public_key()
    published = json.dumps(tokens().jwks()).encode()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        *(published, json.dumps(header["jwk"]).encode(), b""),
        unb64url(header["jwk"]["x"]),
    ]
    for algorithm in ("HS256", "HS384", "HS512"):
        changed = {**header, "alg": algorithm}
        text = forged(said, changed, b"").rstrip(".")
        for secret in secrets:
            mac = hmac.digest(secret, text.encode(), algorithm.replace("HS", "sha"))
            assert "not signed" in refused(f"{text}.{b64url(mac)}")
    signature = unb64url(token.split(".")[2])
    others: tuple[Any, ...] = (
        *("none", "None", "NONE", "nOnE", "", "ES384", "ES512", "ES256K", "RS256", "PS256"),
        *("EdDSA", "Ed25519", "es256", None, ["ES256"], {"ES256": 1}, 0),
    )
    for other in others:
        for value in (b"", signature, bytes(64)):
            assert "not signed" in refused(forged(said, {**header, "alg": other}, value))
        no_alg = {name: value for name, value in header.items() if name != "alg"}
        assert "not signed" in refused(forged(said, no_alg, signature))


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": ["unknown"], "unknown": 1},
        {"crit": "b64"},
        {"crit": None},
    ],
)
def test_critical_headers_are_not_passed_over(header: dict[str, Any]) -> None:
    """RFC 7515, 4.1.11: also where the right key signed them."""
    _, said = parts(issued(attested()).token)
    both = b".".join(
        b64url(json.dumps(part).encode()).encode() for part in ({"alg": "ES256", **header}, said)
    )
    r, s = decode_dss_signature(tokens().key.sign(both, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32) + s.to_bytes(32)
    assert refused(f"{both.decode()}.{b64url(signature)}")


def test_every_changed_character_is_noticed() -> None:
    token = issued(attested()).token
    head, payload, signature = token.split(".")
    for at in range(0, len(token) - len(signature), 37):
        if token[at] != ".":
            other = "A" if token[at] != "A" else "B"
            assert refused(token[:at] + other + token[at + 1 :])
    for text in (
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}..{signature}",
        f"{head}.{payload}.{signature}.",
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}.{payload}.{signature}AA",
        f"{head}.{payload}.{b64url(bytes(64))}",
    ):
        assert refused(text)


WITHOUT = object()


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": WITHOUT},
        {"exp": None},
        {"exp": True},
        {"exp": "9999999999"},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": -1},
        {"exp": 10**400},
        {"exp": []},
        {"nbf": float("nan")},
        {"nbf": float("-inf")},
        {"nbf": "0"},
        {"iat": 10**400},
        {"iat": int(NOW.timestamp()) + 2},
        {"iss": WITHOUT},
        {"iss": None},
        {"iss": "verdictd-py "},
        {"iss": ["verdictd-py"]},
        {"verdictd": WITHOUT},
        {"submods": WITHOUT},
        {"submods": []},
        {"submods": {"cpu0": None}},
    ],
)
def test_signed_claims_that_are_none_of_ours(changes: dict[str, Any]) -> None:
    """One key may sign more than these tokens; and a time must be one."""
    _, said = parts(issued(attested()).token)
    assert tokens().read(signed(said), now=NOW)
    said = {name: value for name, value in {**said, **changes}.items() if value is not WITHOUT}
    refused(signed(said))


OTHER_SHAPES: dict[str, list[Any]] = {
    "version": ["0.3.0", None, 4, []],
    "tee": ["none", "sgx", "x", None, [], {}],
    "form": [None, 1, []],
    "at": [None, 1, "", "yesterday", "2026-11-24T12:00:00"],
    "appraisal": [None, 1, {}],
    "kept": [1, [], {}, ""],
    "evidence": [None, 1, [], {}, "x"],
    "evidence/reportData": [None, 1, "", "ab", "zz" * 64, "0" * 127],
    "evidence/tcbStatus": [1, [], {}],
    "evidence/advisoryIds": [None, "INTEL", [1], {}],
    "evidence/digest": [None, 1, []],
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, found in OTHER_SHAPES.items() for value in found]
)
def test_own_claims_of_another_shape(path: str, value: Any) -> None:
    _, said = parts(issued(attested()).token)
    *names, last = path.split("/")
    place = said["verdictd"]
    for name in names:
        place = place[name]
    assert last in place
    place[last] = value
    assert refused(signed(said))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3)
    ),
    max_leaves=6,
)


def paths(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [at] if at else []
    if isinstance(value, dict):
        for name in value:
            found += paths(value[name], (*at, name))
    return found


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_nothing_but_its_own_error(data: st.DataObject) -> None:
    """A member anywhere in a signed token, changed to anything."""
    _, said = parts(issued(attested()).token)
    *names, last = data.draw(st.sampled_from(paths(said)))
    place = said
    for name in names:
        place = place[name]
    place[last] = data.draw(JSON)
    try:
        found = tokens().read(signed(said), now=NOW).attested()
    except TokenInvalid:
        return
    assert found.appraisal.bound
    assert found.appraisal.accepted
    assert isinstance(found.appraisal.claims, dict)
    assert found.appraisal.tee in (Tee.TDX, Tee.NONE)


@given(
    st.text(max_size=60) | st.lists(st.binary(max_size=40).map(b64url), max_size=6).map(".".join)
)
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    refused(text)


def test_a_token_that_is_too_long_is_not_even_looked_at() -> None:
    _, said = parts(issued(attested()).token)
    assert refused(signed({**said, "filling": "x" * MAX_CHARACTERS})) == "the token is too long"


# What a guest can make long.


def huge(**more: JsonValue) -> dict[str, JsonValue]:
    """Claims of a guest that shows as much as it may."""
    events: list[JsonValue] = [
        {"index": 1, "type": 2**31, "digest": f"{number:096x}"} for number in range(4096)
    ]
    return {
        **{f"rtmr{number}": "ab" * 48 for number in range(4)},
        **dict.fromkeys(("mrTd", "mrSeam", "mrOwner", "mrConfigId"), "cd" * 48),
        "unverifiedDevices": ["d" * 64] * 16,
        "initData": {"algorithm": "sha384", "data": {"policy.rego": "\0" * 262_000}},
        "eventLog": {
            "events": events,
            "efiApplications": ["ef" * 48] * 4096,
            "kernelCommandLine": "\0" * 900_000,
        },
        **more,
    }


def long_jwk() -> dict[str, JsonValue]:
    return {
        **jwk_of("P-521"),
        "n": "A" * 1368,
        "e": "A" * 8,
        "kid": "\0" * 256,
        "use": "\0" * 16,
    }


def test_no_token_is_too_long_whatever_a_guest_sends() -> None:
    """It travels in a header."""
    key = TeeKey.parse(long_jwk(), Version.V0_4_0)
    guest = Attested(
        appraisal(claims=huge(), advisory_ids=tuple(f"INTEL-SA-{n:05}" for n in range(60))),
        key,
        Version.V0_4_0,
    )
    made = issued(guest, open_measurements=("rtmr0", "rtmr1"))
    assert len(made.token) < MAX_CHARACTERS
    assert came_out(made).appraisal == guest.appraisal
    usual = issued(attested()).token
    assert len(usual) < 4096


@given(
    st.dictionaries(
        st.sampled_from(["initData", "eventLog", "unverifiedDevices", "mrTd", "x"]),
        st.integers(0, 40_000).map(lambda size: "\0" * size)
        | st.integers(0, 9000).map(lambda size: {"events": [1] * size, "rest": "\n" * size}),
    )
)
@settings(max_examples=60, deadline=None)
def test_claims_of_any_length(found: dict[str, JsonValue]) -> None:
    guest = attested(claims=found)
    made = issued(guest)
    assert len(made.token) < MAX_CHARACTERS
    assert came_out(made).appraisal == guest.appraisal
    divided = claims.divide(found)
    assert len(json.dumps(dict(divided.shown))) <= claims.MAX_SHOWN_BYTES + 2


def test_digests_of_events_stand_in_no_token() -> None:
    events: list[JsonValue] = [{"index": 1, "type": 3, "digest": "f00d" * 24}]
    log: dict[str, JsonValue] = {"events": events, "kernelDigest": "ab" * 48}
    made = issued(attested(claims={"eventLog": log}))
    assert "f00d" not in json.dumps(parts(made.token))
    _, said = parts(made.token)
    shown = said["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["tdx"]
    assert shown == {"eventLog": {"kernelDigest": "ab" * 48}}  # others still read what it proves


def test_what_is_left_out_must_be_brought() -> None:
    """A policy that is asked about a part could take what is left out for what is not there."""
    guest = attested(claims=huge())
    made = issued(guest)
    assert made.kept is not None
    shown = tokens().read(made.token, now=NOW)
    for other in (None, "", "{}", made.kept[1] + " ", made.kept[1].replace("sha384", "sha256")):
        with pytest.raises(TokenInvalid, match="attest again"):
            shown.attested(other)
    assert shown.attested(made.kept[1]).appraisal == guest.appraisal


def test_guests_with_equal_claims_share_what_is_kept() -> None:
    """However their members are ordered."""
    one = issued(attested(claims=huge()))
    again = issued(attested("P-521", claims=dict(reversed(huge().items()))))
    assert one.kept == again.kept
    other = issued(attested(claims=huge(initData={"data": "x" * 9000})))
    assert one.kept is not None
    assert other.kept is not None
    assert other.kept[0] != one.kept[0]
    assert one.kept[0] == hashlib.sha256(one.kept[1].encode()).hexdigest()


def test_another_broker_takes_no_token_of_this_one() -> None:
    with pytest.raises(TokenInvalid):
        Tokens(ec.generate_private_key(ec.SECP256R1())).read(issued(attested()).token, now=NOW)


def test_keys_are_not_shown() -> None:
    assert "key" not in repr(tokens())
    made = issued(attested())
    assert made.token not in repr(made)
