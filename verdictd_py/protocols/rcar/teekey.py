"""The public key of a guest, to which everything it fetches is encrypted.

Source: wire-rcar.md, "Handshake"; RFC 7517 and 7518.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from verdictd_py.encoding import JsonValue, decode_base64url, quoted
from verdictd_py.errors import EvidenceFormat
from verdictd_py.protocols.rcar.versions import Version


class KeyAlgorithm(StrEnum):
    """How a content key is encrypted to a guest's key (`alg` of its JWK)."""

    ECDH_ES = "ECDH-ES+A256KW"
    RSA_OAEP = "RSA-OAEP-256"
    RSA1_5 = "RSA1_5"


_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-521": ec.SECP521R1,
}
_COORDINATE_BYTES: Final = {"P-256": 32, "P-521": 66}
_FIELDS: Final = {  # SEC 2, 2.4.2 and 2.6.1: coordinates are below these primes
    "P-256": 2**256 - 2**224 + 2**192 + 2**96 - 1,
    "P-521": 2**521 - 1,
}
_ASCII_ZERO: Final = 0x30
_MAX_PADDING: Final = 4
"""Zeros that a coordinate of some guests may have lost: one in 256 keys misses one byte."""

_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192
_MAX_EXPONENT_BITS: Final = 32
_MAX_CHARACTERS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("kty", "crv", "use"), 16),
    "alg": 32,
    **dict.fromkeys(("x", "y"), 88),  # P-521
    "n": 1368,  # RSA of 8192 bits, and a zero byte where somebody wants one
    "e": 8,
    "kid": 256,
}
"""The members that there may be, and how long: tokens hold them twice."""


@dataclass(frozen=True, slots=True)
class TeeKey:
    """A key that was checked.

    Attributes:
        jwk: exactly as the guest sent it, members in its order: evidence covers this.
        algorithm: how content keys are encrypted to it.
        public: the key itself.
    """

    jwk: Mapping[str, str] = field(repr=False)
    algorithm: KeyAlgorithm
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = field(repr=False)

    @classmethod
    def parse(cls, jwk: JsonValue, version: Version) -> Self:
        """Checks a JWK.

        1. An object of text with the members of RFC 7517 and 7518 only. 2. An algorithm of
        this version: RSA1_5 is for the oldest guests alone. 3. A point on a curve that is
        served, or an RSA key of a size that is.

        Raises:
            EvidenceFormat: one of these failed.
        """
        members = text_members(jwk)  # 1
        named = members.get("alg", "")
        try:
            algorithm = KeyAlgorithm(named)  # 2
        except ValueError:
            raise EvidenceFormat(
                f"the TEE key is for {quoted(named)}; served are {', '.join(KeyAlgorithm)}"
            ) from None
        if algorithm is KeyAlgorithm.RSA1_5 and version is not Version.V0_1_1:
            raise EvidenceFormat(f"RSA1_5 is not served to guests of version {version}")
        if algorithm is KeyAlgorithm.ECDH_ES:  # 3
            return cls(members, algorithm, _ec_key(members))
        return cls(members, algorithm, _rsa_key(members))


def text_members(jwk: JsonValue) -> dict[str, str]:
    """The members of a JWK, in their order.

    Raises:
        EvidenceFormat: no object, or a member that is unknown, no text, or too long.
    """
    if not isinstance(jwk, dict):
        raise EvidenceFormat("the TEE key is no JWK")
    members = {}
    for name, value in jwk.items():
        if name not in _MAX_CHARACTERS:
            raise EvidenceFormat(f"the TEE key has the unknown member {quoted(name)}")
        if not isinstance(value, str) or len(value) > _MAX_CHARACTERS[name]:
            raise EvidenceFormat(f"the TEE key's {name} is no text, or too long")
        members[name] = value
    return members


def _ec_key(members: Mapping[str, str]) -> ec.EllipticCurvePublicKey:
    name = members.get("crv", "")
    if members.get("kty") != "EC" or name not in _CURVES:
        raise EvidenceFormat(f"the TEE key is on {quoted(name)}; served are {', '.join(_CURVES)}")
    size = _COORDINATE_BYTES[name]
    x, y = (_number_bytes(members, part) for part in ("x", "y"))
    if len(x) != size or len(y) != size:
        raise EvidenceFormat(f"the TEE key's coordinates have not {size} bytes each")
    for one in _spellings(x):
        for other in _spellings(y):
            found = _point(name, int.from_bytes(one), int.from_bytes(other))
            if found is not None:
                return found
    raise EvidenceFormat(f"the TEE key is no point of {name}")


def _point(curve: str, x: int, y: int) -> ec.EllipticCurvePublicKey | None:
    """The point, None where it is not on the curve.

    OpenSSL takes coordinates modulo the field's prime: one key would have several JWKs.
    """
    if max(x, y) >= _FIELDS[curve]:
        return None
    try:
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()).public_key()
    except ValueError:
        return None


def _spellings(coordinate: bytes) -> Iterator[bytes]:
    """The coordinate as it stands, then as guests v0.12 to v0.18 may have meant it.

    Built on OpenSSL they fill a short coordinate with ASCII zeros on the right, where zero
    bytes on the left belong. The point is then off the curve (but for one chance in two for
    each coordinate, and the other decides), so nothing that is right is ever changed.
    """
    yield coordinate
    for lost in range(1, _MAX_PADDING + 1):
        if coordinate[-lost] != _ASCII_ZERO:
            return
        yield bytes(lost) + coordinate[:-lost]


def _rsa_key(members: Mapping[str, str]) -> rsa.RSAPublicKey:
    if members.get("kty") != "RSA":
        raise EvidenceFormat("the TEE key is no RSA key, as its algorithm wants")
    modulus, exponent = (int.from_bytes(_number_bytes(members, part)) for part in ("n", "e"))
    if not _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS:
        raise EvidenceFormat(
            f"the TEE key has {modulus.bit_length()} bits; served are "
            f"{_MIN_RSA_BITS} to {_MAX_RSA_BITS}"
        )
    if modulus % 2 == 0:  # not every OpenSSL looks before it encrypts
        raise EvidenceFormat("the TEE key has an even modulus")
    if exponent.bit_length() > _MAX_EXPONENT_BITS:
        raise EvidenceFormat("the TEE key has an exponent of more than 32 bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise EvidenceFormat("the TEE key is no RSA key") from None


def _number_bytes(members: Mapping[str, str], name: str) -> bytes:
    """Big-endian bytes of a member in base64url without padding (RFC 7518, 2)."""
    text = members.get(name, "")
    try:
        return decode_base64url(text)
    except ValueError:
        raise EvidenceFormat(f"the TEE key's {name} is no base64url without padding") from None
