"""The appraisal policy: only an explicit `true` accepts, and a refusal has reasons."""

from __future__ import annotations

import json

import pytest

from tests.policy.support import (
    ONE,
    TWO,
    Claims,
    Documents,
    default_documents,
    sgx_claims,
    tdx_claims,
    without,
)
from tests.support.tees import TEES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    NotFound,
    PolicyInvalid,
    PolicyUnavailable,
    Reason,
    ReasonKind,
    StorageError,
)
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.explain import MAX_LISTED, MAX_OWN_CHARS, MAX_OWN_REASONS
from verdictd_py.policy.floor import Pinning
from verdictd_py.ports import AppraisalPolicy, PolicyDocuments

HEAD = "package policy\nimport rego.v1\n"
OPERAND = (
    "policy: the policy failed: line 3: count: operand 1 must be one of "
    "{array, object, set, string} but got number"
)
YES = PolicyDocuments(HEAD + "allow := true", "{}")


async def refusals(
    documents: PolicyDocuments | Exception, claims: Claims, tee: str = "tdx"
) -> tuple[Reason, ...]:
    policy: AppraisalPolicy = RegoAppraisalPolicy(Documents(documents), TEES)
    return await policy.failures(tee, claims)


async def texts(
    documents: PolicyDocuments | Exception, claims: Claims, tee: str = "tdx"
) -> list[str]:
    return [reason.text for reason in await refusals(documents, claims, tee)]


async def test_a_policy_whose_allow_is_true_gives_no_reason() -> None:
    assert await refusals(YES, tdx_claims()) == ()


@pytest.mark.parametrize(
    ("documents", "text"),
    [
        (NotFound("no policy for tdx"), "policy: no policy for tdx"),
        (StorageError("it cannot be read"), "policy: it cannot be read"),
        (
            PolicyDocuments("garbage", "{}"),
            (
                "policy: the policy cannot be compiled: line 1, column 1: expecting `package` "
                "Missing package declaration."
            ),
        ),
        (
            PolicyDocuments(HEAD + "allow if {", "{}"),
            "policy: the policy cannot be compiled: line 3, column 11: expecting expression",
        ),
        (
            PolicyDocuments(YES.policy, '{"policy": {"allow": true}}'),
            (
                "policy: the reference data has the name `policy`, which would replace the "
                "policy's decision; rename it"
            ),
        ),
        (
            PolicyDocuments(HEAD + "allow if not count(1) == 2", "{}"),
            OPERAND,
        ),
        (
            PolicyDocuments(HEAD + "allow := true\nallow := false", "{}"),
            "policy: the policy failed: line 4: rule conflicts with rule at policy:3:1",
        ),
        (
            PolicyDocuments(HEAD + "allow if a\na if b\nb if a", "{}"),
            "policy: the policy failed: line 4: depends on: cyclic evaluation",
        ),
        (
            PolicyDocuments(HEAD + "allow if opa.runtime()", "{}"),
            (
                "policy: the policy cannot be compiled: the policy calls functions that it cannot "
                "call: opa.runtime (absent on purpose: a policy has no environment) in line 3"
            ),
        ),
    ],
)
async def test_a_policy_that_is_broken_is_no_verdict(
    documents: PolicyDocuments | Exception, text: str
) -> None:
    """defects.md 13 and 17: no guest is accepted or refused by it, and the operator reads why.

    A policy that fails for the sample claims too fails whatever a guest sends.
    """
    with pytest.raises(PolicyUnavailable) as caught:
        await refusals(documents, tdx_claims())
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("documents", "text"),
    [
        (
            PolicyDocuments(HEAD + "allow if not count(input.unexpected) == 2", "{}"),
            OPERAND,
        ),
        (
            PolicyDocuments(HEAD + "allow if input.nothing", "{}"),
            "policy: allow is undefined for this guest, and no other rule has a value",
        ),
        (
            PolicyDocuments(HEAD + 'allow := "true"', "{}"),
            'policy: allow is "true", expected true, and no other rule has a value',
        ),
        (
            PolicyDocuments(HEAD + "allow := 1", "{}"),
            "policy: allow is 1, expected true, and no other rule has a value",
        ),
        (
            PolicyDocuments(HEAD + "allow contains true", "{}"),
            "policy: allow is [true], expected true, and no other rule has a value",
        ),
        (
            PolicyDocuments(HEAD + "default allow := false", "{}"),
            "policy: allow is false, expected true, and no other rule has a value",
        ),
    ],
)
async def test_a_policy_that_does_not_allow_refuses_with_its_cause(
    documents: PolicyDocuments | Exception, text: str
) -> None:
    """An evaluation that fails only for this guest's claims refuses it: the guest chose them."""
    assert await texts(documents, tdx_claims(unexpected=1)) == [text]


