"""Decryption of encrypted answers, which jwcrypto or, if it cannot, the test encrypts."""

from __future__ import annotations

import base64
import json

import pytest
from jwcrypto import jwk

from tests.support.fake_kbs import SECRET, sealed, sealed_as_before_0_2_0
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError
from verdictd_py.guest.rcar.errors import AnswerInvalid, to_base64url
from verdictd_py.guest.rcar.jwe import associated_data, open_answer
from verdictd_py.guest.rcar.keys import RSA1_5, RSA_OAEP_256, TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import Version

NEWER = (Version.V0_2_0, Version.V0_4_0)


@pytest.fixture(scope="module", params=list(TeeKeyKind), ids=lambda kind: kind.value)
def key(request: pytest.FixtureRequest) -> TeeKey:
    return TeeKey.new(request.param)


@pytest.fixture(scope="module")
def ec_key() -> TeeKey:
    return TeeKey.new(TeeKeyKind.EC_P256)


@pytest.fixture(scope="module")
def rsa_key() -> TeeKey:
    return TeeKey.new(TeeKeyKind.RSA)


def opened(answer: object, key: TeeKey, version: Version = Version.V0_4_0) -> bytes:
    return open_answer(json.dumps(answer).encode(), key, version).reveal()


def of(text: str, **members: object) -> str:
    """Return a protected header with changed members."""
    padded = text + "=" * (-len(text) % 4)
    header = json.loads(base64.urlsafe_b64decode(padded))
    return to_base64url(json.dumps({**header, **members}, separators=(",", ":")).encode())


@pytest.mark.parametrize("version", NEWER)
def test_an_answer_of_another_implementation_is_decrypted(key: TeeKey, version: Version) -> None:
    for secret in (SECRET, b"", bytes(100_000)):
        assert opened(sealed(key, secret), key, version) == secret


def test_the_oldest_form_is_decrypted() -> None:
    key = TeeKey.new(TeeKeyKind.RSA, Version.V0_1_1)
    assert key.algorithm == key.jwk["alg"] == RSA1_5
    answer = sealed_as_before_0_2_0(key)
    assert opened(answer, key, Version.V0_1_1) == SECRET
    for version in NEWER:
        with pytest.raises(AnswerInvalid):
            opened(answer, key, version)


def test_the_oldest_form_requires_an_empty_tag() -> None:
    key = TeeKey.new(TeeKeyKind.RSA, Version.V0_1_1)
    answer = sealed_as_before_0_2_0(key, tag=to_base64url(bytes(16)))
    with pytest.raises(AnswerInvalid, match="iv or tag"):
        opened(answer, key, Version.V0_1_1)
    del answer["tag"]
    with pytest.raises(AnswerInvalid, match="lacks 'tag'"):
        opened(answer, key, Version.V0_1_1)


@pytest.mark.parametrize("size", [16, 24])
def test_a_content_key_of_another_size_is_refused(size: int) -> None:
    """AES-GCM accepts keys of other sizes, but the header says A256GCM."""
    key = TeeKey.new(TeeKeyKind.RSA, Version.V0_1_1)
    with pytest.raises(AnswerInvalid, match="content key"):
        opened(sealed_as_before_0_2_0(key, size), key, Version.V0_1_1)


@pytest.mark.parametrize(
    "protected",
    [
        '{"enc":"A256GCM","alg":"RSA-OAEP-256"}',
        '{"alg": "RSA-OAEP-256", "enc": "A256GCM"}',
        '{"alg":"RSA-OAEP-256","enc":"A256GCM"}\n',
        '{"alg":"RSA\\u002dOAEP-256","enc":"A256GCM"}',
    ],
)
def test_a_header_in_another_serialisation_is_refused(rsa_key: TeeKey, protected: str) -> None:
    """Guests serialise the header again, so they cannot decrypt this valid JWE."""
    answer = sealed(rsa_key, protected=protected)
    with pytest.raises(AnswerInvalid, match="not serialised"):
        opened(answer, rsa_key)


def test_the_associated_data_is_the_header_as_guests_write_it() -> None:
    epk: JsonValue = {"y": "eQ", "x": "eA", "kty": "EC", "crv": "P-256"}
    written = '{"alg":"a","enc":"e","epk":{"crv":"P-256","kty":"EC","x":"eA","y":"eQ"}}'
    serialised = associated_data({"epk": epk, "enc": "e", "alg": "a"})
    assert serialised.decode() == to_base64url(written.encode())


@pytest.mark.parametrize("name", ["encrypted_key", "iv", "ciphertext", "tag"])
def test_one_changed_bit_is_refused(key: TeeKey, name: str) -> None:
    answer = sealed(key)
    first = "B" if answer[name][0] == "A" else "A"
    answer[name] = first + answer[name][1:]
    with pytest.raises(AnswerInvalid) as raised:
        opened(answer, key)
    assert raised.value.__cause__ is None


