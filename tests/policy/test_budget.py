"""The budget of a decision: what exceeds it is refused with a message that names the budget."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Final

import pytest
from wasmtime import WasmtimeError

from tests.policy.support import default_documents, tdx_claims
from tests.support.memory import accepted_peer
from tests.support.tees import TEES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid, PolicyUnavailable
from verdictd_py.formats import eventlog, initdata
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.instances import (
    DECISION_FUEL,
    MAX_ANSWER_BYTES,
    MEMORY_BYTES,
    EngineInstance,
)
from verdictd_py.policy.release import RegoReleasePolicy
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import Kind, PolicyDocuments
from verdictd_py.storage.memory import MemoryDocumentStore

HEAD: Final = "package policy\nimport rego.v1\n"
CUBED: Final = "some a in n; some b in n; some c in n; a + b + c < 0"
NUMBERS: Final = "n := numbers.range(1, 1000)\n"
CUBE: Final = f"allow if {{ {CUBED} }}\n{NUMBERS}"
TIME: Final = f"the policy takes too long: its budget is {DECISION_FUEL:,} units of fuel"
MEMORY: Final = f"the policy needs too much memory: its budget is {MEMORY_BYTES // 2**20} MiB"

EXPENSIVE: Final = {
    "loop": (CUBE, TIME),
    "comprehension": (
        "allow if count([1 | some a in n; some b in n; some c in n; a + b + c < 0]) > 0\n"
        + NUMBERS,
        TIME,
    ),
    "quadratic comparison": (
        "allow if { some a in r; not a in [b | some b in r; b != a]; a < 0 }\nr := input.rows",
        TIME,
    ),
    "memory": (
        "allow if count([x | some a in n; some b in n; x := [a, b, n]]) < 0\n" + NUMBERS,
        "",
    ),
    "numbers": ("allow if count(numbers.range(1, 100000000)) < 0\n", MEMORY),
    "texts": (
        'allow if count([x | some a in n; some b in n; x := concat(",", [input.long, "x"])]) < 0\n'
        + NUMBERS,
        MEMORY,
    ),
}


@pytest.mark.parametrize("name", EXPENSIVE)
@pytest.mark.timing
def test_a_decision_beyond_its_budget_is_refused_with_the_budget(name: str) -> None:
    rules, said = EXPENSIVE[name]
    policy = CompiledPolicy.compile(HEAD + rules, "{}")
    claims: dict[str, JsonValue] = {"rows": list(range(2000)), "long": "x" * 10_000}
    began = time.thread_time()
    with pytest.raises(PolicyInvalid, match="its budget is") as caught:
        policy.evaluate(claims)
    assert time.thread_time() - began < 3
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rules", ["allow if a\na if b\nb if a\n", "allow if f(9)\nf(x) := f(x + 1)\n"]
)
def test_recursion_is_refused(rules: str) -> None:
    with pytest.raises(PolicyInvalid, match=r"recurs|nests|cyclic"):
        CompiledPolicy.compile(HEAD + rules, "{}").evaluate({})


async def test_the_budget_is_named_with_the_document() -> None:
    """The text is the same in an appraisal and in a release."""
    texts = {"tdxPolicy.rego": HEAD + CUBE, "tdxData": "{}", "releasePolicy.rego": HEAD + CUBE}
    store = MemoryDocumentStore(TEES, texts)
    source = DocumentsWithSets(store, TEES, lambda: datetime(2026, 11, 24, tzinfo=UTC))
    with pytest.raises(PolicyUnavailable) as appraising:
        await RegoAppraisalPolicy(source, TEES).failures("tdx", tdx_claims())
    assert f"policy: tdxPolicy.rego: {TIME}; simplify it" == str(appraising.value)
    with pytest.raises(PolicyUnavailable) as releasing:
        await RegoReleasePolicy(store, TEES).failures(accepted_peer(), Kind.KEY, "keys/one")
    assert f"releasePolicy.rego: {TIME}; simplify it" in str(releasing.value)


def test_an_answer_that_is_too_large_is_refused() -> None:
    rules = "allow := true\nall := numbers.range(1, input.n)\n"
    policy = CompiledPolicy.compile(HEAD + rules, "{}")
    assert policy.evaluate({"n": 10}).allow
    with pytest.raises(PolicyInvalid, match=f"answer is larger than {MAX_ANSWER_BYTES} bytes"):
        policy.evaluate({"n": 200_000})


def test_a_trap_without_an_exceeded_budget_is_an_internal_error() -> None:
    """The test passes a trap to the instance, because the engine without a policy never traps."""
    instance = EngineInstance()
    trap = WasmtimeError("wasm trap: unreachable\nbacktrace")
    found = instance._cause(trap, 1)
    assert type(found) is PolicyInvalid  # of the engine, so that no guest is refused for it
    assert str(found) == "the policy engine failed: wasm trap: unreachable; report this as a defect"


def test_a_deeply_nested_policy_or_claim_is_refused() -> None:
    nested = "[" * 20_000 + "]" * 20_000
    with pytest.raises(PolicyInvalid):
        CompiledPolicy.compile(HEAD + f"allow := {nested} == 1", "{}")


def test_the_decision_after_an_exceeded_budget_is_correct() -> None:
    policy = CompiledPolicy.compile(
        HEAD
        + "allow if input.x == 1\nallow if input.loop\n"
        + (
            "loop if { input.loop; some a in n; some b in n; some c in n; a + b + c < 0 }\n"
            + NUMBERS
        ),
        "{}",
    )
    with pytest.raises(PolicyInvalid, match="its budget is"):
        policy.evaluate({"x": 1, "loop": True})
    assert policy.evaluate({"x": 1}).allow
    assert not policy.evaluate({"x": 2}).allow


@pytest.mark.timing
async def test_the_largest_claims_are_decided_without_blocking_the_event_loop() -> None:
    """1,023 events and 1,024 values of init-data are evaluated in another thread.

    The thread of the event loop needs little CPU time for one cycle, compared with a decision.
    """
    row: JsonValue = {"index": 1, "type": 2**31, "digest": "ab" * 48}
    claims = tdx_claims(
        eventLog={"events": [row] * (eventlog.MAX_EVENTS - 1)},
        initData={f"name{number}": number for number in range(initdata.MAX_VALUES)},
    )
    documents = default_documents("tdx")
    walking = PolicyDocuments(
        documents.policy + "\nwalked := count([1 | walk(input, _)])\n", documents.data
    )
    policies = CompiledPolicies()
    cycles: list[float] = []

    async def probe() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            cycles.append(time.thread_time() - before)

    await policies.evaluate(walking, claims)
    probing = asyncio.create_task(probe())
    for _ in range(5):
        _, result = await policies.evaluate(walking, claims)
        assert result.allow
    probing.cancel()
    begin = time.process_time()
    await policies.evaluate(walking, claims)
    assert max(cycles) < (time.process_time() - begin) / 4


def test_a_limit_of_addresses_that_is_too_low_is_named() -> None:
    program = """
import resource
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy import instances
instances.prepare(lambda _: None)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 16 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    instances.EngineInstance()
except PolicyInvalid as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert "the limit (ulimit -v) is" in done.stdout
    assert "raise it" in done.stdout
