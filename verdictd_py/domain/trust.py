"""Trustworthiness of an accepted guest, for attestation results and policies.

Sources: draft-ietf-rats-ar4si, 2.3 (vector and tiers); draft-ietf-rats-ear (`ear.*`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from verdictd_py.encoding import JsonValue

TrustVector = Mapping[str, int]
"""Value by member (`hardware`, `executables`, `configuration`); unexamined members are absent."""

HARDWARE_GENUINE: Final = 2
"""The hardware passed its appraisal and is up to date."""

HARDWARE_WARNING: Final = 32
"""The hardware is genuine and has known weaknesses."""

HARDWARE_UNKNOWN: Final = 97
"""The hardware is not recognized as genuine."""

EXECUTABLES_APPROVED: Final = 2
"""All measured software is recognized and approved."""

EXECUTABLES_UNRECOGNIZED: Final = 33
"""Some measured software is not recognized."""

CONFIGURATION_NOT_UNSAFE: Final = 3
"""Nothing in the configuration is known to be unsafe."""

WARNING: Final = 32
"""First value of the tier `warning`; lower values are `affirming`."""

CONTRAINDICATED: Final = 96
"""First value of the tier `contraindicated`."""

UNTRUSTED: Final[TrustVector] = MappingProxyType({"hardware": HARDWARE_UNKNOWN})
"""Vector of a guest about which nothing is known."""


def status(vector: TrustVector) -> str:
    """Return the tier of the worst member: `affirming`, `warning` or `contraindicated`."""
    worst = max(vector.values(), default=HARDWARE_UNKNOWN)
    if worst < WARNING:
        return "affirming"
    return "warning" if worst < CONTRAINDICATED else "contraindicated"


def submodule(
    vector: TrustVector, *, policy: str, evidence: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Return the submodule of an attestation result about one guest.

    Args:
        policy: file name of the policy that accepted the guest.
        evidence: verified claims by the name of the TEE.
    """
    return {
        "ear.status": status(vector),
        "ear.trustworthiness-vector": dict(vector),
        "ear.appraisal-policy-id": policy,
        "ear.veraison.annotated-evidence": dict(evidence),
    }
