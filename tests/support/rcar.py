"""What the tests of RCAR share: guests' keys as their private side has them, and appraisals."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.encoding import JsonValue
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.tokens import AttestedGuest, Tokens
from verdictd_py.protocols.rcar.versions import Version

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
NONCE: Final = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
CURVES: Final = {"P-256": ec.SECP256R1(), "P-521": ec.SECP521R1()}
SIZES: Final = {"P-256": 32, "P-521": 66}
KINDS: Final = [
    ("P-256", Version.V0_4_0),
    ("P-521", Version.V0_4_0),
    ("RSA-OAEP-256", Version.V0_4_0),
    ("P-256", Version.V0_2_0),
    ("RSA-OAEP-256", Version.V0_2_0),
    ("RSA1_5", Version.V0_1_1),
]
"""Of keys, by curve or algorithm, and a version whose guests have them."""


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value: int, size: int | None = None) -> str:
    return b64url(value.to_bytes(size or (value.bit_length() + 7) // 8))


def ec_jwk(x: bytes, y: bytes, curve: str = "P-256") -> dict[str, JsonValue]:
    return {"kty": "EC", "crv": curve, "alg": "ECDH-ES+A256KW", "x": b64url(x), "y": b64url(y)}


def rsa_jwk(n: int, e: int = 65537, alg: str = "RSA-OAEP-256") -> dict[str, JsonValue]:
    return {"kty": "RSA", "alg": alg, "n": number(n), "e": number(e)}


def coordinates(scalar: int, curve: str) -> tuple[bytes, bytes]:
    numbers = ec.derive_private_key(scalar, CURVES[curve]).public_key().public_numbers()
    return numbers.x.to_bytes(SIZES[curve]), numbers.y.to_bytes(SIZES[curve])


@cache
def private_key(kind: str) -> Private:
    """One of a kind for all tests."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind])
    return rsa.generate_private_key(65537, 2048)


def jwk_of(kind: str) -> dict[str, JsonValue]:
    private = private_key(kind)
    if isinstance(private, rsa.RSAPrivateKey):
        return rsa_jwk(private.public_key().public_numbers().n, alg=kind)
    numbers = private.public_key().public_numbers()
    return ec_jwk(numbers.x.to_bytes(SIZES[kind]), numbers.y.to_bytes(SIZES[kind]), kind)


def tee_key(kind: str = "P-256", version: Version = Version.V0_4_0) -> TeeKey:
    return TeeKey.parse(jwk_of(kind), version)


POLICY: Final = "tdxPolicy.rego"


@cache
def tokens() -> Tokens:
    """One broker's."""
    return Tokens(ec.generate_private_key(ec.SECP256R1()))


def appraisal(tee: str = "tdx", **evidence: Any) -> Appraisal:
    """An acceptance, of verified evidence with some members changed."""
    found = VerifiedEvidence(
        **{
            "tee": tee,
            "report_data": bytes(range(64)),
            "claims": {"mrTd": "ab" * 48, "debug": False, "initData": None, "xfam": "e7"},
            "tcb_status": "UpToDate",
            "advisory_ids": ("INTEL-SA-00615",),
            "digest": "cd" * 32,
            **evidence,
        }
    )
    return Appraisal("0123", NOW, tee, "rcar 0.4.0", found, bound=True, refusal=None)


def attested(kind: str = "P-256", **evidence: Any) -> AttestedGuest:
    return AttestedGuest(appraisal(**evidence), tee_key(kind), Version.V0_4_0)


def padded(coordinate: bytes) -> bytes:
    """As guests v0.12 to v0.18 on OpenSSL: without leading zeros, filled with "0" behind."""
    short = coordinate.lstrip(b"\0")
    return short + b"0" * (len(coordinate) - len(short))
