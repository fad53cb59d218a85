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
    """Trust in an accepted guest.

    Attributes:
        policy: file name of the policy that accepted it.
        vector: trustworthiness by category.
    """

    policy: str
    vector: TrustVector


def claims(
    appraisal: Appraisal,
    guest_claims: Mapping[str, JsonValue],
    key: TeeKey,
    assessment: Assessment,
) -> dict[str, Any]:
    """Return the claims of a token about an accepted guest, without issuer and times.

    Args:
        guest_claims: the guest's claims that are in the token.
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
                    tee: dict(guest_claims),
                    "runtime_data_claims": runtime_data,
                },
            }
        },
        "customized_claims": {"runtime_data": runtime_data},
    }
