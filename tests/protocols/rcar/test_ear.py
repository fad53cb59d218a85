"""Trustworthiness vectors of accepted guests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.rcar import NOW, appraisal, tee_key
from tests.support.tees import TEES
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.protocols.rcar import ear

WEAK = [
    *("SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"),
    *("OutOfDate", "OutOfDateConfigurationNeeded", "TDRelaunchAdvised", "uptodate", "", None),
]


def of(judged: Appraisal, unpinned: tuple[str, ...] = ()) -> dict[str, Any]:
    tee, found = TEES.get(judged.tee), judged.evidence
    policy = "none"
    if tee is not None and found is not None:
        policy = tee.documents.policy
        judged = replace(judged, trust=tee.trust(found, unpinned))
    made = ear.claims(judged, judged.claims, tee_key(), policy)
    submodule: dict[str, Any] = made["submods"]["cpu0"]
    return submodule


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_a_pinned_guest_on_current_hardware_is_affirming(tee: str) -> None:
    found = of(appraisal(tee))
    assert found["ear.status"] == "affirming"
    assert found["ear.trustworthiness-vector"] == {
        "hardware": 2,
        "executables": 2,
        "configuration": 3,
    }
    assert found["ear.appraisal-policy-id"] == f"{tee}Policy.rego"


@pytest.mark.parametrize("status", WEAK)
def test_hardware_with_known_weaknesses_is_a_warning(status: str | None) -> None:
    """The operator accepts such hardware; another reader of the token may not."""
    found = of(appraisal(tcb_status=status))
    assert found["ear.status"] == "warning"
    assert found["ear.trustworthiness-vector"]["hardware"] == 32


@pytest.mark.parametrize("unpinned", [("mrTd",), ("rtmr1", "rtmr2")])
def test_an_unpinned_measurement_is_a_warning(unpinned: tuple[str, ...]) -> None:
    found = of(appraisal(), unpinned)
    assert found["ear.status"] == "warning"
    assert found["ear.trustworthiness-vector"] == {
        "hardware": 2,
        "executables": 33,
        "configuration": 3,
    }


@pytest.mark.parametrize("status", ["UpToDate", None])
def test_sample_evidence_is_always_contraindicated(status: str | None) -> None:
    found = of(appraisal("sample", tcb_status=status))
    assert found["ear.status"] == "contraindicated"
    assert found["ear.trustworthiness-vector"] == {"hardware": 97}


def test_a_guest_without_evidence_is_contraindicated() -> None:
    found = of(Appraisal("77", NOW, "none", "none", None, bound=True, refusal=None))
    assert found["ear.status"] == "contraindicated"


def test_claims_are_where_other_readers_expect_them() -> None:
    judged = appraisal()
    made = ear.claims(judged, {"mrTd": "ab"}, tee_key(), "tdxPolicy.rego")
    annotated = made["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
    assert annotated["tdx"] == {"mrTd": "ab"}
    assert made["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert set(made["ear.verifier-id"]) == {"developer", "build"}
