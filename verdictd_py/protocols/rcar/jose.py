"""Signed tokens (JWT), read with keys that the caller chose.

A token's header never brings, names or chooses the key or the algorithm that judges it.
"""

from __future__ import annotations

import warnings
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey

from verdictd_py.errors import TokenInvalid, TokenOutOfTime

ALGORITHM: Final = "ES256"
"""Of our own attestation tokens."""

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_TOKEN_CHARACTERS: Final = 32 * 1024
"""Ours have some 6,000, and never as many as this (`claims.MAX_SHOWN_BYTES`)."""

_END: Final = 253402300800
"""First second after the year 9999: a time that nobody means is none."""

LEEWAY_SECONDS: Final = 60
"""Of clocks; a token that was made this very second is as good as it will ever be."""


def verified(token: str, key: PublicKey, *, now: datetime, leeway: int = 0) -> dict[str, Any]:
    """The claims of a token that `key` signed and that is not over.

    1. ES256 for a P-256 key, EdDSA for an Ed25519 key, and nothing else. 2. The signature.
    3. `exp` is there and not reached, `nbf` and `iat` are where they are there.

    Args:
        leeway: seconds by which `nbf` and `iat` may be in the future.

    Raises:
        TokenInvalid: one of these failed; the text says which, and shows nothing of it.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenInvalid("the token is too long")
    try:
        with warnings.catch_warnings():
            # EdDSA is an older name of Ed25519 (RFC 9864), and the one that tools write.
            warnings.simplefilter("ignore", SecurityWarning)
            found = jwt.decode(token, imported(key), algorithms=_algorithms(key))  # 1, 2
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise TokenInvalid("the token is not signed by a key that is trusted here") from None
    claims = found.claims
    _check_time(claims, now.timestamp(), leeway)  # 3
    return claims


def _check_time(claims: dict[str, Any], now: float, leeway: int) -> None:
    expires = _time(claims, "exp")
    if expires is None:
        raise TokenOutOfTime("the token has no exp: one that never ends is not taken")
    if now >= expires:
        raise TokenOutOfTime("the token is over")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins > now + leeway:
            raise TokenOutOfTime(f"the token is not valid yet ({name})")


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Python's JSON has NaN and Infinity, which no end is behind.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _END:
        raise TokenOutOfTime(f"the token's {name} is no time")
    return float(value)


def signed(claims: dict[str, Any], header: dict[str, Any], key: PrivateKey) -> str:
    """A token of ours: ES256 with a P-256 key, EdDSA with an Ed25519 key."""
    private: ECKey | OKPKey
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm, private = ALGORITHM, ECKey.import_key(key)
    else:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        algorithm, private = "EdDSA", OKPKey.import_key(pem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # as in `verified`
        return jwt.encode({"alg": algorithm, **header}, claims, private, algorithms=[algorithm])


def public_jwk(key: PublicKey) -> dict[str, Any]:
    """The key as others may see it, with its RFC 7638 thumbprint as `kid`."""
    made = imported(key)
    return {**made.as_dict(private=False), "kid": made.thumbprint(), "use": "sig"}


def imported(key: PublicKey) -> ECKey | OKPKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return ECKey.import_key(key)
    return OKPKey.import_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _algorithms(key: PublicKey) -> list[str]:
    return ["ES256"] if isinstance(key, ec.EllipticCurvePublicKey) else ["EdDSA", "Ed25519"]


def judging_key(key: object) -> PublicKey:
    """The key, if `verified` can judge with it.

    Raises:
        ValueError: it is neither Ed25519 nor P-256.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError("neither Ed25519 nor P-256")
