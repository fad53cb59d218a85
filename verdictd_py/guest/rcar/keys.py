"""The key pair of a guest's TEE: evidence covers it, and answers are encrypted to it.

Sources: wire-rcar.md, "Handshake" and "Resources"; RFC 7518, 4.2, 4.3, 4.6 and 6;
guest-components, attestation-agent/kbs_protocol/src/keypair.rs.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.guest.rcar.errors import AnswerInvalid, from_base64url, text_of, to_base64url
from verdictd_py.guest.rcar.messages import JsonObject, Version

ECDH_ES_A256KW: Final = "ECDH-ES+A256KW"
RSA_OAEP_256: Final = "RSA-OAEP-256"
RSA1_5: Final = "RSA1_5"

_RSA_BITS: Final = 2048  # guest-components, deps/crypto: RSA_KEY_SIZE
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class TeeKeyKind(Enum):
    """Kind of key pair that a guest generates."""

    EC_P256 = "ec-p256"
    """Default of guest-components from v0.12 on."""
    EC_P521 = "ec-p521"
    RSA = "rsa"
    """The only kind up to v0.11."""

    @classmethod
    def usual(cls, version: Version) -> Self:
        """Return the default kind of guests of that version."""
        return cls("rsa" if version is Version.V0_1_1 else "ec-p256")


_CURVES: Final[dict[TeeKeyKind, ec.EllipticCurve]] = {
    TeeKeyKind.EC_P256: ec.SECP256R1(),
    TeeKeyKind.EC_P521: ec.SECP521R1(),
}
_NAMES: Final = {"secp256r1": "P-256", "secp521r1": "P-521"}  # cryptography -> RFC 7518, 6.2.1.1


class TeeKey:
    """One key pair, whose repr contains only the algorithm.

    Args:
        rsa_algorithm: `alg` of an RSA key's JWK, and of the answers to it.
    """

    def __init__(self, private: PrivateKey, *, rsa_algorithm: str = RSA_OAEP_256) -> None:
        self._private = private
        self.algorithm = rsa_algorithm if isinstance(private, rsa.RSAPrivateKey) else ECDH_ES_A256KW

    @classmethod
    def new(cls, kind: TeeKeyKind, version: Version = Version.V0_4_0) -> Self:
        """Generate a key of a guest that speaks `version`."""
        if kind is TeeKeyKind.RSA:
            private: PrivateKey = rsa.generate_private_key(65537, _RSA_BITS)
        else:
            private = ec.generate_private_key(_CURVES[kind])
        return cls(private, rsa_algorithm=_rsa_algorithm(version))

    @classmethod
    def from_pem(cls, pem: bytes, version: Version = Version.V0_4_0) -> Self:
        """Load the key that attestation-agent returns next to a token: `tee_keypair`.

        Raises:
            ConfigError: not the PEM of such a key.
        """
        try:
            private = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):  # the library's text could contain a part of the key
            raise ConfigError("the TEE key is not a private key in PEM") from None
        if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _NAMES:
            return cls(private)
        if isinstance(private, rsa.RSAPrivateKey):
            return cls(private, rsa_algorithm=_rsa_algorithm(version))
        raise ConfigError("the TEE key is not an EC P-256, EC P-521 or RSA key, as guests have")

    def to_pem(self) -> SecretBytes:
        """Return the PEM that attestation-agent writes: PKCS#1 for RSA, PKCS#8 for EC."""
        rsa_key = isinstance(self._private, rsa.RSAPrivateKey)
        form = serialization.PrivateFormat
        return SecretBytes(
            self._private.private_bytes(
                serialization.Encoding.PEM,
                form.TraditionalOpenSSL if rsa_key else form.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @property
    def jwk(self) -> JsonObject:
        """The public key, members in the order that guests send them; a new object each time."""
        private = self._private
        if isinstance(private, rsa.RSAPrivateKey):
            numbers = private.public_key().public_numbers()
            return {
                "kty": "RSA",
                "alg": self.algorithm,
                "n": _unsigned(numbers.n),
                "e": _unsigned(numbers.e),
            }
        point = private.public_key().public_numbers()
        size = _coordinate_bytes(private.curve)
        return {
            "kty": "EC",
            "crv": _NAMES[private.curve.name],
            "alg": self.algorithm,
            "x": _unsigned(point.x, size),
            "y": _unsigned(point.y, size),
        }

    def unwrap(self, header: JsonObject, encrypted_key: bytes) -> SecretBytes:
        """Unwrap the content key of an answer to this guest.

        1. `alg` is that of this key's JWK: the answer cannot choose another use of the key.
        2. RSA: decryption. 3. EC: key agreement with `epk`, then AES key unwrap.
        4. The content key is an AES-256 key.

        Raises:
            AnswerInvalid: it is for another key, or was changed.
        """
        if text_of(header, "alg", "the answer's header") != self.algorithm:  # 1
            raise AnswerInvalid("the answer is encrypted with another algorithm than this key's")
        if isinstance(self._private, rsa.RSAPrivateKey):  # 2
            key = self._decrypt(self._private, encrypted_key)
        else:  # 3
            key = _unwrap_ec(self._private, header.get("epk"), encrypted_key)
        if len(key) != KEY_BYTES:  # 4
            raise AnswerInvalid("the answer's content key is not for this guest's key")
        return SecretBytes(key)

    def _decrypt(self, private: rsa.RSAPrivateKey, encrypted_key: bytes) -> bytes:
        try:
            return private.decrypt(
                encrypted_key,
                padding.PKCS1v15() if self.algorithm == RSA1_5 else _OAEP,
            )
        except ValueError:
            raise AnswerInvalid("the answer's content key is not for this guest's key") from None

    def __repr__(self) -> str:
        return f"<TEE key for {self.algorithm}>"


def _unwrap_ec(private: ec.EllipticCurvePrivateKey, epk: object, encrypted_key: bytes) -> bytes:
    """Unwrap by ECDH-ES with Concat KDF, then AES-256 key wrap (RFC 7518, 4.6 and appendix C)."""
    if not isinstance(epk, dict):
        raise AnswerInvalid("the answer's header has no epk")
    if epk.get("kty", "EC") != "EC" or epk.get("crv") != _NAMES[private.curve.name]:
        raise AnswerInvalid("the answer's epk is on another curve than this guest's key")
    x, y = (_coordinate(epk, name, private.curve) for name in ("x", "y"))
    try:
        peer = ec.EllipticCurvePublicNumbers(x, y, private.curve).public_key()
        shared = private.exchange(ec.ECDH(), peer)
        wrapping = ConcatKDFHash(hashes.SHA256(), KEY_BYTES, _other_info()).derive(shared)
        return aes_key_unwrap(wrapping, encrypted_key)
    except (ValueError, InvalidUnwrap):
        raise AnswerInvalid("the answer's content key is not for this guest's key") from None


def _other_info() -> bytes:
    """Return AlgorithmID, empty PartyUInfo and PartyVInfo, and SuppPubInfo (RFC 7518, 4.6.2)."""
    name = ECDH_ES_A256KW.encode()
    return len(name).to_bytes(4, "big") + name + bytes(8) + (KEY_BYTES * 8).to_bytes(4, "big")


def _coordinate(epk: JsonObject, name: str, curve: ec.EllipticCurve) -> int:
    octets = from_base64url(text_of(epk, name, "the answer's epk"), f"the epk's {name}")
    if len(octets) != _coordinate_bytes(curve):  # RFC 7518, 6.2.1.2: the full size
        raise AnswerInvalid(f"the epk's {name} has {len(octets)} bytes")
    return int.from_bytes(octets, "big")


def _coordinate_bytes(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


def _unsigned(number: int, size: int | None = None) -> str:
    """Encode Base64urlUInt (RFC 7518, 2): big-endian, as short as possible or `size` bytes."""
    return to_base64url(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


def _rsa_algorithm(version: Version) -> str:
    return RSA1_5 if version is Version.V0_1_1 else RSA_OAEP_256
