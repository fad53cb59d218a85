"""The cache of compiled policies: what it stores, and how much of it."""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from wasmtime import WasmtimeError

from tests.policy.support import tdx_claims
from tests.support.clock import until
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy import compiled, engine
from verdictd_py.policy import instances as engine_instances
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.engine import CompiledPolicy, PreparedInput
from verdictd_py.policy.instances import MEMORY_BYTES, EngineInstance
from verdictd_py.ports import PolicyDocuments

HEAD = "package policy\nimport rego.v1\n"
CLAIMS = tdx_claims()


def numbered(number: int) -> PolicyDocuments:
    policy = f"{HEAD}allow if data.n == {number}\n"
    return PolicyDocuments(policy, f'{{"n": {number}}}', f"team{number}.rego")


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EngineInstance]]:
    """Record every instance that is created."""
    made: list[EngineInstance] = []
    create = engine.compiled_instance

    def counting(request: bytes) -> tuple[EngineInstance, Mapping[str, Any]]:
        instance, description = create(request)
        made.append(instance)
        return instance, description

    monkeypatch.setattr(engine, "compiled_instance", counting)
    yield made
    made.clear()


async def test_each_text_is_compiled_once(instances: list[EngineInstance]) -> None:
    policies = CompiledPolicies()
    broken = PolicyDocuments("garbage", "{}")
    for documents in (numbered(1), numbered(2), numbered(1), numbered(2)):
        _, result = await policies.evaluate(documents, CLAIMS)
        assert result.allow
        with pytest.raises(PolicyInvalid):
            policies.of(broken)
    assert len(instances) == 2


async def test_a_hundred_release_policies_keep_their_instances(
    instances: list[EngineInstance],
) -> None:
    policies = CompiledPolicies()
    for _ in range(2):
        for number in range(100):
            _, result = await policies.evaluate(numbered(number), CLAIMS)
            assert result.allow
    assert len(instances) == 100
    memory = sum(each.memory_bytes for each in instances)
    assert memory <= compiled.MAX_INSTANCE_BYTES


