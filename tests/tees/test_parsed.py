"""Collateral is parsed once, not for each check, and not for each guest."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from tests.support.verifiers import verified_by
from tests.tees.support import (
    NOW,
    REPORT_DATA,
    Source,
    platform,
    run,
    tdx_evidence,
    with_options,
)
from verdictd_py.simulator import TdMeasurements
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.tdx.verifier import TdxVerifier

HONEST = TdMeasurements()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each text is parsed as JSON."""
    parsed.cache_clear()
    counter: Counter[str] = Counter()
    loads = json.loads

    def counting(text: Any, **more: Any) -> Any:
        counter[str(text)] += 1
        return loads(text, **more)

    monkeypatch.setattr(json, "loads", counting)
    return counter


@pytest.mark.parametrize("td", [HONEST, HONEST.debug()], ids=["accepted", "refused late"])
def test_an_appraisal_parses_tcb_info_once(td: TdMeasurements, counted: Counter[str]) -> None:
    """This includes every check: grace, minimum, floor, form, rating, days behind."""
    collateral = platform().collateral(NOW)
    verifier = TdxVerifier(
        Source(collateral),
        root_ca_der=platform().root_ca_der,
        grace=timedelta(days=1),
        minimum_evaluation=1,
    )
    evidence = tdx_evidence(platform().quote(REPORT_DATA, td))
    for _ in range(2):
        verified = run(verified_by(verifier, evidence, now=NOW))
        assert verified.tcb_status == "UpToDate"
    assert counted[collateral.tcb_info] == 1
    assert counted[collateral.qe_identity] == 1


def test_other_collateral_is_another_view() -> None:
    one, other = platform().collateral(NOW), with_options(tcb_evaluation_number=18).collateral(NOW)
    assert parsed(one) is parsed(one)
    assert parsed(one).tcb_info["tcbEvaluationDataNumber"] == 17
    assert parsed(other).tcb_info["tcbEvaluationDataNumber"] == 18
