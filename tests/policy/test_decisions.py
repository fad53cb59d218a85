"""The cache of decisions: what makes another one, and how much is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.policy.support import ONE, TWO, Documents, default_documents, tdx_claims
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvaluationFailed
from verdictd_py.packaged import policy_text
from verdictd_py.policy import decisions
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.decisions import Decisions
from verdictd_py.policy.engine import SMALL_VALUES, PreparedInput
from verdictd_py.policy.release import RegoReleasePolicy
from verdictd_py.ports import Kind, PolicyDocuments
from verdictd_py.storage.memory import MemoryDocumentStore

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


def counting(policy: RegoAppraisalPolicy | RegoReleasePolicy) -> Counted:
    """Count the evaluations of a policy."""
    compiled = Counted()
    policy._decisions = Decisions(compiled)
    return compiled


@pytest.mark.parametrize("tee", TEES.names)
@pytest.mark.parametrize("debug", [False, True])
async def test_packaged_policies_read_no_claim_of_a_connection(tee: str, debug: bool) -> None:
    """With the packaged data. The broker does not pass it to them then."""
    known = TEES.named(tee)
    documents, claims = known.documents.defaults(), {**known.sample_claims, "debug": debug}
    names = [name for name, claim in known.claims.items() if claim.of_connection]
    reduced = {name: value for name, value in claims.items() if name not in names}
    assert names
    assert not documents.reference.values.keys() & set(names)
    compiled = CompiledPolicies()
    _, full = await compiled.evaluate(documents, claims)
    _, less = await compiled.evaluate(documents, reduced)
    assert full == less


async def test_guests_with_the_same_measurements_are_decided_once() -> None:
    policy = RegoAppraisalPolicy(Documents(default_documents("tdx")), TEES)
    compiled = counting(policy)
    for number in range(5):
        assert not await policy.failures("tdx", tdx_claims(reportData=f"{number:0128x}"))
    assert compiled.count == 1
    assert await policy.failures("tdx", tdx_claims(debug=True))
    assert compiled.count == 2


async def test_a_pinned_claim_of_the_connection_decides() -> None:
    pinned = f'{{"reportData": ["{"a" * 128}"]}}'
    policy = RegoAppraisalPolicy(Documents(default_documents("tdx", pinned)), TEES)
    for _ in range(2):
        assert not await policy.failures("tdx", tdx_claims(reportData="a" * 128))
        (reason,) = await policy.failures("tdx", tdx_claims(reportData="b" * 128))
        assert reason.rule == "reportData"


@pytest.mark.parametrize("added", ["\n# edited\n", ""])
async def test_any_other_policy_gets_the_claim_of_the_connection(added: str) -> None:
    packaged = default_documents("tdx")
    rules = "".join(packaged.policy.partition("default allow := false")[:2])
    text = f"{rules}\nallow if input.reportData\n" if not added else packaged.policy + added
    policy = RegoAppraisalPolicy(Documents(PolicyDocuments(text, packaged.data)), TEES)
    compiled = counting(policy)
    for number in range(2):
        assert not await policy.failures("tdx", tdx_claims(reportData=f"{number:0128x}"))
    assert compiled.count == 2


def numbered_peer(number: int) -> AppraisedPeer:
    appraisal = Appraisal(str(number), NOW, "tdx", "test", VERIFIED, bound=True, refusal=None)
    return AppraisedPeer.of(appraisal, address="192.0.2.1:5")


async def test_the_packaged_release_policy_decides_once_about_each_resource() -> None:
    text = policy_text("releasePolicy.rego")
    store = MemoryDocumentStore(TEES, {"releasePolicy.rego": text})
    policy = RegoReleasePolicy(store, TEES)
    compiled = counting(policy)
    for number in range(3):
        peer = numbered_peer(number)
        assert not await policy.failures(peer, Kind.KEY, "keys/a")
        assert not await policy.failures(peer, Kind.KEY, "keys/b")
    assert compiled.count == 2
    store.texts["releasePolicy.rego"] = text.replace(
        "allow if input.resource.path", "allow if input.claims.mrTd"
    )
    for number in range(3):
        peer = numbered_peer(number)
        assert not await policy.failures(peer, Kind.KEY, "keys/a")
    assert compiled.count == 5


@pytest.mark.parametrize("path", ["keys/a", "default/key/1", ""])
async def test_the_packaged_release_policy_reads_the_resource_only(path: str) -> None:
    documents = PolicyDocuments(policy_text("releasePolicy.rego"), "{}")
    compiled = CompiledPolicies()
    resource: JsonValue = {"kind": "key", "path": path, "labels": {}, "query": {}}
    _, full = await compiled.evaluate(
        documents, {"claims": tdx_claims(), "appraisal": {"id": "a"}, "resource": resource}
    )
    _, less = await compiled.evaluate(documents, {"resource": resource})
    assert full == less
