"""New policies are compiled and evaluated within the budget of every decision."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.tees import TEES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.trial import PolicyTrial
from verdictd_py.ports import PolicyDocuments

V1 = "package policy\nimport rego.v1\n\ndefault allow := false\n"
TO_1000 = ",".join(map(str, range(1000)))

ENDLESS = V1 + (
    "allow if count([1 | some a in n; some b in n; some c in n; a * b == c + 0.5]) > 1\n"
    f"n := [{TO_1000}]\n"
)
BULKY = V1 + (
    "allow if count(all) > 1\n"
    'all := [concat("", [s, s, s, sprintf("%d%d", [a, b])]) | some a in n; some b in n]\n'
    f'n := [{TO_1000}]\ns := "{"x" * 50_000}"\n'
)
UPSTREAM_SGX = """package policy

default allow = false

allow {
    count(data.mrEnclave) == 0
    input.productId >= data.productId
    input.svn >= data.svn
}
"""


def documents(policy: str, data: str = "{}") -> PolicyDocuments:
    return PolicyDocuments(policy, data)


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
async def test_the_packaged_policies_are_accepted(tee: str) -> None:
    await PolicyTrial(TEES).check(TEES.named(tee).documents.defaults(), tee)


@pytest.mark.parametrize(
    ("policy", "data", "said"),
    [
        ("package policy\nallow {", "{}", "line 2"),
        ("package other\nallow := true\n", "{}", "no rule `allow`"),
        ("package policy\nx := 1\n", "{}", "no rule `allow`"),
        (V1 + "allow if opa.runtime().env.HOME\n", "{}", "opa.runtime"),
        (V1 + 'allow if http.send({"method": "GET", "url": "http://x"})\n', "{}", "http.send"),
        (V1 + "allow if upper(input.debug) == input.xfam\n", "{}", "the policy failed"),
        (V1, "[]", "not a JSON object"),
        (V1, '{"policy": {"allow": true}}', "replace the policy's decision"),
        (V1, "{", "not usable JSON"),
        ("", "{}", ""),
    ],
)
async def test_a_policy_that_fails_is_not_accepted(policy: str, data: str, said: str) -> None:
    """defects.md 13: a policy is checked before it is stored; it fails on a sample, too."""
    with pytest.raises(PolicyInvalid) as caught:
        await PolicyTrial(TEES).check(documents(policy, data), "tdx")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_release_policy_is_tried_with_the_input_of_a_release() -> None:
    """Otherwise it could fail for every guest, and only at its first request."""
    with pytest.raises(PolicyInvalid, match="the policy failed"):
        await PolicyTrial(TEES).check(
            documents(V1 + "allow if input.resource.path % 2 == 0\n"), None
        )
    good = 'allow if { input.claims.debug == false; startswith(input.resource.path, "default/") }\n'
    await PolicyTrial(TEES).check(documents(V1 + good), None)


@pytest.mark.parametrize("policy", [ENDLESS, BULKY], ids=["time", "memory"])
async def test_a_policy_that_exceeds_the_budget_is_refused(policy: str) -> None:
    """Without a budget, a comprehension over 3,000 elements takes the processor for minutes."""
    with pytest.raises(PolicyInvalid, match="its budget is"):
        await PolicyTrial(TEES).check(documents(policy), None)


async def test_a_slow_decision_is_not_accepted() -> None:
    slow = V1 + (
        "allow if count([1 | some a in n; some b in n; a * b == 7.5]) > 1\n"
        f"n := [{','.join(map(str, range(300)))}]\n"
    )
    with pytest.raises(PolicyInvalid, match="takes too long: its budget is"):
        await PolicyTrial(TEES).check(documents(slow), None)


@pytest.mark.parametrize(
    ("policy", "data", "claims", "allow", "info"),
    [
        (
            UPSTREAM_SGX,
            '{"mrEnclave":[],"productId":1,"svn":2}',
            {"productId": 1, "svn": 3, "more": "x"},
            True,
            {"productId": [1, 1], "svn": [3, 2], "more": ["x", None]},
        ),
        (UPSTREAM_SGX, '{"mrEnclave":["a"]}', {"productId": 1}, False, {"productId": [1, None]}),
        (V1 + "allow := 1 if input.a\n", "{}", {"a": True}, False, {"a": [True, None]}),
        ('package policy\nallow := "true"\n', "{}", {}, False, {}),
    ],
)
async def test_a_test_returns_the_verdict_and_both_values_of_each_claim(
    policy: str, data: str, claims: JsonValue, allow: bool, info: dict[str, JsonValue]
) -> None:
    tested = await PolicyTrial(TEES).test(documents(policy, data), claims)
    assert tested.allow is allow
    assert tested.parse_info == info


async def test_concurrent_trials_all_complete() -> None:
    sandbox = PolicyTrial(TEES)
    policies = [documents(V1 + f"allow if input.a == {number}\n") for number in range(6)]
    tested = await asyncio.gather(*(sandbox.test(each, {"a": 1}) for each in policies))
    assert [each.allow for each in tested] == [False, True, False, False, False, False]
