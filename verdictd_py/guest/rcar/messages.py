"""What a guest says in RCAR, as plain values: nothing here talks to anybody.

Each part is a function of its own, so that a test can change one thing and leave the rest.
Sources: wire-rcar.md, "Versions" and "Handshake"; RFC 8785; guest-components,
attestation-agent/kbs_protocol/src/client/rcar_client.rs.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from verdictd_py.domain.evidence import REPORT_DATA_BYTES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError

JsonObject = dict[str, JsonValue]

MR_CONFIG_ID_BYTES: Final = 48
"""Of TDX's MRCONFIGID (tdx.md): what init-data is measured into."""

MAX_INIT_DATA_BYTES: Final = 1024 * 1024
"""A KBS takes bodies of 2 MiB (wire-rcar.md, "Errors"), and evidence needs room beside it."""

_HASHES: Final = ("sha256", "sha384", "sha512")
_LATER_HASHES: Final = ("sm3",)  # kbs-types 0.15, HashAlgorithm::list_all
_DEFAULT_HASH: Final = "sha384"  # rcar_client.rs, DEFAULT_HASH_ALGORITHM


class Version(Enum):
    """Version of the protocol that a guest speaks: each speaks exactly one."""

    V0_1_1 = "0.1.1"
    """guest-components v0.10, v0.11."""
    V0_2_0 = "0.2.0"
    """v0.12, v0.13."""
    V0_4_0 = "0.4.0"
    """v0.14 to v0.21."""


class MemberOrder(Enum):
    """How guests before 0.4.0 order the JSON that their report data covers.

    They leave it to serde_json, which sorts unless some crate of the build turns on
    `preserve_order`.
    """

    SORTED = "sorted"
    INSERTION = "insertion"
    """`tee-pubkey` with the JWK as it is sent, then `nonce`: as the guests' source has them."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a KBS answers to `auth`.

    Attributes:
        nonce: as it stands in the answer; guests never decode it.
        algorithm: of the report data's digest.
    """

    nonce: str
    algorithm: str = _DEFAULT_HASH


def auth_request(version: Version, tee: str, *, offer_hashes: bool = True) -> JsonObject:
    """Body of `POST /kbs/v0/auth`.

    Args:
        tee: name of the TEE: `tdx`, `sample`.
        offer_hashes: False for the oldest builds, which have nothing to say there.
    """
    extra: JsonValue = ""
    if offer_hashes:
        offered = [*_HASHES, *(_LATER_HASHES if version is Version.V0_4_0 else ())]
        extra = {"supported-hash-algorithms": [*offered]}
    return {"version": version.value, "tee": tee, "extra-params": extra}


def canonical(value: JsonValue) -> bytes:
    """JSON as RFC 8785 has it, of values without numbers; their members' names are ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def device_digest(challenge: Challenge, jwk: JsonObject) -> bytes:
    """What evidence of additional devices covers, which the primary evidence then covers."""
    said: JsonObject = {"nonce": challenge.nonce, "tee-pubkey": jwk}
    return hashlib.new(challenge.algorithm, canonical(said)).digest()


def runtime_digest(
    version: Version,
    challenge: Challenge,
    jwk: JsonObject,
    *,
    additional_evidence: str = "",
    order: MemberOrder = MemberOrder.SORTED,
) -> bytes:
    """What the primary evidence covers: nonce, key and, from 0.4.0 on, additional evidence.

    1. 0.4.0: RFC 8785 JSON. 2. Before: compact JSON in the order of the guest's build.
    3. Its digest, of the algorithm that the challenge selects: SHA-384, as a rule.

    Args:
        order: of no account for 0.4.0, which fixes it.

    Returns:
        The digest, not yet padded: the evidence of some TEEs holds it so.
    """
    said: JsonObject = {"tee-pubkey": jwk, "nonce": challenge.nonce}
    if version is Version.V0_4_0:  # 1
        text = canonical({**said, "additional-evidence": additional_evidence})
    elif order is MemberOrder.SORTED:  # 2
        text = canonical(said)
    else:
        text = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.new(challenge.algorithm, text).digest()  # 3


def report_data(digest: bytes) -> bytes:
    """REPORTDATA of a quote: 64 bytes, the digest and then zeros."""
    return digest.ljust(REPORT_DATA_BYTES, b"\0")


def attestation(
    version: Version,
    challenge: Challenge,
    jwk: JsonObject,
    evidence: JsonValue,
    *,
    additional_evidence: str = "",
    init_data: str | None = None,
) -> JsonObject:
    """Body of `POST /kbs/v0/attest`.

    Args:
        evidence: of the primary TEE, already over `runtime_digest`.
        additional_evidence: JSON text, empty for none. Only 0.4.0 has a place for it.
        init_data: the text of an init-data file. Only 0.4.0 has a place for it.

    Raises:
        ConfigError: this version cannot carry what is given.
    """
    if version is Version.V0_4_0:
        init: JsonValue = None if init_data is None else {"format": "toml", "body": init_data}
        return {
            "init-data": init,
            "runtime-data": {"nonce": challenge.nonce, "tee-pubkey": jwk},
            "tee-evidence": {
                "primary_evidence": evidence,
                "additional_evidence": additional_evidence,
            },
        }
    if init_data is not None or additional_evidence:
        raise ConfigError(
            f"protocol {version.value} carries neither init-data nor additional evidence: "
            f"speak {Version.V0_4_0.value}"
        )
    return {"tee-pubkey": jwk, "tee-evidence": evidence}


def selected_algorithm(extra_params: JsonValue) -> str:
    """The digest that a challenge's `extra-params` ask for.

    Raises:
        ValueError: one that this guest does not have.
    """
    if not isinstance(extra_params, dict) or "selected-hash-algorithm" not in extra_params:
        return _DEFAULT_HASH
    name = extra_params["selected-hash-algorithm"]
    if not isinstance(name, str) or name.lower() not in _HASHES:
        raise ValueError("it selects a hash algorithm that this guest does not have")
    return name.lower()


def init_data_digest(init_data: str) -> bytes:
    """What MRCONFIGID of a guest with this init-data is: 48 bytes.

    The digest that its own member `algorithm` names, of the text as it stands, cut or padded
    with zeros (wire-rcar.md, "Handshake").

    Raises:
        ConfigError: it is no TOML, or names no algorithm of these.
    """
    try:
        algorithm = tomllib.loads(init_data).get("algorithm")
    except ValueError:
        raise ConfigError("the init-data is no TOML; see the format of init-data files") from None
    if algorithm not in _HASHES:
        raise ConfigError(f'the init-data lacks algorithm = "...", one of {", ".join(_HASHES)}')
    digest = hashlib.new(algorithm, init_data.encode()).digest()
    return digest[:MR_CONFIG_ID_BYTES].ljust(MR_CONFIG_ID_BYTES, b"\0")