async def test_measured_and_reference_values_are_reported_in_full() -> None:
    """defects.md 8 and 17: measurements reach the policy, and a refusal reports them."""
    data = json.dumps({"rtmr1": [TWO, "3" * 96], "rtmr2": [ONE]})
    assert await refusals(default_documents("tdx", data), tdx_claims()) == (
        Reason(
            "rtmr1",
            ONE,
            f"{TWO}, {'3' * 96}",
            f"rtmr1: measured {ONE}, expected one of {TWO}, {'3' * 96}",
            kind=ReasonKind.MEASUREMENT,
        ),
    )


async def test_every_failed_rule_is_reported() -> None:
    """defects.md 9 and 17."""
    data = json.dumps({"mrTd": [TWO], "fmspc": ["00906ed50000"], "advisoryIds": ["INTEL-SA-1"]})
    claims = tdx_claims(debug=True, tcbStatus="OutOfDate", advisoryIds=["INTEL-SA-1", "INTEL-SA-2"])
    assert await texts(default_documents("tdx", data), claims) == [
        "debug: measured true, expected false",
        "tcbStatus: measured OutOfDate, expected one of UpToDate, SWHardeningNeeded",
        f"mrTd: measured {ONE}, expected one of {TWO}",
        'advisoryIds: measured ["INTEL-SA-1", "INTEL-SA-2"], expected one of INTEL-SA-1',
        "fmspc: measured b0c06f000000, expected one of 00906ed50000",
    ]


async def test_absent_claims_are_reported_as_not_measured() -> None:
    data = json.dumps({"rtmr0": [ONE]})
    claims = without(tdx_claims(), "rtmr0", "debug", "tcbStatus")
    assert await texts(default_documents("tdx", data), claims) == [
        "debug: not measured, expected false",
        "tcbStatus: not measured, expected one of UpToDate, SWHardeningNeeded",
        f"rtmr0: not measured, expected one of {ONE}",
    ]


@pytest.mark.parametrize("name", ["initData", "eventLog"])
async def test_a_long_claim_is_shortened_in_the_reason(name: str) -> None:
    """Reasons are logged, audited and retained, so that a guest must not choose their length."""
    rules = f'default allow := false\nmismatches contains "{name}" if data.{name}'
    documents = PolicyDocuments(HEAD + rules, json.dumps({name: ["x"]}))
    claims = tdx_claims() | {name: {"said": "y" * 100_000, "mrTd": ONE}}
    (reason,) = await refusals(documents, claims)
    assert reason.rule == name
    assert reason.text.startswith(f'{name}: measured {{"said": "yyyy')
    assert len(reason.measured) == MAX_OWN_CHARS
    assert len(reason.text) < MAX_OWN_CHARS + 100


async def test_a_reference_value_that_is_not_a_list_refuses() -> None:
    data = json.dumps({"rtmr0": ONE, "rtmr1": None, "tcbStatus": {"UpToDate": 1}})
    assert await texts(default_documents("tdx", data), tdx_claims()) == [
        'tcbStatus: the reference value {"UpToDate": 1} is not a list; no claim can match it',
        f"rtmr0: the reference value {ONE} is not a list; no claim can match it",
        "rtmr1: the reference value null is not a list; no claim can match it",
    ]


