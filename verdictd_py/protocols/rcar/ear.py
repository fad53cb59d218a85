"""An accepted appraisal as an EAT Attestation Result.

Source: draft-ietf-rats-ear (`ear.*`), draft-ietf-rats-ar4si, 2.3 (numbers of the vector);
wire-rcar.md for the two places where guests look for their own key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import NO_TEE
from verdictd_py.domain.trust import submodule
from verdictd_py.encoding import JsonValue
from verdictd_py.protocols.rcar.teekey import TeeKey

PROFILE: Final = "tag:github.com,2023:veraison/ear"


def claims(
    appraisal: Appraisal,
    guest_claims: Mapping[str, JsonValue],
    key: TeeKey,
    policy: str,
) -> dict[str, Any]:
    """Return the claims of a token about an accepted guest, without issuer and times.

    Args:
        guest_claims: the guest's claims that are in the token.
        policy: file name of the policy that accepted the guest.
    """
    runtime_data: dict[str, JsonValue] = {"tee-pubkey": dict(key.jwk)}
    evidence = {appraisal.tee or NO_TEE: dict(guest_claims), "runtime_data_claims": runtime_data}
    cpu = submodule(appraisal.trust, policy=policy, evidence=evidence)
    return {
        "eat_profile": PROFILE,
        "ear.verifier-id": {"developer": "verdictd-py", "build": "verdictd-py"},
        "submods": {"cpu0": cpu},
        "customized_claims": {"runtime_data": runtime_data},
    }
