"""Messages of a guest in RCAR, as plain values without IO.

Every part has its own function, so that a test can change one part and leave the rest.
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
"""Size of TDX's MRCONFIGID (tdx.md), which contains the digest of the init-data."""

MAX_INIT_DATA_BYTES: Final = 1024 * 1024
"""A KBS accepts bodies of 2 MiB (wire-rcar.md, "Errors"), which also carry the evidence."""

_HASHES: Final = ("sha256", "sha384", "sha512")
_LATER_HASHES: Final = ("sm3",)  # kbs-types 0.15, HashAlgorithm::list_all
_DEFAULT_HASH: Final = "sha384"  # rcar_client.rs, DEFAULT_HASH_ALGORITHM


class Version(Enum):
    """Version of the protocol; a guest speaks exactly one."""

    V0_1_1 = "0.1.1"
    """guest-components v0.10, v0.11."""
    V0_2_0 = "0.2.0"
    """v0.12, v0.13."""
    V0_4_0 = "0.4.0"
    """v0.14 to v0.21."""


class MemberOrder(Enum):
    """Order of the JSON that the report data of guests before 0.4.0 covers.

    It depends on serde_json, which sorts unless a crate of the guest's build enables
    `preserve_order`.
    """

    SORTED = "sorted"
    INSERTION = "insertion"
    """`tee-pubkey` with the JWK as it is sent, then `nonce`, as in the guests' source."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Challenge of a KBS, its answer to `auth`.

    Attributes:
        nonce: exactly as in the answer; guests never decode it.
        algorithm: hash algorithm of the report data's digest.
    """

    nonce: str
    algorithm: str = _DEFAULT_HASH


def auth_request(version: Version, tee: str, *, offer_hashes: bool = True) -> JsonObject:
    """Return the body of `POST /kbs/v0/auth`.

    Args:
        tee: name of the TEE: `tdx`, `sample`.
        offer_hashes: False for the oldest builds, which offer no hash algorithms.
    """
    extra: JsonValue = ""
    if offer_hashes:
        offered = [*_HASHES, *(_LATER_HASHES if version is Version.V0_4_0 else ())]
        extra = {"supported-hash-algorithms": [*offered]}
    return {"version": version.value, "tee": tee, "extra-params": extra}


def canonical(value: JsonValue) -> bytes:
    """Encode JSON by RFC 8785, for values without numbers whose members have ASCII names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def device_digest(challenge: Challenge, jwk: JsonObject) -> bytes:
    """Return the digest that the evidence of additional devices covers."""
    covered: JsonObject = {"nonce": challenge.nonce, "tee-pubkey": jwk}
    return hashlib.new(challenge.algorithm, canonical(covered)).digest()


def runtime_digest(
    version: Version,
    challenge: Challenge,
    jwk: JsonObject,
    *,
    additional_evidence: str = "",
    order: MemberOrder = MemberOrder.SORTED,
) -> bytes:
    """Return the digest that the primary evidence covers.

    It covers nonce and key and, from 0.4.0 on, the additional evidence.

    1. 0.4.0: RFC 8785 JSON. 2. Before: compact JSON in the order of the guest's build.
    3. Its digest by the algorithm that the challenge selects, usually SHA-384.

    Args:
        order: ignored for 0.4.0, which defines the order.

    Returns:
        The digest without padding, because the evidence of some TEEs is not padded.
    """
    covered: JsonObject = {"tee-pubkey": jwk, "nonce": challenge.nonce}
    if version is Version.V0_4_0:  # 1
        text = canonical({**covered, "additional-evidence": additional_evidence})
    elif order is MemberOrder.SORTED:  # 2
        text = canonical(covered)
    else:
        text = json.dumps(covered, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.new(challenge.algorithm, text).digest()  # 3


def report_data(digest: bytes) -> bytes:
    """Return REPORTDATA of a quote: 64 bytes, the digest followed by zeros."""
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
    """Return the body of `POST /kbs/v0/attest`.

    Args:
        evidence: primary evidence, which covers `runtime_digest`.
        additional_evidence: JSON text, empty for none. Only 0.4.0 supports it.
        init_data: the text of an init-data file. Only 0.4.0 supports it.

    Raises:
        ConfigError: this version does not support one of the arguments.
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
            f"protocol {version.value} supports neither init-data nor additional evidence: "
            f"use {Version.V0_4_0.value}"
        )
    return {"tee-pubkey": jwk, "tee-evidence": evidence}


def selected_algorithm(extra_params: JsonValue) -> str:
    """Return the hash algorithm that a challenge's `extra-params` select.

    Raises:
        ValueError: this guest does not support the algorithm.
    """
    if not isinstance(extra_params, dict) or "selected-hash-algorithm" not in extra_params:
        return _DEFAULT_HASH
    name = extra_params["selected-hash-algorithm"]
    if not isinstance(name, str) or name.lower() not in _HASHES:
        raise ValueError("it selects a hash algorithm that this guest does not support")
    return name.lower()


def init_data_digest(init_data: str) -> bytes:
    """Return MRCONFIGID of a guest with this init-data: 48 bytes.

    It is the digest of the exact text by the algorithm that the member `algorithm` names, cut
    or padded with zeros (wire-rcar.md, "Handshake").

    Raises:
        ConfigError: not TOML, or without a supported algorithm.
    """
    try:
        algorithm = tomllib.loads(init_data).get("algorithm")
    except ValueError:
        raise ConfigError("the init-data is not TOML; see the format of init-data files") from None
    if algorithm not in _HASHES:
        raise ConfigError(f'the init-data lacks algorithm = "...", one of {", ".join(_HASHES)}')
    digest = hashlib.new(algorithm, init_data.encode()).digest()
    return digest[:MR_CONFIG_ID_BYTES].ljust(MR_CONFIG_ID_BYTES, b"\0")
