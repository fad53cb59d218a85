"""Public key of a guest, to which everything that it fetches is encrypted.

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
"""Maximum number of leading zero bytes that a guest may have moved (`_spellings`). A coordinate
has one of them in one of 256 keys."""

_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192
_MAX_EXPONENT_BITS: Final = 32
_MAX_CHARACTERS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("kty", "crv", "use"), 16),
    "alg": 32,
    **dict.fromkeys(("x", "y"), 88),  # P-521
    "n": 1368,  # RSA of 8192 bits, and possibly a leading zero byte
    "e": 8,
    "kid": 256,
}
"""Allowed members and their maximum lengths: tokens contain the key twice."""


@dataclass(frozen=True, slots=True)
class TeeKey:
    """Validated key of a guest.

    Attributes:
        jwk: exactly as the guest sent it, members in its order: evidence covers this.
        algorithm: algorithm that encrypts content keys to it.
        public: the key itself.
    """

    jwk: Mapping[str, str] = field(repr=False)
    algorithm: KeyAlgorithm
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = field(repr=False)

    @classmethod
    def parse(cls, jwk: JsonValue, version: Version) -> Self:
        """Validate a JWK.

        1. It is an object of strings, with members of RFC 7517 and 7518 only. 2. The version
        supports its algorithm: only the oldest guests may use RSA1_5. 3. It is a point on a
        supported curve, or an RSA key of a supported size.

        Raises:
            EvidenceFormat: one of these checks failed.
        """
        members = text_members(jwk)  # 1
        name = members.get("alg", "")
        try:
            algorithm = KeyAlgorithm(name)  # 2
        except ValueError:
            raise EvidenceFormat(
                f"the TEE key has the algorithm {quoted(name)}; "
                f"supported are {', '.join(KeyAlgorithm)}"
            ) from None
        if algorithm is KeyAlgorithm.RSA1_5 and version is not Version.V0_1_1:
            raise EvidenceFormat(f"RSA1_5 is not supported for guests of version {version}")
        if algorithm is KeyAlgorithm.ECDH_ES:  # 3
            return cls(members, algorithm, _ec_key(members))
        return cls(members, algorithm, _rsa_key(members))


def text_members(jwk: JsonValue) -> dict[str, str]:
    """Return the members of a JWK, in their order.

    Raises:
        EvidenceFormat: not an object, or a member is unknown, not a string, or too long.
    """
    if not isinstance(jwk, dict):
        raise EvidenceFormat("the TEE key is not a JWK")
    members = {}
    for name, value in jwk.items():
        if name not in _MAX_CHARACTERS:
            raise EvidenceFormat(f"the TEE key has the unknown member {quoted(name)}")
        if not isinstance(value, str) or len(value) > _MAX_CHARACTERS[name]:
            raise EvidenceFormat(f"the TEE key's {name} is not a string, or too long")
        members[name] = value
    return members


def _ec_key(members: Mapping[str, str]) -> ec.EllipticCurvePublicKey:
    name = members.get("crv", "")
    if members.get("kty") != "EC" or name not in _CURVES:
        raise EvidenceFormat(
            f"the TEE key is on the curve {quoted(name)}; supported are {', '.join(_CURVES)}"
        )
    size = _COORDINATE_BYTES[name]
    x, y = (_number_bytes(members, part) for part in ("x", "y"))
    if len(x) != size or len(y) != size:
        raise EvidenceFormat(f"the TEE key's coordinates do not have {size} bytes each")
    for possible_x in _spellings(x):
        for possible_y in _spellings(y):
            key = _point(name, int.from_bytes(possible_x), int.from_bytes(possible_y))
            if key is not None:
                return key
    raise EvidenceFormat(f"the TEE key is not a point on {name}")


def _point(curve: str, x: int, y: int) -> ec.EllipticCurvePublicKey | None:
    """Return the point, None if it is not on the curve.

    OpenSSL reduces coordinates modulo the field's prime, so one key would have several JWKs;
    larger coordinates are therefore refused.
    """
    if max(x, y) >= _FIELDS[curve]:
        return None
    try:
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()).public_key()
    except ValueError:
        return None


def _spellings(coordinate: bytes) -> Iterator[bytes]:
    """Yield the coordinate as it was sent, then as guests v0.12 to v0.18 may have meant it.

    Builds with OpenSSL fill a short coordinate with ASCII zeros on the right instead of zero
    bytes on the left. The coordinate as it was sent is tried first, so a correct key never
    changes.
    """
    yield coordinate
    for padding in range(1, _MAX_PADDING + 1):
        if coordinate[-padding] != _ASCII_ZERO:
            return
        yield bytes(padding) + coordinate[:-padding]


def _rsa_key(members: Mapping[str, str]) -> rsa.RSAPublicKey:
    if members.get("kty") != "RSA":
        raise EvidenceFormat("the TEE key is not an RSA key, as its algorithm requires")
    modulus, exponent = (int.from_bytes(_number_bytes(members, part)) for part in ("n", "e"))
    if not _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS:
        raise EvidenceFormat(
            f"the TEE key has {modulus.bit_length()} bits; supported are "
            f"{_MIN_RSA_BITS} to {_MAX_RSA_BITS}"
        )
    if modulus % 2 == 0:  # some versions of OpenSSL do not check this
        raise EvidenceFormat("the TEE key has an even modulus")
    if exponent.bit_length() > _MAX_EXPONENT_BITS:
        raise EvidenceFormat("the TEE key has an exponent of more than 32 bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise EvidenceFormat("the TEE key is not a valid RSA key") from None


def _number_bytes(members: Mapping[str, str], name: str) -> bytes:
    """Return the big-endian bytes of a member in base64url without padding (RFC 7518, 2)."""
    try:
        return decode_base64url(members[name])
    except (KeyError, ValueError):
        raise EvidenceFormat(f"the TEE key's {name} is not base64url without padding") from None
