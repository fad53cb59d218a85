"""The cache of decisions: what makes another one, and how much is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.policy.support import ONE, TWO, Documents, default_documents, tdx_claims
from tests.support.tees import TEES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvaluationFailed
from verdictd_py.policy import decisions
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.decisions import Decisions
from verdictd_py.policy.engine import SMALL_VALUES, PreparedInput
from verdictd_py.ports import PolicyDocuments

HEAD = "package policy\nimport rego.v1\n"
DOCUMENTS = PolicyDocuments(f"{HEAD}allow if input.n in data.n\n", '{"n": [1, 2]}')


class Counted(CompiledPolicies):
    """Compiled policies that count their evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def evaluate(self, *arguments: Any, **more: Any) -> Any:
        self.count += 1
        return await super().evaluate(*arguments, **more)


@pytest.fixture
def compiled() -> Counted:
    return Counted()


async def test_the_same_input_is_evaluated_once(compiled: Counted) -> None:
    cache = Decisions(compiled)
    for claims, allowed in (({"n": 1}, True), ({"n": 3}, False)) * 3:
        assert (await cache.evaluate(DOCUMENTS, claims)).allow is allowed
        assert (await cache.evaluate(DOCUMENTS, PreparedInput.of(claims))).allow is allowed
    assert compiled.count == 2


@pytest.mark.parametrize(
    ("documents", "claims", "data", "allowed"),
    [
        (PolicyDocuments(DOCUMENTS.policy, '{"n": [2]}'), {"n": 1}, {}, False),
        (PolicyDocuments(f"{DOCUMENTS.policy}# another\n", DOCUMENTS.data), {"n": 1}, {}, True),
        (PolicyDocuments(f"{HEAD}allow if false\n", DOCUMENTS.data), {"n": 1}, {}, False),
        (DOCUMENTS, {"n": "1"}, {}, False),
        (DOCUMENTS, {"n": 1, "m": 1}, {}, True),
        (DOCUMENTS, {"n": 1}, {"n": [5]}, False),
        (DOCUMENTS, {"n": 1}, {"m": 1}, True),
    ],
)
async def test_another_policy_other_data_or_another_claim_is_decided_again(
    compiled: Counted,
    documents: PolicyDocuments,
    claims: dict[str, JsonValue],
    data: Mapping[str, JsonValue],
    allowed: bool,
) -> None:
    cache = Decisions(compiled)
    assert (await cache.evaluate(DOCUMENTS, {"n": 1})).allow
    assert (await cache.evaluate(documents, claims, data)).allow is allowed
    assert compiled.count == 2


async def test_changed_reference_data_refuses_a_guest_that_was_accepted() -> None:
    source = Documents(default_documents("tdx", f'{{"mrTd": ["{ONE}"]}}'))
    policy = RegoAppraisalPolicy(source, TEES)
    for _ in range(2):
        assert await policy.failures("tdx", tdx_claims()) == ()
    source.now = default_documents("tdx", f'{{"mrTd": ["{TWO}"]}}')
    for _ in range(2):
        (reason,) = await policy.failures("tdx", tdx_claims())
        assert reason.rule == "mrTd"
    source.now = default_documents("tdx", f'{{"mrTd": ["{ONE}"]}}')
    assert await policy.failures("tdx", tdx_claims()) == ()


async def test_a_decision_that_fails_is_made_again(compiled: Counted) -> None:
    cache = Decisions(compiled)
    documents = PolicyDocuments(f"{HEAD}allow if count(input.n) == 1\n", "{}")
    for _ in range(2):
        with pytest.raises(EvaluationFailed, match="count"):
            await cache.evaluate(documents, {"n": 1})
    assert compiled.count == 2


async def test_an_input_that_is_not_json_is_refused(compiled: Counted) -> None:
    with pytest.raises(EvaluationFailed, match="not JSON"):
        await Decisions(compiled).evaluate(DOCUMENTS, {"n": float("nan")})


@pytest.mark.parametrize(
    "claims", [{"n": list(range(2 * SMALL_VALUES))}, {"n": "x" * decisions.MAX_INPUT_CHARS}]
)
async def test_large_inputs_are_not_cached(compiled: Counted, claims: dict[str, JsonValue]) -> None:
    cache = Decisions(compiled)
    for _ in range(2):
        await cache.evaluate(DOCUMENTS, claims)
    assert compiled.count == 2


async def test_large_answers_are_not_cached(compiled: Counted) -> None:
    cache = Decisions(compiled)
    documents = PolicyDocuments(f"{HEAD}allow := true\nlong := [input.x, input.x]\n", "{}")
    for _ in range(2):
        assert (await cache.evaluate(documents, {"x": "x" * decisions.MAX_ANSWER_BYTES})).allow
    assert compiled.count == 2


@pytest.mark.parametrize(("bound", "most"), [("MAX_DECISIONS", 3), ("MAX_TOTAL_BYTES", 45)])
async def test_the_least_recently_used_decisions_are_evicted(
    compiled: Counted, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(decisions, bound, most)
    documents = PolicyDocuments(f"{HEAD}allow := input.n > 0\n", "{}")  # {"allow": true}
    cache = Decisions(compiled)
    for number in (1, 2, 3, 1, 4, 1, 3):  # 2 is evicted
        assert (await cache.evaluate(documents, {"n": number})).allow
    assert compiled.count == 4
    await cache.evaluate(documents, {"n": 2})
    assert compiled.count == 5
