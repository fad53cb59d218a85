"""Coverage of a policy: what each rule decided for recorded claims."""

from __future__ import annotations

from typing import Any

import pytest

from tests.policy.support import tdx_claims
from tests.support.tees import TEES
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.coverage import PolicyCoverage
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.floor import NO_REQUIREMENTS

POLICY = """package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	fits(input.fmspc)
}

fits(value) if {
	value in data.rack
}

late if input.tcbBehindDays > 30

reasons contains "not in the rack" if not fits(input.fmspc)

unused(value) if {
	value == 1
}
"""
TDX = TEES.named("tdx")


def names(counted: PolicyCoverage) -> list[str]:
    return list(counted.never_decided)


def not_reached(counted: PolicyCoverage) -> list[int]:
    return list(counted.lines_not_reached)


def coverage(policy: str = POLICY) -> PolicyCoverage:
    compiled = CompiledPolicy.compile(policy, '{"rack": ["b0c06f000000"]}')
    return PolicyCoverage(compiled, pinning=NO_REQUIREMENTS)


def rule(counted: PolicyCoverage, name: str) -> dict[str, Any]:
    rules = counted.as_json()["rules"]
    assert isinstance(rules, list)
    found = [each for each in rules if isinstance(each, dict) and each["rule"] == name]
    return dict(found[0])


def test_values_are_counted_for_each_rule() -> None:
    counted = coverage()
    counted.add(tdx_claims(), TDX)
    counted.add(tdx_claims(fmspc="000000000000"), TDX)
    counted.add(tdx_claims(debug=True, tcbBehindDays=31), TDX)
    allow = rule(counted, "allow")
    assert (allow["true"], allow["false"], allow["decided"]) == (1, 2, True)
    assert rule(counted, "late") | {"lines": []} == {
        "rule": "late",
        "kind": "value",
        "lines": [],
        "decided": True,
        "true": 1,
        "false": 0,
        "value": 0,
        "empty": 0,
        "undefined": 2,
    }
    reasons = rule(counted, "reasons")
    assert (reasons["value"], reasons["empty"]) == (1, 2)
    assert (counted.accepted, counted.refused) == (1, 2)


def test_a_rule_that_no_claims_decide_is_named() -> None:
    """A set that is always empty and a rule that is always undefined are not covered."""
    counted = coverage()
    counted.add(tdx_claims(), TDX)
    assert names(counted) == ["late", "reasons", "unused"]
    counted.add(tdx_claims(fmspc="000000000000", tcbBehindDays=31), TDX)
    assert names(counted) == ["unused"]
    assert rule(counted, "fits")["decided"]


def test_lines_that_no_claims_reach_are_named() -> None:
    counted = coverage()
    counted.add(tdx_claims(debug=True), TDX)
    assert not_reached(counted) == [9, 21]
    counted.add(tdx_claims(), TDX)
    assert not_reached(counted) == [21]


def test_the_floor_refuses_what_the_policy_accepts() -> None:
    counted = coverage()
    counted.add(tdx_claims(tcbStatus="Revoked"), TDX)
    assert rule(counted, "allow")["true"] == 1
    assert (counted.accepted, counted.refused) == (0, 1)


def test_claims_that_exceed_the_budget_are_refused_and_the_others_are_counted() -> None:
    counted = coverage(
        POLICY + "\nslow if count([1 | some a in input.n; some b in input.n; a * b == 7.5]) > 1\n"
    )
    counted.add(tdx_claims(n=[1]), TDX)
    with pytest.raises(PolicyInvalid, match="takes too long: its budget is"):
        counted.add(tdx_claims(n=list(range(3000))), TDX)
    counted.add(tdx_claims(fmspc="000000000000", n=[1]), TDX)
    assert (counted.accepted, counted.refused) == (1, 2)
    assert rule(counted, "reasons")["value"] == 1
    assert 9 not in counted.lines_not_reached
