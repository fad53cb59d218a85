"""An accepted appraisal as an EAT Attestation Result.

Source: draft-ietf-rats-ear (`ear.*`), draft-ietf-rats-ar4si, 2.3 (numbers of the vector);
wire-rcar.md for the two places where guests look for their own key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import Tee
from verdictd_py.encoding import JsonValue
from verdictd_py.protocols.rcar.teekey import TeeKey

PROFILE: Final = "tag:github.com,2023:veraison/ear"

_GENUINE: Final = 2  # hardware: passed appraisal, up to date
_HARDWARE_WARNING: Final = 32  # hardware: genuine, but with known weaknesses
_HARDWARE_UNKNOWN: Final = 97  # hardware: not recognized as genuine
_APPROVED: Final = 2  # executables: recognized and approved
_UNRECOGNIZED: Final = 33  # executables: some are not recognized
_NOT_UNSAFE: Final = 3  # configuration: nothing known to be unsafe

_WARNING, _CONTRAINDICATED = 32, 96
"""Where AR4SI's tiers begin."""


def claims(
    appraisal: Appraisal,
    shown: Mapping[str, JsonValue],
    key: TeeKey,
    open_measurements: Sequence[str],
) -> dict[str, Any]:
    """Claims of a token about a guest that was accepted, but for issuer and time.

    Args:
        shown: those of the guest's claims that tokens have room for.
        open_measurements: those for which the operator has pinned no reference values.
    """
    vector = _vector(appraisal, open_measurements)
    worst = max(vector.values())
    status = "affirming" if worst < _WARNING else "warning"
    runtime_data = {"tee-pubkey": dict(key.jwk)}
    tee = (appraisal.tee or Tee.NONE).value
    return {
        "eat_profile": PROFILE,
        "ear.verifier-id": {"developer": "verdictd-py", "build": "verdictd-py"},
        "submods": {
            "cpu0": {
                "ear.status": status if worst < _CONTRAINDICATED else "contraindicated",
                "ear.trustworthiness-vector": vector,
                "ear.appraisal-policy-id": f"{tee}Policy.rego",
                "ear.veraison.annotated-evidence": {
                    tee: dict(shown),
                    "runtime_data_claims": runtime_data,
                },
            }
        },
        "customized_claims": {"runtime_data": runtime_data},
    }


def _vector(appraisal: Appraisal, open_measurements: Sequence[str]) -> dict[str, int]:
    """What was looked at; what was not has no number."""
    evidence = appraisal.evidence
    if evidence is None or evidence.tee not in (Tee.TDX, Tee.SGX):
        return {"hardware": _HARDWARE_UNKNOWN}
    return {
        "hardware": _GENUINE if evidence.tcb_status == "UpToDate" else _HARDWARE_WARNING,
        "executables": _UNRECOGNIZED if open_measurements else _APPROVED,
        "configuration": _NOT_UNSAFE,
    }