async def test_every_failed_rule_of_sgx_is_reported() -> None:
    data = '{"mrEnclave": ["a"], "mrSigner": [], "productId": 4, "svn": 3}'
    documents = default_documents("sgx", data)
    claims = sgx_claims(debug=True, tcbStatus="OutOfDate")
    assert await texts(documents, claims, "sgx") == [
        "debug: measured true, expected false",
        "tcbStatus: measured OutOfDate, expected one of UpToDate, SWHardeningNeeded",
        "mrEnclave: measured ZW5jbGF2ZQ==, expected one of a",
        "productId: measured 3, expected at least 4",
        "svn: measured 2, expected at least 3",
    ]
    assert await texts(default_documents("sgx", "{}"), sgx_claims(svn="2"), "sgx") == [
        "mrEnclave: the reference data has no list of this name",
        "mrSigner: the reference data has no list of this name",
        "productId: the reference data has no number of this name",
        "svn: the reference data has no number of this name",
    ]


async def test_a_revoked_tcb_is_refused_under_every_policy() -> None:
    """defects.md 9."""
    expected = "tcbStatus: measured Revoked, which no policy can accept"
    claims = tdx_claims(tcbStatus="Revoked")
    assert await texts(YES, claims) == [expected]
    data = '{"tcbStatus": ["Revoked"]}'
    assert (await texts(default_documents("tdx", data), claims))[0] == expected
    assert await texts(default_documents("tdx"), claims) == [expected]


class TestOwnReasonsOfThePolicy:
    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            ('reasons contains "not today"', ["not today"]),
            ('reasons := ["b", "a"]', ["b", "a"]),
            ('reasons := "alone"', ["alone"]),
            ('reasons contains {"text": "t", "rule": "r"}', ["t"]),
            ('reasons := {"text": "t"}', ["t"]),
            ('reasons := [1, null, true, "a"]', ["a"]),
            ('reasons contains {"rule": "r"}', ['{"rule": "r"}']),
            ('reasons contains sprintf("saw %s", [input.fmspc])', ["saw b0c06f000000"]),
        ],
    )
    async def test_a_text_an_object_or_a_set_of_them_is_a_reason(
        self, rules: str, expected: list[str]
    ) -> None:
        documents = PolicyDocuments(HEAD + "default allow := false\n" + rules, "{}")
        assert await texts(documents, tdx_claims()) == expected

    async def test_reasons_in_the_older_syntax_are_read(self) -> None:
        policy = 'package policy\ndefault allow = false\nreasons[text] { text := "older" }'
        assert await texts(PolicyDocuments(policy, "{}"), tdx_claims()) == ["older"]

    async def test_an_object_fills_every_member_of_the_reason(self) -> None:
        rule = 'reasons contains {"rule": "rack", "measured": 3, "expected": [1], "text": "t"}'
        documents = PolicyDocuments(HEAD + "default allow := false\n" + rule, "{}")
        reason = Reason("rack", "3", "[1]", "t", kind=ReasonKind.POLICY)
        assert await refusals(documents, tdx_claims()) == (reason,)

    async def test_own_reasons_follow_the_compared_values(self) -> None:
        data = json.dumps({"rtmr0": [TWO], "rtmr1": [TWO]})
        rules = 'default allow := false\nreasons contains "a"\nreasons contains "b"'
        rules += '\nmismatches contains "rtmr0"'
        found = await texts(PolicyDocuments(HEAD + rules, data), tdx_claims())
        assert found == [f"rtmr0: measured {ONE}, expected one of {TWO}", "a", "b"]

    async def test_another_policy_is_not_explained_by_the_rules_of_the_packaged_one(self) -> None:
        """It requires what the packaged policy refuses, and accepts what that one requires."""
        rules = 'default allow := false\nallow if in_rack\nin_rack if input.fmspc == "none"\nx := 1'
        data = json.dumps({"rtmr0": [TWO], "tcbStatus": ["UpToDate"]})
        claims = tdx_claims() | {"tcbStatus": "OutOfDate", "debug": True}
        found = await texts(PolicyDocuments(HEAD + rules, data), claims)
        assert found == ["policy: allow is false, expected true; its other rules: x is 1"]
        for name in ("a", "fmspc"):
            rules += f'\nmismatches contains "{name}" if not in_rack'
        found = await texts(PolicyDocuments(HEAD + rules, data), claims)
        listed = 'mismatches is ["a", "fmspc"]'
        assert found == [
            "a: not measured, expected what the policy accepts",
            f"fmspc: measured {tdx_claims()['fmspc']}, expected what the policy accepts",
            f"policy: allow is false, expected true; its other rules: {listed}, x is 1",
        ]

    async def test_another_defect_adds_a_reason_that_is_not_about_measurements(self) -> None:
        """Otherwise the guest could be pinned although the policy refuses it for more."""
        rules = 'default allow := false\nmismatches contains "rtmr0"'
        documents = PolicyDocuments(HEAD + rules, json.dumps({"rtmr0": [TWO]}))
        cases: list[tuple[dict[str, JsonValue], list[ReasonKind]]] = [
            ({}, [ReasonKind.MEASUREMENT]),
            ({"tcbStatus": "OutOfDate"}, [ReasonKind.MEASUREMENT, ReasonKind.POLICY]),
            ({"debug": True}, [ReasonKind.MEASUREMENT, ReasonKind.POLICY]),
        ]
        for more, kinds in cases:
            found = await refusals(documents, tdx_claims() | more)
            assert [reason.kind for reason in found] == kinds

    async def test_own_reasons_alone_do_not_refuse(self) -> None:
        rules = 'allow := true\nreasons contains "never mind"'
        assert await refusals(PolicyDocuments(HEAD + rules, "{}"), tdx_claims()) == ()

    async def test_number_and_length_of_own_reasons_are_limited(self) -> None:
        rules = (
            "default allow := false\n"
            'reasons := [s | some i in data.n; s := concat("", [x | some x in data.long])]'
        )
        data = json.dumps({"n": list(range(100)), "long": ["x" * (MAX_OWN_CHARS + 1)]})
        found = await texts(PolicyDocuments(HEAD + rules, data), tdx_claims())
        assert found == ["x" * MAX_OWN_CHARS] * MAX_OWN_REASONS


