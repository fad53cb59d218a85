"""Attestation tokens: reading one restores the guest; only the broker's key can sign one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk as other_jwk
from jwcrypto import jws as other_jws

from tests.protocols.rcar.token_tools import JWK_PLACES, issued, parts, read_back, refused
from tests.support.rcar import (
    KINDS,
    NOW,
    POLICY,
    appraisal,
    attested,
    coordinates,
    ec_jwk,
    jwk_of,
    padded,
    tee_key,
    tokens,
)
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.errors import EvidenceFormat, TokenInvalid
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.tokens import LIFETIME, AttestedGuest, Tokens
from verdictd_py.protocols.rcar.versions import Version


@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_a_token_restores_the_guest(kind: str, version: Version) -> None:
    guest = AttestedGuest(appraisal(), tee_key(kind, version), version)
    found = read_back(issued(guest))
    assert found.appraisal == guest.appraisal
    assert (found.version, dict(found.key.jwk)) == (version, dict(guest.key.jwk))
    assert found.key.public.public_numbers() == guest.key.public.public_numbers()


@pytest.mark.parametrize("tee", ["tdx", "sgx", "sample"])
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
def test_a_token_restores_all_evidence(tee: str, evidence: dict[str, Any]) -> None:
    guest = attested(tee=tee, **evidence)
    assert read_back(issued(guest)).appraisal == guest.appraisal


def test_a_token_about_a_guest_without_evidence_is_issued() -> None:
    """The operator has configured a broker that accepts every client."""
    nobody = Appraisal("77", NOW, "none", "none", None, bound=True, refusal=None)
    guest = AttestedGuest(nobody, tee_key(), Version.V0_4_0)
    assert read_back(issued(guest)).appraisal == nobody


def test_a_padded_key_is_restored_as_it_was_sent() -> None:
    x, y = coordinates(379, "P-256")
    jwk = ec_jwk(padded(x), padded(y))
    guest = AttestedGuest(appraisal(), TeeKey.parse(jwk, Version.V0_2_0), Version.V0_2_0)
    found = read_back(issued(guest))
    assert dict(found.key.jwk) == jwk
    assert found.key.public.public_numbers() == guest.key.public.public_numbers()


def test_no_token_is_issued_about_a_refused_guest() -> None:
    refusal = EvidenceFormat("no")
    with pytest.raises(EvidenceFormat):
        issued(AttestedGuest(replace(appraisal(), refusal=refusal), tee_key(), Version.V0_4_0))


def test_another_library_verifies_it_with_the_published_keys() -> None:
    """jwcrypto verifies it, and the claims are where guests expect them."""
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
    assert (said["iat"], said["exp"]) == (begins, begins + 300)
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
    assert header["jwk"]["alg"] == "ES256"
    assert header["kid"] == header["jwk"]["kid"] == tokens().jwks()["keys"][0]["kid"]


def test_guests_can_parse_the_types_of_its_claims() -> None:
    """guest-components refuses a token with a claim of another type."""
    _, said = parts(issued(attested()).token)
    for name in ("iat", "exp"):
        assert type(said[name]) is int
    for name in ("iss", "jti"):
        assert type(said[name]) is str
    assert not {"sub", "aud", "nonce"} & set(said)
    assert "nbf" not in said  # they hold it against their own clock, which may be behind


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-(10**6), "not valid yet"),
        (-61, "not valid yet"),
        (-60, ""),
        (0, ""),
        (299.9, ""),
        (300, "has expired"),
        (10**9, "has expired"),
    ],
)
def test_a_token_is_valid_for_its_lifetime_only(seconds: float, told: str) -> None:
    """A clock that is set back by a minute ends no session; an expired token is refused."""
    token = issued(attested()).token
    now = NOW + timedelta(seconds=seconds)
    if told:
        assert told in refused(token, now=now)
    else:
        assert tokens().read(token, now=now)
    assert timedelta(minutes=5) == LIFETIME


def test_a_token_of_another_broker_is_refused() -> None:
    with pytest.raises(TokenInvalid):
        Tokens(ec.generate_private_key(ec.SECP256R1())).read(issued(attested()).token, now=NOW)


def test_a_token_of_a_broker_with_another_root_is_refused() -> None:
    """A rehearsal may use the same key file, but its guests run on simulated hardware."""
    rehearsal, other = (Tokens(tokens().key, root=digest * 64) for digest in "ab")
    made = {
        each: each.issue(attested(), now=NOW, policy=POLICY).token
        for each in (tokens(), rehearsal, other)
    }
    for reader in made:
        for maker, token in made.items():
            if maker == reader:
                assert reader.read(token, now=NOW).guest().appraisal == attested().appraisal
            else:
                with pytest.raises(TokenInvalid, match="another root"):
                    reader.read(token, now=NOW)


def test_keys_are_redacted() -> None:
    assert "key" not in repr(tokens())
    made = issued(attested())
    assert made.token not in repr(made)
