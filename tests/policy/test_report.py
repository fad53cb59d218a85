"""Reports of tested policies: every rule, every reason, and which values were compared."""

from __future__ import annotations

import json

import pytest

from tests.policy.support import (
    ONE,
    TWO,
    Claims,
    default_documents,
    sgx_claims,
    tdx_claims,
    without,
)
from tests.support.tees import TEES
from verdictd_py.domain.policyreport import PolicyReport, RuleState
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.floor import Pinning
from verdictd_py.policy.report import PolicyReports
from verdictd_py.ports import PolicyDocuments

HEAD = "package policy\n\nimport rego.v1\n\ndefault allow := false\n\n"
RACK = HEAD + (
    "allow if {\n\tinput.debug == false\n\tin_rack\n}\n\n"
    "in_rack if input.fmspc in data.rack\n\n"
    'reasons contains "only machines of the first rack" if not in_rack\n'
)
RACK_DATA = '{"rack": ["50806f000000"]}'


async def report_of(
    policy: str, data: str, claims: Claims, tee: str | None = "tdx", *, required: bool = False
) -> PolicyReport:
    reports = PolicyReports(TEES, pinning=Pinning(frozenset({"sgx"}), required))
    return await reports.report(PolicyDocuments(policy, data), claims, tee)


async def test_every_rule_is_listed_with_its_value() -> None:
    documents = default_documents("tdx", json.dumps({"mrTd": [TWO]}))
    report = await report_of(documents.policy, documents.data, tdx_claims())
    found = {rule.name: (rule.state, rule.value) for rule in report.rules}
    assert found == {
        "allow": (RuleState.DEFINED, False),
        "tcb_accepted": (RuleState.DEFINED, True),
        "tcb_reference": (RuleState.DEFINED, ["UpToDate", "SWHardeningNeeded"]),
        "mismatches": (RuleState.DEFINED, ["mrTd"]),
        "misses": (RuleState.FUNCTION, None),
        "matches": (RuleState.FUNCTION, None),
    }
    lines = documents.policy.split("\n")
    for rule in report.rules:
        for number in rule.lines:
            assert rule.name in lines[number - 1]


async def test_a_rule_that_is_undefined_is_listed() -> None:
    report = await report_of(RACK, RACK_DATA, tdx_claims())
    assert [(rule.name, rule.state.value) for rule in report.rules] == [
        ("allow", "defined"),
        ("in_rack", "undefined"),
        ("reasons", "defined"),
    ]


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        ("a.b := 1 if input.debug == false", "a.b", 1),
        ("a[x] := 2 if some x in [input.fmspc]", "a", {"b0c06f000000": 2}),
        ('a["odd name"] := 3', "a.odd name", 3),
        ("a.b contains 4", "a.b", [4]),
    ],
)
async def test_a_rule_with_a_path_has_its_own_value(rule: str, name: str, value: JsonValue) -> None:
    report = await report_of(HEAD + rule, "{}", tdx_claims())
    assert {each.name: each.value for each in report.rules} == {"allow": False, name: value}


async def test_the_values_that_were_compared_are_listed_with_their_lines() -> None:
    report = await report_of(RACK, RACK_DATA, tdx_claims())
    rows = [
        (row.line, row.source, row.left, row.operator, row.right, row.result)
        for row in report.comparisons
    ]
    assert rows == [
        (8, "input.debug == false", "false", "==", "false", True),
        (
            *(12, "in_rack if input.fmspc in data.rack"),
            *('"b0c06f000000"', "in", '["50806f000000"]', False),
        ),
    ]
    assert report.comparisons_made == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("input.a < 2", ("1", "<", "2", True)),
        ("input.a <= 0", ("1", "<=", "0", False)),
        ("input.a > 2", ("1", ">", "2", False)),
        ("input.a >= 1", ("1", ">=", "1", True)),
        ("input.a != 1", ("1", "!=", "1", False)),
        ("not input.a == 1", ("1", "==", "1", True)),
        ("not input.a in [2]", ("1", "in", "[2]", False)),
        ("count([x | some x in [input.a]; x == 1]) == 1", ("1", "==", "1", True)),
        ("every x in [input.a] { x > 0 }", ("1", ">", "0", True)),
        ('input.a == {"k": {3, 1}}', ("1", "==", '{"k": [1, 3]}', False)),
    ],
)
async def test_every_comparison_is_recorded(body: str, said: tuple[str, str, str, bool]) -> None:
    report = await report_of(HEAD + f"allow if {body}\n", "{}", {"a": 1}, None)
    first = report.comparisons[0]
    assert (first.left, first.operator, first.right, first.result) == said
    assert first.line == 7
    assert report.notes == ()


async def test_a_comparison_in_the_older_syntax_is_recorded() -> None:
    policy = "package policy\nallow {\n  input.svn >= data.svn\n}\n"
    report = await report_of(policy, "{}", {"svn": 1})
    assert report.comparisons == ()  # data.svn is undefined: nothing was compared
    report = await report_of(policy, '{"svn": 2}', {"svn": 1})
    assert [(each.line, each.left, each.right) for each in report.comparisons] == [(3, "1", "2")]