@pytest.mark.parametrize("bound", ["MAX_INSTANCE_BYTES", "MAX_INSTANCES"])
async def test_beyond_the_limit_the_least_recently_used_instance_is_released(
    bound: str, instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = CompiledPolicies()
    policies.of(numbered(0))
    most = {"MAX_INSTANCE_BYTES": 3 * instances[0].memory_bytes, "MAX_INSTANCES": 3}[bound]
    monkeypatch.setattr(compiled, bound, most)
    for number in (1, 2, 0, 3):  # 1 is released
        await policies.evaluate(numbered(number), CLAIMS)
    assert [policies.of(numbered(number)).idle[0] for number in range(4)] == [1, 0, 1, 1]
    assert len(instances) == 4
    _, result = await policies.evaluate(numbered(1), CLAIMS)
    assert result.allow
    assert len(instances) == 5  # checked before, so it is not compiled until it decides


@pytest.mark.parametrize("bound", ["MAX_TEXT_BYTES", "MAX_POLICIES"])
async def test_beyond_the_limit_the_least_recently_used_policy_is_evicted(
    bound: str, instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = CompiledPolicies()
    text = policies.of(numbered(0)).text_bytes
    monkeypatch.setattr(compiled, bound, {"MAX_TEXT_BYTES": 2 * text, "MAX_POLICIES": 2}[bound])
    for number in (1, 0, 2, 0, 2):
        policies.of(numbered(number))
    assert len(instances) == 3
    policies.of(numbered(1))
    assert len(instances) == 4


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        (resource.RLIM_INFINITY, compiled.MAX_INSTANCES),
        (4_000_000 * 1024, 30),
        (MEMORY_BYTES, 1),
    ],
)
def test_the_address_space_limits_the_number_of_instances(
    limit: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert compiled._max_instances() == most


async def test_an_instance_that_has_grown_is_not_used_again(
    instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAX_IDLE_BYTES", 4 * 2**20)
    policies = CompiledPolicies()
    grown = f"{HEAD}allow if count(numbers.range(1, input.n)) > 0\n"
    documents = PolicyDocuments(grown, "{}")
    for number, made in ((10, 1), (10, 1), (400_000, 1), (10, 2), (10, 2)):
        _, result = await policies.evaluate(documents, {"n": number})
        assert result.allow
        assert len(instances) == made


async def test_a_large_decision_leaves_an_instance_for_the_others(
    instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    call = EngineInstance.call

    def held(instance: EngineInstance, *args: Any, **keywords: Any) -> dict[str, Any]:
        if not begun.is_set():  # the first call is that of the large decision
            begun.set()
            may_end.wait()
        return call(instance, *args, **keywords)

    monkeypatch.setattr(EngineInstance, "call", held)
    policies = CompiledPolicies()
    begun.set()
    slow = f"{HEAD}allow if count([1 | some a in input.n; some b in input.n; a < b]) > 0\n"
    documents = PolicyDocuments(slow, "{}")
    policies.of(documents)
    many: dict[str, JsonValue] = {"n": list(range(100)), "more": list(range(300))}
    for _ in range(5):
        begun.clear()
        may_end.clear()
        large = asyncio.create_task(policies.evaluate(documents, many))
        try:
            await until(begun.is_set)
            _, result = await policies.evaluate(documents, {"n": [1, 2]})
        finally:
            may_end.set()
        assert result.allow
        await large
    assert len(instances) == 2
    assert policies.of(documents).idle[0] == 2


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("allow if frobnicate(1)", r"team\.rego: the policy cannot be compiled: .*frobnicate"),
        ("allow if count(1)", r"team\.rego: the policy failed: line 3: count"),
        (
            "allow if { some a in n; some b in n; some c in n; a + b + c < 0 }\nn := input.numbers",
            r"team\.rego: the policy takes too long: its budget is [\d,]+ units of fuel",
        ),
    ],
)
async def test_every_error_names_the_document(rules: str, said: str) -> None:
    documents = PolicyDocuments(HEAD + rules, "{}", "team.rego")
    policies = CompiledPolicies()
    for _ in range(2):
        with pytest.raises(PolicyInvalid, match=f"^{said}"):
            await policies.evaluate(documents, {"numbers": list(range(1000))})


def test_the_cache_key_separates_policy_and_data() -> None:
    assert PolicyDocuments("ab", "c").digest != PolicyDocuments("a", "bc").digest


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the documents whose decisions were made in a thread."""
    names: list[str] = []
    in_thread = engine.in_thread

    async def recording(work: Any, documents: PolicyDocuments, *more: Any) -> Any:
        names.append(documents.name)
        return await in_thread(work, documents, *more)

    monkeypatch.setattr(compiled, "in_thread", recording)
    return names


async def test_small_decisions_are_made_on_the_event_loop_once_compiled(
    threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = CompiledPolicies()
    for _ in range(2):
        await policies.evaluate(numbered(1), CLAIMS)
        await policies.evaluate(numbered(1), PreparedInput.of(CLAIMS))
    assert threads == ["team1.rego"]  # to compile it
    fuel = policies.of(numbered(1)).most_fuel
    for most, expected in ((fuel, 1), (fuel - 1, 3)):
        monkeypatch.setattr(compiled, "QUICK_FUEL", most)
        await policies.evaluate(numbered(1), CLAIMS)
        await policies.evaluate(numbered(1), PreparedInput.of(CLAIMS))
        assert len(threads) == expected


async def test_a_policy_that_was_slow_once_is_evaluated_in_a_thread(threads: list[str]) -> None:
    rules = "allow if count([1 | some a in numbers.range(1, input.n); a > 0]) > 0\n"
    policies, documents = CompiledPolicies(), PolicyDocuments(HEAD + rules, "{}", "slow.rego")
    policies.of(documents)
    for number, made in ((1, 0), (1, 0), (20_000, 0), (1, 1), (1, 2)):
        await policies.evaluate(documents, {"n": number})
        assert len(threads) == made


async def test_a_policy_with_much_data_is_evaluated_on_the_event_loop_once_it_was_quick(
    threads: list[str],
) -> None:
    data = f'{{"x": {[f"{number:096x}" for number in range(2000)]}}}'.replace("'", '"')
    policies = CompiledPolicies()
    documents = PolicyDocuments(f"{HEAD}allow if input.n in data.x", data, "large.rego")
    policies.of(documents)
    for _ in range(3):
        await policies.evaluate(documents, {"n": "0"})
    assert len(threads) == 1  # the first one


def test_threads_that_need_the_same_policy_compile_it_once(
    instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies, compile_policy = CompiledPolicies(), CompiledPolicy.compile
    compiling, may_end = threading.Event(), threading.Event()

    def held(*texts: Any) -> CompiledPolicy:
        compiling.set()
        may_end.wait()
        return compile_policy(*texts)

    monkeypatch.setattr(CompiledPolicy, "compile", held)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(policies.of, numbered(1)) for _ in range(4)]
        compiling.wait()
        may_end.set()
        assert len({id(call.result()) for call in calls}) == 1
    assert len(instances) == 1


async def test_large_data_and_large_inputs_are_evaluated_in_a_thread(threads: list[str]) -> None:
    policies = CompiledPolicies()
    many: dict[str, JsonValue] = {"n": list(range(2 * engine.SMALL_VALUES))}
    large = PolicyDocuments(f"{HEAD}allow if data.x", f'{{"x": "{"x" * 2**17}"}}', "large.rego")
    cases: tuple[tuple[PolicyDocuments, engine.Input], ...] = (
        (large, {}),
        (numbered(1), many),
        (numbered(1), PreparedInput.of(many)),
    )
    for documents, claims in cases:
        policies.of(documents)
        before = len(threads)
        await policies.evaluate(documents, claims)
        assert len(threads) == before + 1


@pytest.mark.parametrize("values", [1, 2 * engine.SMALL_VALUES])
async def test_the_data_of_a_decision_counts_for_it_alone(values: int) -> None:
    policies = CompiledPolicies()
    documents = PolicyDocuments(f"{HEAD}allow if data.path == input.n", '{"path": 3}')
    claims: dict[str, JsonValue] = {"n": list(range(values))}
    for _ in range(2):  # compiled by the first
        _, result = await policies.evaluate(documents, claims, {"path": claims["n"]})
        assert result.allow
        _, result = await policies.evaluate(documents, claims)
        assert not result.allow


async def test_every_way_to_an_instance_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_INSTANCES", 1)
    policies = CompiledPolicies()
    for number in range(3):
        policies.of(numbered(number))
    assert [policies.of(numbered(number)).idle[0] for number in range(3)] == [0, 0, 1]
    many: dict[str, JsonValue] = {"n": list(range(2 * engine.SMALL_VALUES))}
    for number in (0, 1):
        await policies.evaluate(numbered(number), many)
    assert [policies.of(numbered(number)).idle[0] for number in range(3)] == [0, 1, 0]


def test_a_policy_that_is_forgotten_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its memory, nor a place of those that follow."""
    policies = CompiledPolicies()
    first = weakref.ref(policies.of(numbered(0)))
    monkeypatch.setattr(compiled, "MAX_POLICIES", 1)
    found = first()
    assert found is not None
    monkeypatch.setattr(compiled, "MAX_INSTANCE_BYTES", found.idle[1])
    del found
    for number in range(1, 4):
        assert policies.of(numbered(number)).idle[0] == 1
    gc.collect()
    assert first() is None


def test_the_texts_that_are_cached_count_and_no_others(
    instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = CompiledPolicies()
    text = policies.of(numbered(0)).text_bytes
    monkeypatch.setattr(compiled, "MAX_TEXT_BYTES", 2 * text)
    for number in (1, 2, 3):
        policies.of(numbered(number))
    with pytest.raises(PolicyInvalid):
        policies.of(PolicyDocuments("garbage", "{}"))
    assert len(instances) == 4
    for number, made in ((3, 4), (2, 4), (1, 5)):
        policies.of(numbered(number))
        assert len(instances) == made


def test_a_policy_that_two_threads_compile_at_once_counts_once(
    instances: list[EngineInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = CompiledPolicies()
    text = CompiledPolicy.compile(numbered(1).policy, numbered(1).reference).text_bytes
    monkeypatch.setattr(compiled, "MAX_TEXT_BYTES", text)
    compile_policy = CompiledPolicy.compile

    def overtaken(*texts: Any) -> CompiledPolicy:
        monkeypatch.setattr(CompiledPolicy, "compile", compile_policy)
        policies.of(numbered(1))
        return compile_policy(*texts)

    monkeypatch.setattr(CompiledPolicy, "compile", overtaken)
    policies.of(numbered(1))
    before = len(instances)
    policies.of(numbered(1))
    assert len(instances) == before


def test_a_policy_without_a_document_is_not_named() -> None:
    for text in ("garbage", "\ud800"):
        with pytest.raises(PolicyInvalid) as raised:
            CompiledPolicies().of(PolicyDocuments(text, "{}"))
        assert str(raised.value).startswith("the policy ")


def test_a_lack_of_memory_is_not_taken_for_a_fault_of_the_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy compiles once there is memory, without a restart."""
    policies = CompiledPolicies()

    def fail(*_: object) -> None:
        raise WasmtimeError("mmap failed")

    with monkeypatch.context() as scarce:
        scarce.setattr(engine_instances, "Instance", fail)
        with pytest.raises(PolicyInvalid, match="cannot reserve"):
            policies.of(numbered(1))
    assert policies.of(numbered(1)).evaluate(CLAIMS).allow
