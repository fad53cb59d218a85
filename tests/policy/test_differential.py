"""Generated policies: the engine gives the result of Open Policy Agent, or an error.

`DIFFERENTIAL_SEED` and `DIFFERENTIAL_COUNT` choose other policies; a failure names the seed.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from tests.policy.generated import Generator
from tests.policy.opa import Opa, OpaFailed, running_opa
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy

DATA: Final = '{"n": 7, "l": ["a", "b", 1]}'
SEED: Final = int(os.environ.get("DIFFERENTIAL_SEED", "1"))
COUNT: Final = int(os.environ.get("DIFFERENTIAL_COUNT", "300"))

pytestmark = [
    pytest.mark.skipif(
        shutil.which("opa") is None and not os.environ.get("REQUIRE_OPA"),
        reason="OPA is not installed (on PATH)",
    ),
]


@pytest.fixture(scope="module")
def opa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opa]:
    with running_opa(tmp_path_factory.mktemp("opa")) as server:
        yield server


@pytest.mark.parametrize("form", ["policy", "call"])
def test_no_result_differs_from_opas_without_an_error(form: str, opa: Opa) -> None:
    """The test prints its counts: use `-rA` or `-s`."""
    generator = Generator(SEED)
    counts: Counter[str] = Counter()
    for _ in range(COUNT):
        policy = generator.policy() if form == "policy" else generator.call()
        inputs = generator.inputs(3 if form == "policy" else 1)
        for term, outcome in _compared(opa, policy, inputs):
            counts[outcome] += 1
            assert outcome != "different", f"seed {SEED}, input {term}:\n{policy}"
    print(f"{form}, seed {SEED}: {dict(counts)}")  # noqa: T201  # for the log of CI
    assert counts["same"] > counts["engine error"]


def test_a_difference_is_detected(opa: Opa) -> None:
    policy = "package policy\nimport rego.v1\nallow if input.s == 1\n"
    opa.load(policy.replace("== 1", "== 2"), DATA)
    assert _outcome(opa, CompiledPolicy.compile(policy, DATA), {"s": 1}) == "different"
    assert _outcome(opa, CompiledPolicy.compile(policy, DATA), {"s": 3}) == "same"


def _compared(
    opa: Opa, policy: str, inputs: list[dict[str, JsonValue]]
) -> Iterator[tuple[dict[str, JsonValue] | None, str]]:
    """Return each input with the outcome of its comparison."""
    try:
        opa.load(policy, DATA)
    except OpaFailed:  # OPA has a type checker; the engine evaluates what it would refuse
        yield None, "OPA refuses"
        return
    try:
        compiled = CompiledPolicy.compile(policy, DATA)
    except PolicyInvalid:
        yield None, "engine refuses"
        return
    for term in inputs:
        yield term, _outcome(opa, compiled, term)


def _outcome(opa: Opa, compiled: CompiledPolicy, term: dict[str, JsonValue]) -> str:
    try:
        expected = opa.evaluate(term, strict=True)
    except OpaFailed:
        expected = None
    try:
        answer = dict(compiled.evaluate(term).document)
    except PolicyInvalid:
        return "both fail" if expected is None else "engine error"
    if expected is None:  # a function fails whose value does not matter
        expected = opa.evaluate(term, strict=False)
    return "same" if _typed(answer) == _typed(expected) else "different"


def _typed(value: JsonValue) -> object:
    """Return the value with its types, because `True == 1` in Python."""
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if isinstance(value, dict):
        return {name: _typed(each) for name, each in value.items()}
    return (type(value), value) if isinstance(value, bool) else value
