"""What guests and broker say to each other, as JSON bodies.

Shapes only: whether what a guest says is true is the appraiser's business.

Source: wire-rcar.md, "Handshake".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.domain.evidence import InitData
from verdictd_py.encoding import JsonValue, decode_object, encode_base64, encode_object
from verdictd_py.errors import RequestError
from verdictd_py.protocols.rcar.versions import Version, served

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""A quote of 8 KiB, a boot's log of 256 KiB and the evidence of some GPUs, in base64."""

MAX_AUTH_BYTES: Final = 16 * 1024
"""Of the first request, which anybody may send; guests' have some 150."""

MAX_NUMBERS: Final = 16 * 1024
"""In an answer, or what is inside of it: some TEEs' evidence has arrays of some hundred bytes."""

NONCE_BYTES: Final = 32

_ERROR_TYPE: Final = "https://github.com/confidential-containers/kbs/errors/"


@dataclass(frozen=True, slots=True)
class Challenge:
    """What one guest has to answer, once.

    Attributes:
        tee: name of the TEE, as the registry has it.
        nonce: base64, exactly as the guest got it and as its evidence covers it.
    """

    version: Version
    tee: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """A guest's answer to its challenge, nothing of it believed yet.

    Attributes:
        nonce: as the guest repeats it; None for the versions that do not.
        jwk: the guest's key, as it stands in the body.
        evidence: of the TEE itself.
        additional: evidence of further devices, the JSON text that the main evidence covers.
    """

    nonce: str | None
    jwk: JsonValue = field(repr=False)
    evidence: JsonValue = field(repr=False)
    additional: str = field(default="", repr=False)
    init_data: InitData | None = None


def parse_auth(body: bytes) -> tuple[Version, str]:
    """Return version and TEE of the first request, `{"version","tee","extra-params"}`.

    The TEE is the text that the guest sent: the caller looks it up.

    What a guest could choose in `extra-params` (a hash) is chosen for it: SHA-384, which
    every guest takes where the answer names none.

    Raises:
        RequestError: another shape.
        ProtocolVersionRefused: a version that is not served.
    """
    if len(body) > MAX_AUTH_BYTES:
        raise RequestError(f"the request is longer than {MAX_AUTH_BYTES} bytes")
    members = decode_object(body, "the request")
    version = served(_text(members, "version"))
    return version, _text(members, "tee")


def challenge(nonce: bytes) -> tuple[str, bytes]:
    """The nonce as text, and the answer to the first request."""
    text = encode_base64(nonce)
    return text, encode_object({"nonce": text, "extra-params": ""})


def parse_attest(body: bytes, version: Version) -> Attestation:
    """The second request, in the shape of the guest's version.

    Raises:
        RequestError: another shape.
    """
    members = decode_object(body, "the request", max_numbers=MAX_NUMBERS)
    if version is not Version.V0_4_0:
        return Attestation(None, _member(members, "tee-pubkey"), _member(members, "tee-evidence"))
    runtime = _object(members, "runtime-data")
    composite = _object(members, "tee-evidence")
    return Attestation(
        nonce=_text(runtime, "nonce"),
        jwk=_member(runtime, "tee-pubkey"),
        evidence=_member(composite, "primary_evidence"),
        additional=_text(composite, "additional_evidence", default=""),
        init_data=_init_data(members),
    )


def _init_data(members: Mapping[str, JsonValue]) -> InitData | None:
    if members.get("init-data") is None:
        return None
    found = _object(members, "init-data")
    return InitData(_text(found, "format"), _text(found, "body"))


def token(jwt: str) -> bytes:
    """The answer to the second request."""
    return encode_object({"token": jwt})


def error(variant: str, detail: str) -> bytes:
    """The body of every answer that is no success: guests stop at any other."""
    return encode_object({"type": _ERROR_TYPE + variant, "detail": detail})


def _member(members: Mapping[str, JsonValue], name: str) -> JsonValue:
    if name not in members:
        raise RequestError(f"the request has no {name}")
    return members[name]


def _object(members: Mapping[str, JsonValue], name: str) -> dict[str, JsonValue]:
    found = _member(members, name)
    if not isinstance(found, dict):
        raise RequestError(f"the request's {name} is no object")
    return found


def _text(members: Mapping[str, JsonValue], name: str, *, default: str | None = None) -> str:
    found = members.get(name, default)
    if not isinstance(found, str):
        raise RequestError(f"the request's {name} is missing, or no text")
    return found
