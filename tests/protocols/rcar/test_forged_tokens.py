"""Forged tokens: the attacker has a guest's token, the published keys and the source code."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.protocols.rcar.token_tools import MAX_CHARACTERS, issued, parts, refused, signed
from tests.support.examples import examples
from tests.support.rcar import NOW, attested, b64url, tokens, unb64url
from verdictd_py.errors import TokenInvalid
from verdictd_py.protocols.rcar import jose


def forged(said: dict[str, Any], header: dict[str, Any], signature: bytes) -> str:
    both = f"{b64url(json.dumps(header).encode())}.{b64url(json.dumps(said).encode())}"
    return f"{both}.{b64url(signature)}"


def test_tokens_signed_by_other_keys_are_refused() -> None:
    """The header of a token cannot select the key that verifies it."""
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
        assert "not signed by a trusted key" in refused(signed(said, header, thief))
        try:
            good = signed(said, header)
        except ValueError:
            continue
        assert tokens().read(good, now=NOW)  # and nothing of it matters with the right key


def test_tokens_with_other_algorithms_are_refused() -> None:
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
def test_unknown_critical_headers_are_refused(header: dict[str, Any]) -> None:
    """RFC 7515, 4.1.11: this applies to tokens of the broker's own key too."""
    _, said = parts(issued(attested()).token)
    both = b".".join(
        b64url(json.dumps(part).encode()).encode() for part in ({"alg": "ES256", **header}, said)
    )
    r, s = decode_dss_signature(tokens().key.sign(both, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32) + s.to_bytes(32)
    assert refused(f"{both.decode()}.{b64url(signature)}")


def test_every_changed_character_is_detected() -> None:
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
        {"iat": int(NOW.timestamp()) + 62},
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
def test_signed_tokens_of_another_issuer_or_time_are_refused(changes: dict[str, Any]) -> None:
    """One key may also sign other tokens, and times may be malformed."""
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
    "root": [1, [], {}, "", "ab"],
    "evidence": [None, 1, [], {}, "x"],
    "evidence/reportData": [None, 1, "", "ab", "zz" * 64, "0" * 127],
    "evidence/tcbStatus": [1, [], {}],
    "evidence/advisoryIds": [None, "INTEL", [1], {}],
    "evidence/digest": [None, 1, []],
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, found in OTHER_SHAPES.items() for value in found]
)
def test_signed_tokens_with_malformed_claims_are_refused(path: str, value: Any) -> None:
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
@examples(300)
def test_any_changed_member_raises_the_documented_error_only(data: st.DataObject) -> None:
    """One member of a signed token is replaced by an arbitrary value."""
    _, said = parts(issued(attested()).token)
    *names, last = data.draw(st.sampled_from(paths(said)))
    place = said
    for name in names:
        place = place[name]
    place[last] = data.draw(JSON)
    try:
        found = tokens().read(signed(said), now=NOW).guest()
    except TokenInvalid:
        return
    assert found.appraisal.bound
    assert found.appraisal.accepted
    assert isinstance(found.appraisal.claims, dict)
    assert found.appraisal.tee in ("tdx", "none")


@given(
    st.text(max_size=60) | st.lists(st.binary(max_size=40).map(b64url), max_size=6).map(".".join)
)
@examples(200)
def test_arbitrary_text_is_refused(text: str) -> None:
    refused(text)


def test_a_token_that_is_too_long_is_refused_unread() -> None:
    _, said = parts(issued(attested()).token)
    assert refused(signed({**said, "filling": "x" * MAX_CHARACTERS})) == "the token is too long"
