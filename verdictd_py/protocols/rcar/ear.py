"""An accepted appraisal as an EAT Attestation Result.

Source: draft-ietf-rats-ear (`ear.*`), draft-ietf-rats-ar4si, 2.3 (numbers of the vector);
wire-rcar.md for the two places where guests look for their own key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import NO_TEE
from verdictd_py.domain.trust import CONTRAINDICATED, WARNING, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.protocols.rcar.teekey import TeeKey

PROFILE: Final = "tag:github.com,2023:veraison/ear"


@dataclass(frozen=True, slots=True)
class Assessment:
    """How far a guest that was accepted is to be trusted.

    Attributes:
        policy: file name of the policy that accepted it.
    """

    policy: str
    vector: TrustVector


def claims(
    appraisal: Appraisal,
    shown: Mapping[str, JsonValue],
    key: TeeKey,
    assessment: Assessment,
) -> dict[str, Any]:
    """Claims of a token about a guest that was accepted, but for issuer and time.

    Args:
        shown: those of the guest's claims that tokens have room for.
        assessment: how far the guest is to be trusted.
    """
    vector = assessment.vector
    worst = max(vector.values())
    status = "affirming" if worst < WARNING else "warning"
    runtime_data = {"tee-pubkey": dict(key.jwk)}
    tee = appraisal.tee or NO_TEE
    return {
        "eat_profile": PROFILE,
        "ear.verifier-id": {"developer": "verdictd-py", "build": "verdictd-py"},
        "submods": {
            "cpu0": {
                "ear.status": status if worst < CONTRAINDICATED else "contraindicated",
                "ear.trustworthiness-vector": dict(vector),
                "ear.appraisal-policy-id": assessment.policy,
                "ear.veraison.annotated-evidence": {
                    tee: dict(shown),
                    "runtime_data_claims": runtime_data,
                },
            }
        },
        "customized_claims": {"runtime_data": runtime_data},
    }
