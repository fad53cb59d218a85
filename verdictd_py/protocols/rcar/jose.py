"""Signed tokens (JWT), verified with keys that the caller chooses.

The header of a token never selects the key or the algorithm that verifies it. joserfc reads and
verifies every token. `Signer` writes the broker's own tokens with `cryptography` alone, because
the library checks the key and the header again for each token. joserfc is imported with the first
token: it takes a twentieth of the daemon's start.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from verdictd_py.encoding import encode_base64url
from verdictd_py.errors import TokenInvalid, TokenNotValidNow

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey

ALGORITHM: Final = "ES256"
"""Algorithm of the broker's attestation tokens."""

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_TOKEN_CHARACTERS: Final = 32 * 1024
"""Maximum length. The broker's tokens have about 6,000 characters, and never reach this
(`claims.MAX_CLAIMS_BYTES`)."""

_MAX_TIME: Final = 253402300800
"""First second after the year 9999; a time from then on is invalid."""

LEEWAY_SECONDS: Final = 60
"""Allowed difference between clocks for `nbf` and `iat`."""


_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_P256_BYTES: Final = 32
_COMPACT: Final = (",", ":")
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=_COMPACT).encode
_TIMES: Final = ("exp", "nbf", "iat")


class Verifier:
    """Verifier of tokens with one key, which is prepared for the library once."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self._warns = not isinstance(key, ec.EllipticCurvePublicKey)
        self._decoder: Callable[[str], dict[str, Any]] | None = None

    def verify(self, token: str, *, now: datetime, leeway: int = 0) -> dict[str, Any]:
        """Return the claims of a token that the key signed and that is valid now.

        1. The algorithm is ES256 for a P-256 key and EdDSA for an Ed25519 key. 2. The signature
        is valid. 3. There is an `exp`, which is in the future; `nbf` and `iat` are optional and
        past.

        Args:
            leeway: seconds by which `nbf` and `iat` may be in the future.

        Raises:
            TokenInvalid: a check failed; the text names the check and repeats nothing of the
                token.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenInvalid("the token is too long")
        from joserfc.errors import JoseError  # noqa: PLC0415  # late, see above

        try:
            claims = self._decode(token)  # 1, 2
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise TokenInvalid("the token is not signed by a trusted key") from None
        require_valid_time(claims, now=now, leeway=leeway)  # 3
        return claims

    def _decode(self, token: str) -> dict[str, Any]:
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = _decoder(self._key)
        if not self._warns:
            return decoder(token)
        from joserfc.errors import SecurityWarning  # noqa: PLC0415  # late, see above

        with warnings.catch_warnings():
            # EdDSA is an older name of Ed25519 (RFC 9864), and the one that tools write.
            warnings.simplefilter("ignore", SecurityWarning)
            return decoder(token)


def _decoder(key: PublicKey) -> Callable[[str], dict[str, Any]]:
    """Return a function that decodes tokens which this key has signed."""
    from joserfc import jwt  # noqa: PLC0415  # late, see above
    from joserfc.jws import JWSRegistry  # noqa: PLC0415

    imported, registry = _import_key(key), JWSRegistry(algorithms=_algorithms(key))
    return lambda token: jwt.decode(token, imported, registry=registry).claims


def verify(token: str, key: PublicKey, *, now: datetime, leeway: int = 0) -> dict[str, Any]:
    """Return the claims of a token that `key` signed and that is valid now; see `Verifier`.

    Raises:
        TokenInvalid: see `Verifier.verify`.
    """
    return Verifier(key).verify(token, now=now, leeway=leeway)


def times(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims that `require_valid_time` reads."""
    return {name: claims[name] for name in _TIMES if name in claims}


def require_valid_time(claims: Mapping[str, Any], *, now: datetime, leeway: int = 0) -> None:
    """Require that a token with these claims is valid now.

    Args:
        leeway: seconds by which `nbf` and `iat` may be in the future.

    Raises:
        TokenNotValidNow: it has expired or is not valid yet, or a time is malformed.
    """
    seconds = now.timestamp()
    expires = _time(claims, "exp")
    if expires is None:
        raise TokenNotValidNow("the token has no exp: a token must expire")
    if seconds >= expires:
        raise TokenNotValidNow("the token has expired")
    for name in ("nbf", "iat"):
        start = _time(claims, name)
        if start is not None and start > seconds + leeway:
            raise TokenNotValidNow(f"the token is not valid yet ({name})")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Python's JSON reader accepts NaN and Infinity, so the range is checked.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_TIME:
        raise TokenNotValidNow(f"the token's {name} is not a valid time")
    return float(value)


class Signer:
    """Signer of tokens with one P-256 key and one header, which is encoded once.

    Source: RFC 7515, 3.1 and 7.1 (compact form); RFC 7518, 3.4 (ES256).
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, header: Mapping[str, Any]) -> None:
        self._key = key
        text = json.dumps({"typ": "JWT", "alg": ALGORITHM, **header}, separators=_COMPACT)
        self._header = encode_base64url(text.encode())

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims."""
        signed = f"{self._header}.{encode_base64url(_encode(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode("ascii"), _ECDSA))
        signature = r.to_bytes(_P256_BYTES) + s.to_bytes(_P256_BYTES)
        return f"{signed}.{encode_base64url(signature)}"


def sign(claims: dict[str, Any], header: dict[str, Any], key: PrivateKey) -> str:
    """Create a token: ES256 with a P-256 key, EdDSA with an Ed25519 key."""
    from joserfc import jwt  # noqa: PLC0415  # late, see above
    from joserfc.errors import SecurityWarning  # noqa: PLC0415
    from joserfc.jwk import ECKey, OKPKey  # noqa: PLC0415

    private: ECKey | OKPKey
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm, private = ALGORITHM, ECKey.import_key(key)
    else:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        algorithm, private = "EdDSA", OKPKey.import_key(pem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # as in `verify`
        return jwt.encode({"alg": algorithm, **header}, claims, private, algorithms=[algorithm])


def public_jwk(key: PublicKey) -> dict[str, Any]:
    """Return the public JWK of a key, with its RFC 7638 thumbprint as `kid`."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        members = {
            "crv": "P-256",
            "x": encode_base64url(numbers.x.to_bytes(_P256_BYTES)),
            "y": encode_base64url(numbers.y.to_bytes(_P256_BYTES)),
            "kty": "EC",
        }
    else:
        point = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        members = {"crv": "Ed25519", "x": encode_base64url(point), "kty": "OKP"}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    thumbprint = encode_base64url(sha256(canonical).digest())
    return {**members, "kid": thumbprint, "use": "sig"}


def _import_key(key: PublicKey) -> ECKey | OKPKey:
    """Return the key as an object of the JOSE library."""
    from joserfc.jwk import ECKey, OKPKey  # noqa: PLC0415  # late, see above

    if isinstance(key, ec.EllipticCurvePublicKey):
        return ECKey.import_key(key)
    return OKPKey.import_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _algorithms(key: PublicKey) -> list[str]:
    return ["ES256"] if isinstance(key, ec.EllipticCurvePublicKey) else ["EdDSA", "Ed25519"]


def require_verification_key(key: object) -> PublicKey:
    """Return the key if `verify` supports its type.

    Raises:
        ValueError: it is neither Ed25519 nor P-256.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError("neither Ed25519 nor P-256")
