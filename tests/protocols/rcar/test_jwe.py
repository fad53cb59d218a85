"""Encrypted answers, decrypted by an independent library and by hand."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto import jwe as other_jwe
from jwcrypto import jwk as other_jwk
from jwcrypto.common import JWException

from tests.support.examples import examples
from tests.support.rcar import (
    KINDS,
    b64url,
    coordinates,
    ec_jwk,
    padded,
    private_key,
    tee_key,
    unb64url,
)
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.protocols.rcar import jwe
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.versions import Version

SECRET = b"\0\xff a secret of any bytes \n"
STANDARD = [(kind, version) for kind, version in KINDS if version is not Version.V0_1_1]
OLDEST = Version.V0_1_1


def encrypted(
    kind: str, version: Version = Version.V0_4_0, content: bytes = SECRET
) -> dict[str, Any]:
    text = jwe.encrypt(SecretBytes(content), tee_key(kind, version), version, random=os.urandom)
    found: dict[str, Any] = json.loads(text)
    return found


def opened(
    answer: dict[str, Any], private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> bytes:
    """Decrypt an answer with jwcrypto."""
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found = other_jwe.JWE(algs=["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"])
    found.deserialize(json.dumps(answer), other_jwk.JWK.from_pem(pem))
    assert isinstance(found.payload, bytes)
    return found.payload


@pytest.mark.parametrize(("kind", "version"), STANDARD)
@pytest.mark.parametrize("content", [b"\0", SECRET, bytes(100_000)])
def test_another_library_decrypts_the_answer(kind: str, version: Version, content: bytes) -> None:
    assert opened(encrypted(kind, version, content), private_key(kind)) == content


@pytest.mark.parametrize(("kind", "version"), STANDARD)
def test_the_header_has_its_members_in_order(kind: str, version: Version) -> None:
    """Guests rebuild the authenticated data from the parsed header, so the order matters."""
    answer = encrypted(kind, version)
    assert list(answer) == ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
    for text in answer.values():
        assert b64url(unb64url(text)) == text
    assert len(unb64url(answer["iv"])) == 12
    assert len(unb64url(answer["tag"])) == 16
    assert len(unb64url(answer["ciphertext"])) == len(SECRET)
    header = unb64url(answer["protected"]).decode()
    pairs = json.loads(header, object_pairs_hook=list)
    assert json.dumps(json.loads(header), separators=(",", ":")) == header
    if kind == "RSA-OAEP-256":
        assert pairs == [("alg", kind), ("enc", "A256GCM")]
        assert len(unb64url(answer["encrypted_key"])) == 256
        return
    assert [name for name, _ in pairs] == ["alg", "enc", "epk"]
    assert pairs[:2] == [("alg", "ECDH-ES+A256KW"), ("enc", "A256GCM")]
    epk = pairs[2][1]
    assert [name for name, _ in epk] == ["crv", "kty", "x", "y"]
    assert dict(epk)["crv"] == kind
    size = 32 if kind == "P-256" else 66
    assert {len(unb64url(dict(epk)[name])) for name in "xy"} == {size}
    assert len(unb64url(answer["encrypted_key"])) == 40


def test_ephemeral_coordinates_have_their_full_size() -> None:
    """One coordinate in 128 has leading zeros; on P-521 three in four do."""
    for kind, count in (("P-256", 400), ("P-521", 12)):
        size = 32 if kind == "P-256" else 66
        for _ in range(count):
            header = json.loads(unb64url(encrypted(kind)["protected"]))
            assert {len(unb64url(header["epk"][name])) for name in "xy"} == {size}


def test_the_oldest_guests_get_their_own_format() -> None:
    """The header is unencoded and not authenticated, and the tag follows the ciphertext."""
    answer = encrypted("RSA1_5", OLDEST)
    assert list(answer) == ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
    assert answer["protected"] == '{"alg":"RSA1_5","enc":"A256GCM"}'
    assert answer["tag"] == ""
    private = private_key("RSA1_5")
    assert isinstance(private, rsa.RSAPrivateKey)
    content_key = private.decrypt(unb64url(answer["encrypted_key"]), padding.PKCS1v15())
    sealed = unb64url(answer["ciphertext"])
    assert len(sealed) == len(SECRET) + 16
    assert AESGCM(content_key).decrypt(unb64url(answer["iv"]), sealed, None) == SECRET


@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_every_answer_has_fresh_keys_and_nonces(kind: str, version: Version) -> None:
    answers = [encrypted(kind, version) for _ in range(20)]
    for name in ("encrypted_key", "iv", "ciphertext"):
        assert len({answer[name] for answer in answers}) == len(answers), name
    if kind.startswith("P-"):
        assert len({answer["protected"] for answer in answers}) == len(answers)


@pytest.mark.parametrize(("kind", "version"), STANDARD)
@pytest.mark.parametrize("member", ["protected", "encrypted_key", "iv", "ciphertext", "tag"])
def test_a_changed_answer_is_not_decrypted(kind: str, version: Version, member: str) -> None:
    answer, other = encrypted(kind, version), encrypted(kind, version)
    if answer[member] != other[member]:  # RSA's header is always the same
        with pytest.raises(JWException):
            opened({**answer, member: other[member]}, private_key(kind))
    data = bytearray(unb64url(answer[member]))
    data[len(data) // 2] ^= 1
    with pytest.raises((JWException, ValueError)):
        opened({**answer, member: b64url(bytes(data))}, private_key(kind))


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA-OAEP-256"])
def test_another_key_does_not_decrypt_the_answer(kind: str) -> None:
    own = private_key(kind)
    if isinstance(own, rsa.RSAPrivateKey):
        other: Any = rsa.generate_private_key(65537, 2048)
    else:
        other = ec.generate_private_key(own.curve)
    with pytest.raises(JWException):
        opened(encrypted(kind), other)
    assert SECRET.hex() not in json.dumps(encrypted(kind))


@pytest.mark.parametrize("scalar", [43, 379, 49350])
def test_a_guest_with_a_wrongly_padded_key_decrypts_its_answer(scalar: int) -> None:
    x, y = coordinates(scalar, "P-256")
    jwk = ec_jwk(padded(x), padded(y))
    version = Version.V0_2_0
    answer = jwe.encrypt(
        SecretBytes(SECRET), TeeKey.parse(jwk, version), version, random=os.urandom
    )
    private = ec.derive_private_key(scalar, ec.SECP256R1())
    assert opened(json.loads(answer), private) == SECRET


@given(st.binary(min_size=1, max_size=300))  # jwcrypto takes no empty one, and no store has one
@examples(30)
def test_arbitrary_content_is_encrypted(content: bytes) -> None:
    assert opened(encrypted("P-256", content=content), private_key("P-256")) == content
