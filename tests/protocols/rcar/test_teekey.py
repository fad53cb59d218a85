"""Keys of guests: the forms that real guests send, and invalid keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rcar import (
    CURVES,
    KINDS,
    SIZES,
    b64url,
    coordinates,
    ec_jwk,
    jwk_of,
    number,
    padded,
    private_key,
    rsa_jwk,
)
from verdictd_py.encoding import JsonValue, decode_base64url, encode_base64url
from verdictd_py.errors import EvidenceFormat
from verdictd_py.protocols.rcar.teekey import KeyAlgorithm, TeeKey
from verdictd_py.protocols.rcar.versions import Version

LATEST = Version.V0_4_0
PRIMES = {"P-256": 2**256 - 2**224 + 2**192 + 2**96 - 1, "P-521": 2**521 - 1}
B_256 = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B  # SEC 2, 2.4.2


def parse(jwk: JsonValue, version: Version = LATEST) -> TeeKey:
    return TeeKey.parse(jwk, version)


def refused(jwk: JsonValue, version: Version = LATEST) -> str:
    with pytest.raises(EvidenceFormat) as caught:
        parse(jwk, version)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    return str(caught.value)


@pytest.mark.parametrize(("kind", "version"), KINDS)
def test_keys_of_real_guests_are_accepted(kind: str, version: Version) -> None:
    jwk = jwk_of(kind)
    found = parse(jwk, version)
    assert found.public.public_numbers() == private_key(kind).public_key().public_numbers()
    assert (dict(found.jwk), list(found.jwk)) == (jwk, list(jwk))
    assert found.algorithm == jwk["alg"]
    assert str(jwk.get("x", jwk.get("n"))) not in repr(found)


@pytest.mark.parametrize("version", [Version.V0_2_0, Version.V0_4_0])
def test_rsa1_5_is_for_the_oldest_guests_only(version: Version) -> None:
    """Its padding is prone to oracle attacks, and newer guests never use it."""
    assert "RSA1_5 is not supported" in refused(jwk_of("RSA1_5"), version)
    assert parse(jwk_of("RSA1_5"), Version.V0_1_1).algorithm is KeyAlgorithm.RSA1_5


@pytest.mark.parametrize(
    "alg", ["", "none", "dir", "RSA-OAEP", "ECDH-ES", "A256KW", "ML-KEM-768+A192KW", "rsa1_5"]
)
def test_unsupported_algorithms_are_refused(alg: str) -> None:
    for jwk in (jwk_of("P-256"), jwk_of("RSA-OAEP-256")):
        assert "supported are" in refused({**jwk, "alg": alg})
        assert "supported are" in refused({name: jwk[name] for name in jwk if name != "alg"})


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "RSA-OAEP-256"},
        {"kty": "RSA"},
        {"kty": "RSA", "alg": "RSA-OAEP-256"},
        {"kty": "OKP"},
        {"kty": "ec"},
        {"crv": "P-384"},
        {"crv": "P-521"},
        {"crv": "p-256"},
        {"crv": "secp256k1"},
        {"crv": ""},
        {"x": ""},
        {"y": ""},
    ],
)
def test_members_that_do_not_match_are_refused(changes: dict[str, JsonValue]) -> None:
    refused({**jwk_of("P-256"), **changes})


@pytest.mark.parametrize("left_out", ["kty", "crv", "alg", "x", "y"])
def test_every_member_of_an_ec_key_is_required(left_out: str) -> None:
    refused({name: value for name, value in jwk_of("P-256").items() if name != left_out})


@pytest.mark.parametrize("left_out", ["kty", "alg", "n", "e"])
def test_every_member_of_an_rsa_key_is_required(left_out: str) -> None:
    refused({name: value for name, value in jwk_of("RSA-OAEP-256").items() if name != left_out})


@pytest.mark.parametrize("name", ["d", "p", "k", "x5c", "x5u", "jku", "key_ops", "pub", "", "X"])
def test_unknown_members_are_refused(name: str) -> None:
    """Above all private keys: no secret is encrypted to a key that was disclosed."""
    assert "unknown member" in refused({**jwk_of("P-256"), name: "AQAB"})


@pytest.mark.parametrize("name", ["kty", "crv", "alg", "x", "y", "kid", "use", "n", "e"])
@pytest.mark.parametrize("value", [None, 1, True, [], {}, "A" * 1400])
def test_members_that_are_not_strings_or_too_long_are_refused(name: str, value: JsonValue) -> None:
    """A guest chooses them, and its token contains them twice."""
    assert name in refused({**jwk_of("P-256"), name: value})


@pytest.mark.parametrize("jwk", [None, [], "x", 1, {}, [jwk_of("P-256")]])
def test_other_json_values_are_refused(jwk: JsonValue) -> None:
    refused(jwk)


def test_kid_and_use_are_covered_by_evidence_and_otherwise_ignored() -> None:
    jwk = {**jwk_of("P-256"), "kid": "../../é", "use": "enc"}
    assert dict(parse(jwk).jwk) == jwk


@pytest.mark.parametrize("bits", [2048, 3072, 8192])
def test_supported_rsa_sizes_are_accepted(bits: int) -> None:
    modulus = (1 << (bits - 1)) | 1  # no product of primes, which nobody can tell
    assert parse(rsa_jwk(modulus)).public.key_size == bits


@pytest.mark.parametrize("bits", [8, 512, 1024, 2047, 8193])
def test_unsupported_rsa_sizes_are_refused(bits: int) -> None:
    told = refused(rsa_jwk((1 << (bits - 1)) | 1))
    assert "2048 to 8192" in told or "too long" in told


@pytest.mark.parametrize("exponent", [0, 1, 2, 4, 65536, 2**32 + 1, 2**47])
def test_insecure_or_slow_rsa_exponents_are_refused(exponent: int) -> None:
    """The exponent 1 does not encrypt; large exponents take long."""
    numbers = private_key("RSA-OAEP-256").public_key().public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    refused({**rsa_jwk(numbers.n), "e": number(exponent, 6)})


def test_an_rsa_exponent_has_at_most_32_bits() -> None:
    numbers = private_key("RSA-OAEP-256").public_key().public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    assert parse({**rsa_jwk(numbers.n), "e": number(2**32 - 1)})
    assert "32 bits" in refused({**rsa_jwk(numbers.n), "e": number(2**32 + 1)})


def test_an_even_rsa_modulus_is_refused() -> None:
    numbers = private_key("RSA-OAEP-256").public_key().public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    for modulus in (numbers.n + 1, 1 << 2047):
        assert "even" in refused(rsa_jwk(modulus))


def off_the_curve() -> Iterator[Any]:
    for curve, size in SIZES.items():
        x, y = (int.from_bytes(part) for part in coordinates(7, curve))
        prime = PRIMES[curve]
        top = 256**size
        for name, point in {
            "infinity as zeros": (0, 0),
            "x alone": (x, 0),
            "y alone": (0, y),
            "swapped": (y, x),
            "next to it": (x, y + 1),
            "largest": (top - 1, top - 1),
            "the prime": (prime, prime),
            "x not reduced": (x + prime, y),
            "y not reduced": (x, y + prime),
        }.items():
            if max(point) < top:
                yield pytest.param(curve, point, id=f"{curve} {name}")
    # On the curve y^2 = x^3 - 3x of the same field, which has a point of order 2 at x = 0.
    yield pytest.param("P-256", (0, 1), id="P-256 of another curve")


@pytest.mark.parametrize(("curve", "point"), list(off_the_curve()))
def test_points_that_are_not_on_the_curve_are_refused(curve: str, point: tuple[int, int]) -> None:
    """A point of a weak curve would give away the ephemeral key, and with it nothing: it is
    used once. It is refused all the same. (Both curves have cofactor 1: no point on them has
    a low order.)"""
    x, y = (part.to_bytes(SIZES[curve]) for part in point)
    assert "not a point" in refused(ec_jwk(x, y, curve))


def test_a_point_with_a_zero_coordinate_is_accepted() -> None:
    prime = PRIMES["P-256"]
    y = pow(B_256, (prime + 1) // 4, prime)
    assert parse(ec_jwk(bytes(32), y.to_bytes(32)))
    # but not a second spelling of it
    assert "not a point" in refused(ec_jwk(prime.to_bytes(32), y.to_bytes(32)))


@pytest.mark.parametrize("curve", SIZES)
@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("which", [0, 1])
def test_coordinates_must_have_their_full_size(curve: str, change: int, which: int) -> None:
    parts = list(coordinates(7, curve))
    parts[which] = parts[which][1:] if change < 0 else b"\0" + parts[which]
    told = refused(ec_jwk(parts[0], parts[1], curve))
    assert "bytes each" in told or "too long" in told


@pytest.mark.parametrize(
    "scalar",
    [
        pytest.param(379, id="x one byte short"),
        pytest.param(43, id="y one byte short"),
        pytest.param(40393, id="x two bytes short"),
        pytest.param(2376, id="y two bytes short"),
        pytest.param(49350, id="both short"),
        pytest.param(64248, id="x short, and y ends with the filling"),
    ],
)
def test_wrongly_padded_coordinates_of_older_guests_are_accepted(scalar: int) -> None:
    """One key in 128 has one. Evidence covers the JWK as it was sent, which is also stored."""
    x, y = coordinates(scalar, "P-256")
    jwk = ec_jwk(padded(x), padded(y))
    assert jwk != ec_jwk(x, y)
    found = parse(jwk)
    assert found.public.public_numbers() == parse(ec_jwk(x, y)).public.public_numbers()
    assert found.jwk == jwk


@pytest.mark.parametrize("lost", [3, 4, 5])
def test_at_most_four_bytes_of_padding_are_corrected(lost: int) -> None:
    """The accepted keys are those that guests make by chance: more lost bytes are forged."""
    x, y = point_with_short_x(32 - lost)
    assert parse(ec_jwk(x, y))
    if lost <= 4:
        assert parse(ec_jwk(padded(x), y)).public == parse(ec_jwk(x, y)).public
    else:
        assert "not a point" in refused(ec_jwk(padded(x), y))


def point_with_short_x(size: int) -> tuple[bytes, bytes]:
    """Return a point of P-256 whose x has `size` bytes without the leading zeros."""
    prime = PRIMES["P-256"]
    for x in range(256**size - 1, 0, -1):
        square = (x**3 - 3 * x + B_256) % prime
        y = pow(square, (prime + 1) // 4, prime)
        if y * y % prime == square:
            return x.to_bytes(32), y.to_bytes(32)
    raise AssertionError("half of all x are on the curve")


@pytest.mark.parametrize("curve", SIZES)
def test_every_wrongly_padded_key_among_a_thousand_is_accepted(curve: str) -> None:
    """One in 128 on P-256; three in four on P-521, whose coordinates begin with seven zero bits."""
    count = 0
    for scalar in range(1, 1001):
        x, y = coordinates(scalar, curve)
        right = parse(ec_jwk(x, y, curve)).public.public_numbers()
        assert isinstance(right, ec.EllipticCurvePublicNumbers)
        assert (right.x, right.y) == (int.from_bytes(x), int.from_bytes(y))  # never changed
        if x[0] and y[0]:
            continue
        count += 1
        assert parse(ec_jwk(padded(x), padded(y), curve)).public.public_numbers() == right
    assert count > (2 if curve == "P-256" else 600)


@given(st.integers(1, 2**250), st.sampled_from(sorted(SIZES)))
def test_a_correct_key_is_never_changed(scalar: int, curve: str) -> None:
    x, y = coordinates(scalar, curve)
    found = parse(ec_jwk(x, y, curve)).public.public_numbers()
    assert found == ec.EllipticCurvePublicNumbers(
        int.from_bytes(x), int.from_bytes(y), CURVES[curve]
    )


@pytest.mark.parametrize("scalar", [230, 2217])
def test_a_correct_key_that_ends_like_padding_is_not_changed(scalar: int) -> None:
    x, y = coordinates(scalar, "P-256")
    assert b"0" in (x[-1:], y[-1:])
    found = parse(ec_jwk(x, y)).public.public_numbers()
    assert isinstance(found, ec.EllipticCurvePublicNumbers)
    assert (found.x, found.y) == (int.from_bytes(x), int.from_bytes(y))


def test_other_paddings_are_refused() -> None:
    x, y = coordinates(379, "P-256")
    for filling in (b"\0", b"1", b"\x0f"):
        assert "not a point" in refused(ec_jwk(x[1:] + filling, y))
    assert "not a point" in refused(ec_jwk(b"0" + x[1:], y))  # on the left


@pytest.mark.parametrize(
    "text", ["A", "AAAAA", "AA=", "AA==", "A+AA", "A/AA", "A A", "AA\n", "é", "\0", "A.AA", ""]
)
def test_invalid_base64url_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_base64url(text)
    refused({**jwk_of("P-256"), "x": text})
    refused({**jwk_of("RSA-OAEP-256"), "n": text})


@given(st.binary(min_size=1))
def test_base64url_is_decoded(data: bytes) -> None:
    assert encode_base64url(data) == b64url(data)
    assert decode_base64url(b64url(data)) == data


TEXTS = st.sampled_from(
    ["EC", "RSA", "P-256", "P-521", *KeyAlgorithm, "AQAB", b64url(bytes(32)), b64url(b"\1" * 66)]
) | st.text(max_size=50)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "alg", "crv", "x", "y", "n", "e", "kid", "use", "d"]),
        TEXTS | st.none() | st.integers(),
    ),
    st.sampled_from(Version),
)
def test_arbitrary_jwks_raise_the_documented_error_only(
    jwk: dict[str, JsonValue], version: Version
) -> None:
    try:
        assert parse(jwk, version).jwk == jwk
    except EvidenceFormat as error:
        assert "\n" not in str(error)  # noqa: PT017