class TestRequiredReferenceValues:
    async def test_missing_and_empty_lists_refuse(self) -> None:
        source = Documents(PolicyDocuments(YES.policy, '{"mrTd": ["a"], "rtmr0": [], "rtmr1": 0}'))
        policy = RegoAppraisalPolicy(source, TEES, pinning=Pinning(require_reference_values=True))
        found = [reason.rule for reason in await policy.failures("tdx", tdx_claims())]
        assert found == [
            *("rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrSeam", "mrSignerSeam", "mrConfigId"),
            *("mrOwner", "mrOwnerConfig", "tcbStatus"),
        ]

    async def test_a_guest_with_pinned_measurements_is_accepted(self) -> None:
        registers = {name: [ONE] for name in tdx_claims() if name.startswith(("mr", "rtmr"))}
        data = json.dumps({**registers, "tcbStatus": ["UpToDate"]})
        source = Documents(default_documents("tdx", data))
        policy = RegoAppraisalPolicy(source, TEES, pinning=Pinning(require_reference_values=True))
        assert await policy.failures("tdx", tdx_claims()) == ()
        (only,) = await policy.failures("tdx", tdx_claims(rtmr3=TWO))
        assert only.text == f"rtmr3: measured {TWO}, expected one of {ONE}"

    async def test_the_reason_names_the_missing_reference_values(self) -> None:
        pins = {"mrEnclave": ["ZW5jbGF2ZQ=="], "tcbStatus": ["UpToDate"]}
        data = json.dumps({**pins, "mrSigner": [], "productId": 0, "svn": 0})
        source = Documents(default_documents("sgx", data))
        policy = RegoAppraisalPolicy(source, TEES, pinning=Pinning(require_reference_values=True))
        (only,) = await policy.failures("sgx", sgx_claims())
        assert only.text == "mrSigner: no reference values, and reference values are required"


