"""Reader of the evidence in a guest's attestation, for every version of RCAR.

Source: wire-rcar.md, "Handshake".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from verdictd_py.domain.evidence import MAX_QUOTE_BYTES, REPORT_DATA_BYTES, Evidence
from verdictd_py.encoding import JsonValue, decode_object, quoted
from verdictd_py.errors import EvidenceFormat, EvidenceMissing, NonceMismatch, RequestError
from verdictd_py.ports.known_tees import Tees
from verdictd_py.ports.tees import CarriedEvidence
from verdictd_py.protocols.rcar.messages import MAX_VALUES, Attestation
from verdictd_py.protocols.rcar.versions import Version

MAX_DEVICES: Final = 16

_DEVICE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # kbs-types, `Tee`


def read(answer: Attestation, tees: Tees) -> Evidence:
    """Read the evidence in a guest's attestation.

    1. The attestation repeats the nonce of its challenge. 2. Secrets can be encrypted to its
    key. 3. Its evidence has the form of the TEE that the guest named first. 4. Further devices
    have valid names. 5. REPORTDATA must be the hash of the key, the nonce, and the evidence of
    further devices.

    Raises:
        NonceMismatch, EvidenceMissing, EvidenceFormat: one of steps 1 to 4 failed.
    """
    challenge = answer.challenge
    if answer.nonce is not None and answer.nonce != challenge.nonce:  # 1
        raise NonceMismatch("the evidence answers another challenge than that of its session")
    jwk = answer.key.jwk  # 2
    carried = _carried(answer.evidence, challenge.tee, tees)  # 3
    devices = _devices(answer.additional)  # 4
    binding, *others = _bindings(answer, jwk)  # 5
    return Evidence(
        tee=challenge.tee,
        quote=carried.quote,
        binding=binding,
        other_bindings=tuple(others),
        form=f"rcar {challenge.version}",
        endorsements=carried.endorsements,
        event_log=carried.event_log,
        init_data=answer.init_data,
        devices=devices,
    )


def _carried(value: JsonValue, name: str, tees: Tees) -> CarriedEvidence:
    """Return the evidence that the TEE's own reader takes out of the guest's JSON object."""
    if not value:
        raise EvidenceMissing("the guest sent no evidence")
    if not isinstance(value, dict):
        raise EvidenceFormat("the evidence is not a JSON object")
    tee = tees.get(name)
    if tee is None:
        raise EvidenceFormat(f"evidence of {quoted(name)} is not served here")
    carried = tee.wire.read_rcar(value)
    if len(carried.quote) > MAX_QUOTE_BYTES:
        raise EvidenceFormat(f"the evidence is longer than {MAX_QUOTE_BYTES} bytes")
    return carried


def _devices(additional: str) -> tuple[str, ...]:
    """Return the types of the further devices: the names in the JSON object `additional`."""
    if not additional:
        return ()
    try:
        devices = decode_object(
            additional.encode(), "the additional evidence", max_values=MAX_VALUES
        )
    except RequestError as error:
        raise EvidenceFormat(str(error)) from None
    if len(devices) > MAX_DEVICES:
        raise EvidenceFormat(f"there is additional evidence of more than {MAX_DEVICES} devices")
    for name in devices:
        if not _DEVICE.fullmatch(name):
            raise EvidenceFormat(
                f"the additional evidence has the invalid device type {quoted(name)}"
            )
    return tuple(devices)


def _bindings(answer: Attestation, jwk: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return the accepted values of REPORTDATA: SHA-384 of the JSON below, padded with zeros.

    Version 0.4.0 sorts names as RFC 8785 does. All names here are ASCII and all values are
    text, for which Python's compact JSON with sorted names is exactly that. Older guests
    leave the order to their JSON library, and builds of one release differ: names are sorted,
    or in the order of the source code, with the key as it was sent.
    """
    challenge = answer.challenge
    members = dict(jwk)
    if challenge.version is Version.V0_4_0:
        covered = {
            "additional-evidence": answer.additional,
            "nonce": challenge.nonce,
            "tee-pubkey": members,
        }
        return (_hashed(covered, sort=True),)
    older = {"tee-pubkey": members, "nonce": challenge.nonce}
    other = {"nonce": challenge.nonce, "tee-pubkey": members}
    return (_hashed(older, sort=True), _hashed(older, sort=False), _hashed(other, sort=False))


def _hashed(covered: Mapping[str, object], *, sort: bool) -> bytes:
    text = json.dumps(covered, sort_keys=sort, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha384(text.encode()).digest().ljust(REPORT_DATA_BYTES, b"\0")
