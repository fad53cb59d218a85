"""Typed requests and answers of RCAR, and their JSON bodies.

Only the shape is checked here. The appraiser decides whether the content is true.

Source: wire-rcar.md, "Handshake".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from verdictd_py.domain.evidence import InitData
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue, decode_object, encode_object
from verdictd_py.errors import RequestError
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.versions import Version, served

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""A quote of 8 KiB, a boot's log of 256 KiB and the evidence of some GPUs, in base64."""

MAX_AUTH_BYTES: Final = 16 * 1024
"""Limit of the first request, which any client may send; guests send some 150 bytes."""

MAX_VALUES: Final = 16 * 1024
"""Limit for an attest body and its parts: the evidence of some TEEs has arrays of bytes."""

NONCE_BYTES: Final = 32

_ERROR_TYPE: Final = "https://github.com/confidential-containers/kbs/errors/"


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """The first request of a guest: the version it uses, and the TEE it says it is."""

    version: Version
    tee: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """A nonce that one guest must answer, at most once.

    Attributes:
        nonce: base64, exactly as the guest received it and as its evidence covers it.
    """

    version: Version
    tee: str
    nonce: str


@dataclass(frozen=True)
class Attestation:
    """The answer of a guest to its challenge; nothing in it is verified yet.

    Attributes:
        challenge: the challenge that the broker gave.
        nonce: the nonce as the guest repeats it; None for the versions that do not.
        jwk: the guest's key, as it stands in the body.
        evidence: the evidence of the TEE itself, as it stands in the body.
        additional: evidence of further devices, the JSON text that the main evidence covers.
        body_bytes: length of the body, which bounds the work for everything in it.
    """

    challenge: Challenge
    nonce: str | None
    jwk: JsonValue = field(repr=False)
    evidence: JsonValue = field(repr=False)
    additional: str = field(default="", repr=False)
    init_data: InitData | None = None
    body_bytes: int = field(default=0, compare=False)

    @cached_property
    def key(self) -> TeeKey:
        """The guest's key, parsed and checked once.

        Raises:
            EvidenceFormat: secrets cannot be encrypted to it (`TeeKey.parse`).
        """
        return TeeKey.parse(self.jwk, self.challenge.version)


@dataclass(frozen=True, slots=True)
class ReleasedResource:
    """A resource that was released to a guest, and the key that it must be encrypted to."""

    content: SecretBytes = field(repr=False)
    key: TeeKey = field(repr=False)
    version: Version


def parse_auth(body: bytes) -> AuthRequest:
    """Read the first request: `{"version","tee","extra-params"}`.

    The broker ignores `extra-params`, in which a guest may list hash algorithms. It always
    uses SHA-384, which every guest assumes where the answer names no algorithm.

    Raises:
        RequestError: the body has another shape.
        ProtocolVersionRefused: the version is not served.
    """
    if len(body) > MAX_AUTH_BYTES:
        raise RequestError(f"the request is longer than {MAX_AUTH_BYTES} bytes")
    members = decode_object(body, "the request")
    version = served(_text(members, "version"))
    return AuthRequest(version, _text(members, "tee"))


def challenge(given: Challenge) -> bytes:
    """Write the answer to the first request."""
    return encode_object({"nonce": given.nonce, "extra-params": ""})


def parse_attest(body: bytes, challenge: Challenge) -> Attestation:
    """Read the second request, in the shape of the version that the guest named.

    Raises:
        RequestError: the body has another shape.
    """
    members = decode_object(body, "the request", max_values=MAX_VALUES)
    if challenge.version is not Version.V0_4_0:
        jwk, evidence = _member(members, "tee-pubkey"), _member(members, "tee-evidence")
        return Attestation(challenge, None, jwk, evidence, body_bytes=len(body))
    runtime = _object(members, "runtime-data")
    composite = _object(members, "tee-evidence")
    return Attestation(
        challenge,
        nonce=_text(runtime, "nonce"),
        jwk=_member(runtime, "tee-pubkey"),
        evidence=_member(composite, "primary_evidence"),
        additional=_text(composite, "additional_evidence", default=""),
        init_data=_init_data(members),
        body_bytes=len(body),
    )


def _init_data(members: Mapping[str, JsonValue]) -> InitData | None:
    if members.get("init-data") is None:
        return None
    init_data = _object(members, "init-data")
    return InitData(_text(init_data, "format"), _text(init_data, "body"))


def token(jwt: str) -> bytes:
    """Write the answer to the second request."""
    return encode_object({"token": jwt})


def error(variant: str, detail: str) -> bytes:
    """Write the body of an error; guests stop at any other body."""
    return encode_object({"type": _ERROR_TYPE + variant, "detail": detail})


def _member(members: Mapping[str, JsonValue], name: str) -> JsonValue:
    if name not in members:
        raise RequestError(f"the request has no {name}")
    return members[name]


def _object(members: Mapping[str, JsonValue], name: str) -> dict[str, JsonValue]:
    value = _member(members, name)
    if not isinstance(value, dict):
        raise RequestError(f"the request's {name} is not an object")
    return value


def _text(members: Mapping[str, JsonValue], name: str, *, default: str | None = None) -> str:
    value = members.get(name, default)
    if not isinstance(value, str):
        raise RequestError(f"the request's {name} is missing, or not a string")
    return value