class TestDocuments:
    async def test_a_changed_document_takes_effect_at_once(self) -> None:
        source = Documents(YES)
        policy = RegoAppraisalPolicy(source, TEES)
        assert await policy.failures("tdx", tdx_claims()) == ()
        source.now = PolicyDocuments(HEAD + "default allow := false", "{}")
        assert await policy.failures("tdx", tdx_claims())
        source.now = PolicyDocuments(HEAD + "allow if data.x == 1", '{"x": 1}')
        assert await policy.failures("tdx", tdx_claims()) == ()
        source.now = PolicyDocuments(HEAD + "allow if data.x == 1", '{"x": 2}')
        assert await policy.failures("tdx", tdx_claims())
        source.now = NotFound("it is gone")
        with pytest.raises(PolicyUnavailable):
            await policy.failures("tdx", tdx_claims())

    async def test_a_problem_is_reported_before_the_first_guest(self) -> None:
        for good in (YES, default_documents("tdx"), default_documents("sgx")):
            assert await RegoAppraisalPolicy(Documents(good), TEES).prepare("tdx") is good
        broken = RegoAppraisalPolicy(Documents(PolicyDocuments("garbage", "{}")), TEES)
        with pytest.raises(PolicyInvalid, match="cannot be compiled: line 1, column 1: expect"):
            await broken.prepare("tdx")


async def test_claims_that_are_not_json_refuse() -> None:
    (only,) = await refusals(YES, tdx_claims(xfam=float("nan")))
    assert only.text.startswith("policy: the claims are not JSON")


@pytest.mark.parametrize(
    ("graces", "behind", "status", "accepted"),
    [
        ({"OutOfDate": 30}, 30, "OutOfDate", True),
        ({"OutOfDate": 30}, 0, "OutOfDate", True),
        ({"OutOfDate": 29}, 30, "OutOfDate", False),
        ({"OutOfDate": 30}, None, "OutOfDate", False),
        ({"OutOfDate": 30}, "1", "OutOfDate", False),
        ({"OutOfDate": "30"}, 1, "OutOfDate", False),
        ({"OutOfDate": True}, 0, "OutOfDate", False),
        ({"OutOfDate": 30}, 1, "ConfigurationNeeded", False),
        ({"Revoked": 9999}, 1, "Revoked", False),
        ([], 1, "OutOfDate", False),
        (30, 1, "OutOfDate", False),
        ({}, 1, "OutOfDate", False),
    ],
)
async def test_a_tcb_status_has_the_grace_period_of_the_reference_data(
    graces: JsonValue, behind: JsonValue, status: str, accepted: bool
) -> None:
    """The period begins when a newer TCB is released; the operator names the status."""
    claims = tdx_claims(tcbStatus=status)
    if behind is not None:
        claims["tcbBehindDays"] = behind
    data = json.dumps({"tcbStatus": ["UpToDate"], "tcbGraceDays": graces, "rtmr1": []})
    policy = RegoAppraisalPolicy(Documents(default_documents("tdx", data)), TEES)
    reasons = await policy.failures("tdx", claims)
    assert (reasons == ()) is accepted
    if not accepted:
        assert reasons[0].rule == "tcbStatus"
    pinned = json.dumps({"tcbGraceDays": graces, "rtmr1": ["cd" * 48]})
    policy = RegoAppraisalPolicy(Documents(default_documents("tdx", pinned)), TEES)
    rules = {reason.rule for reason in await policy.failures("tdx", claims)}
    assert rules == ({"rtmr1"} if accepted else {"tcbStatus", "rtmr1"})


async def test_a_long_list_is_represented_by_its_first_values() -> None:
    values = [f"{number:096x}" for number in range(10_000)]
    (reason,) = await refusals(default_documents("tdx", json.dumps({"mrTd": values})), tdx_claims())
    listed = ", ".join(values[:MAX_LISTED])
    assert reason.text == (
        f"mrTd: measured {ONE}, expected one of {listed}, and {10_000 - MAX_LISTED} more"
    )
    exact = values[:MAX_LISTED]
    (reason,) = await refusals(default_documents("tdx", json.dumps({"mrTd": exact})), tdx_claims())
    assert reason.expected == listed