def test_an_answer_to_another_guest_is_refused(
    key: TeeKey, ec_key: TeeKey, rsa_key: TeeKey
) -> None:
    for other in (ec_key, rsa_key, TeeKey.new(TeeKeyKind.EC_P256)):
        if other is not key and other.jwk != key.jwk:
            with pytest.raises(AnswerInvalid):
                opened(sealed(other), key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enc": "A128GCM"}, "not encrypted with A256GCM"),
        ({"enc": None}, "'enc'"),
        ({"alg": "ECDH-ES"}, "another algorithm"),
        ({"alg": RSA_OAEP_256}, "another algorithm"),
        ({"alg": "dir"}, "another algorithm"),
        ({"epk": None}, "no epk"),
        ({"epk": {"kty": "OKP", "crv": "X25519", "x": "eA"}}, "another curve"),
        ({"epk": {"kty": "EC", "crv": "P-521", "x": "eA", "y": "eQ"}}, "another curve"),
        ({"epk": {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}}, "x has 1 bytes"),
        ({"epk": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}}, "not for this"),
        ({"epk": {"kty": "EC", "crv": "P-256", "x": "A" * 43}}, "'y'"),
        ({"epk": {"kty": "EC", "crv": "P-256", "x": 5, "y": 5}}, "'x'"),
    ],
)
def test_headers_for_another_key_are_refused(
    ec_key: TeeKey, changes: dict[str, object], message: str
) -> None:
    answer = sealed(ec_key)
    answer["protected"] = of(answer["protected"], **changes)
    with pytest.raises(AnswerInvalid, match=message):
        opened(answer, ec_key)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xff", b"[]", b"null", b"5", b'"text"', b"{", b"[" * 100_000, b"{}"),
        b'{"protected":"e30","encrypted_key":"","iv":"","ciphertext":"","tag":""}',
        b'{"protected":"e30=","encrypted_key":"","iv":"","ciphertext":"","tag":""}',
        b'{"protected":{},"encrypted_key":"","iv":"","ciphertext":"","tag":""}',
        b'{"protected":"\\ud800","encrypted_key":"","iv":"","ciphertext":"","tag":""}',
        b'{"protected":"{}","protected":"{}","encrypted_key":"","iv":"","ciphertext":"","tag":""}',
        b'{"protected":NaN,"encrypted_key":"","iv":"","ciphertext":"","tag":""}',
    ],
)
@pytest.mark.parametrize("version", list(Version))
def test_garbage_raises_the_documented_error_only(
    ec_key: TeeKey, body: bytes, version: Version
) -> None:
    with pytest.raises(AnswerInvalid):
        open_answer(body, ec_key, version)


@pytest.mark.parametrize("name", ["iv", "ciphertext", "tag", "encrypted_key", "protected"])
def test_base64url_is_read_as_strictly_as_guests_do(ec_key: TeeKey, name: str) -> None:
    answer = sealed(ec_key)
    for bad in (answer[name] + "=", answer[name] + "\n", "+" + answer[name], "A" * 5):
        with pytest.raises(AnswerInvalid, match="not base64url"):
            opened({**answer, name: bad}, ec_key)


def test_trailing_bits_are_not_base64url(ec_key: TeeKey) -> None:
    answer = {**sealed(ec_key), "tag": "A" * 21 + "B"}  # 16 bytes leave four bits
    with pytest.raises(AnswerInvalid, match="not base64url"):
        opened(answer, ec_key)


class TestTeeKey:
    def test_the_jwk_is_as_guests_send_it(self, key: TeeKey) -> None:
        names = list(key.jwk)
        if key.algorithm == RSA_OAEP_256:
            assert names == ["kty", "alg", "n", "e"]
            assert key.jwk["e"] == "AQAB"
            assert len(str(key.jwk["n"])) == 342  # 256 bytes
        else:
            assert names == ["kty", "crv", "alg", "x", "y"]
            size = {"P-256": 43, "P-521": 88}[str(key.jwk["crv"])]
            assert [len(str(key.jwk[name])) for name in "xy"] == [size, size]

    def test_another_implementation_reads_the_jwk(self, key: TeeKey) -> None:
        public = jwk.JWK.from_pem(key.to_pem().reveal()).export_public(as_dict=True)
        shown = {name: value for name, value in key.jwk.items() if name != "alg"}
        assert {name: public[name] for name in shown} == shown

    def test_it_comes_back_from_pem(self, key: TeeKey) -> None:
        again = TeeKey.from_pem(key.to_pem().reveal())
        assert again.jwk == key.jwk
        assert opened(sealed(key), again) == SECRET

    def test_the_key_is_redacted(self, key: TeeKey) -> None:
        assert repr(key) == f"<TEE key for {key.algorithm}>"
        assert isinstance(key.to_pem(), SecretBytes)

    def test_an_unsupported_tee_key_is_refused(self) -> None:
        other = jwk.JWK.generate(kty="EC", crv="P-384")
        p384 = other.export_to_pem(private_key=True, password=None)
        for pem in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", p384):
            with pytest.raises(ConfigError, match="TEE key") as raised:
                TeeKey.from_pem(pem)
            assert raised.value.__cause__ is None

    def test_guests_of_each_version_have_their_usual_kind(self) -> None:
        kinds = [TeeKeyKind.usual(version).value for version in Version]
        assert kinds == ["rsa", "ec-p256", "ec-p256"]