async def test_many_and_long_comparisons_are_counted_and_cut() -> None:
    policy = HEAD + "allow if count([x | some x in numbers.range(1, 2000); x == input.x]) == 1\n"
    report = await report_of(policy, "{}", {"x": "é" * 5000}, None)
    assert len(report.comparisons) == 500
    assert report.comparisons_made == 2001
    assert len(report.comparisons[0].right.encode()) <= 2048 + len("...")
    assert report.comparisons[0].right.endswith("é...")


async def test_claims_are_listed_with_their_reference_values() -> None:
    data = json.dumps({"mrTd": [TWO], "rtmr0": [], "tcbStatus": [], "rack": [ONE]})
    documents = default_documents("tdx", data)
    report = await report_of(documents.policy, data, without(tdx_claims(rack=ONE), "rtmr1"))
    found = {row.claim: row for row in report.claims}
    assert (found["mrTd"].measured, found["mrTd"].expected) == (ONE, [TWO])
    assert {name: row.result for name, row in found.items() if row.result != "any value"} == {
        "mrTd": "differs",
        "tcbStatus": "fits",
        "debug": "fits",
        "rack": "fits",
    }
    assert found["tcbStatus"].expected == ["UpToDate", "SWHardeningNeeded"]
    assert found["rtmr0"].result == "any value"
    assert found["rtmr1"].measured is None


@pytest.mark.parametrize(
    ("data", "claims", "required"),
    [
        ("{}", tdx_claims(), False),
        ("{}", tdx_claims(tcbStatus="Revoked"), False),
        ("{}", tdx_claims(unverifiedDevices=["gpu"]), False),
        ("{}", tdx_claims(), True),
        (json.dumps({"mrTd": [TWO]}), tdx_claims(), False),
        ("{}", tdx_claims(debug=True), True),
    ],
)
@pytest.mark.parametrize("policy", ["packaged", RACK, HEAD + "allow if true\n", HEAD])
async def test_the_reasons_are_those_of_the_decision(
    policy: str, data: str, claims: Claims, required: bool
) -> None:
    """The report must give the decision of the broker."""
    documents = default_documents("tdx", data)
    if policy != "packaged":
        documents = PolicyDocuments(policy, data)

    class Source:
        async def documents(self, tee: str) -> PolicyDocuments:
            assert tee == "tdx"
            return documents

    decides = RegoAppraisalPolicy(Source(), TEES, pinning=Pinning(frozenset({"sgx"}), required))
    reasons = await decides.failures("tdx", claims)
    report = await report_of(documents.policy, documents.data, claims, required=required)
    assert report.reasons == reasons
    assert report.accepted is (not reasons)


async def test_a_policy_that_accepts_is_overruled_by_the_floor() -> None:
    report = await report_of(HEAD + "allow if true\n", "{}", tdx_claims(tcbStatus="Revoked"))
    assert report.allow
    assert not report.accepted
    assert [reason.rule for reason in report.reasons] == ["tcbStatus"]


async def test_a_tee_that_is_not_pinned_is_refused_as_the_broker_refuses_it() -> None:
    report = await report_of(HEAD + "allow if true\n", "{}", sgx_claims(), "sgx")
    assert report.allow
    assert "no measurement of sgx is pinned" in report.reasons[0].text


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            (
                "n := numbers.range(1, 3000)\n"
                "allow if count([1 | some a in n; some b in n; a * b == 7.5]) > 1\n"
            ),
            "takes too long: its budget is 1,000,000,000 units of fuel",
        ),
        (
            (
                'n := [concat("", [sprintf("%d", [a]), input.s]) | some a in to]\n'
                "to := numbers.range(1, 5000)\nallow if count(n) == 1\n"
            ),
            "needs too much memory: its budget is 64 MiB",
        ),
    ],
)
async def test_an_exceeded_budget_refuses_and_is_named(rules: str, said: str) -> None:
    report = await report_of(HEAD + rules, "{}", tdx_claims(s="x" * 50_000))
    assert said in report.error
    assert not report.accepted
    assert [reason.text for reason in report.reasons] == [f"policy: {report.error}"]
    assert {rule.state for rule in report.rules} == {RuleState.FAILED}


async def test_a_function_that_fails_refuses() -> None:
    report = await report_of(HEAD + "allow if upper(input.debug) == 1\n", "{}", tdx_claims())
    assert "the policy failed" in report.error
    assert report.claims != ()


async def test_a_policy_that_cannot_be_compiled_has_no_report() -> None:
    with pytest.raises(PolicyInvalid, match="line 1, column 1"):
        await report_of("garbage", "{}", tdx_claims())


async def test_a_release_policy_has_no_floor() -> None:
    policy = HEAD + 'allow if startswith(input.resource.path, "default/")\n'
    claims: Claims = {"claims": tdx_claims(), "resource": {"path": "default/key/1"}}
    report = await report_of(policy, "{}", claims, None)
    assert report.accepted
    assert (report.tee, report.claims) == (None, ())
    report = await report_of(policy, "{}", {"resource": {"path": "other"}}, None)
    assert [reason.text for reason in report.reasons] == [
        "policy: allow is false, expected true, and no other rule has a value"
    ]


async def test_the_report_is_json_with_all_members() -> None:
    report = await report_of(RACK, RACK_DATA, tdx_claims())
    members = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert list(members) == [
        *("verdict", "allow", "tee", "error", "reasons", "rules", "claims", "comparisons"),
        *("comparisonsMade", "notes"),
    ]
    assert members["verdict"] == "refused"
    assert members["reasons"][0]["text"] == "only machines of the first rack"
