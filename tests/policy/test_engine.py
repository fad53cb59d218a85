"""The policy engine: which policies compile, which results allow, and which errors it raises."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from verdictd_py.documents.reference import canonical
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.formats import eventlog, initdata
from verdictd_py.policy.engine import (
    MAX_INPUT_BYTES,
    MAX_POLICY_BYTES,
    CompiledPolicy,
)

HEAD = "package policy\nimport rego.v1\n"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def test_only_true_allows() -> None:
    policy = CompiledPolicy.compile(HEAD + "allow if input.x == data.a[_]", '{"a":[1,"b"]}')
    assert policy.evaluate({"x": 1}).allow
    assert policy.evaluate({"x": "b"}).allow
    assert not policy.evaluate({"x": 2}).allow
    assert not policy.evaluate({}).allow


def test_the_older_syntax_is_read() -> None:
    policy = CompiledPolicy.compile(
        "package policy\ndefault allow = false\nallow { input.x == 1 }", "{}"
    )
    assert policy.evaluate({"x": 1}).allow
    assert policy.evaluate({}).document == {"allow": False}


@pytest.mark.parametrize(
    "rules",
    [
        'allow := "true"',
        "allow := 1",
        "allow := null",
        "allow := [true]",
        'allow := {"allow": true}',
        "allow contains true",
        "allow contains x if some x in [true]",
        "allow[true] := true",
        "allow.allow := true",
        "allow if input.missing",
        "allow if false",
        "default allow := false",
        "allow(x) := true",
        "allow if input.x > input.missing",
    ],
)
def test_a_value_other_than_true_does_not_allow(rules: str) -> None:
    """defects.md 15."""
    try:
        policy = CompiledPolicy.compile(HEAD + rules, "{}")
    except PolicyInvalid:
        return
    assert not policy.evaluate({"x": 1}).allow


@pytest.mark.parametrize(
    "rules",
    [
        "allow := true\nallow := false",
        "allow := 1\nallow := true",
        "allow if not count(input.x) == 2",
        "allow if not to_number(input.y) == 2",
        "allow if { not regex.match(`[`, input.y) }",
        'allow if { input.x >= 0; not startswith(input.x, "z") }',
        "allow if a\na if b\nb if a",
        "f(x) := 1\nf(x) := 2\nallow if f(1) == 1",
        "allow if 1 / (input.x - 1) == input.x / (input.x - 1)",
    ],
)
def test_a_failed_evaluation_is_an_error(rules: str) -> None:
    try:
        policy = CompiledPolicy.compile(HEAD + rules, "{}")
        result = policy.evaluate({"x": 1, "y": "no number"})
    except PolicyInvalid:
        return
    assert not result.allow


def test_a_wrong_type_is_named() -> None:
    policy = CompiledPolicy.compile(HEAD + "allow if not count(input.x) == 2", "{}")
    with pytest.raises(PolicyInvalid, match="the policy failed: line 3: count: operand 1 must"):
        policy.evaluate({"x": 1})


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("garbage", "line 1, column 1: expecting `package`"),
        ("", "no rule `allow`"),
        ("package other\nallow := true", "no rule `allow`"),
        ("package policy.inner\nallow := true", "no rule `allow`"),
        ("package policy\nother := true", "no rule `allow`"),
        (HEAD + "allow if {", "line 3, column 11: expecting expression"),
        (HEAD + "allow := true\npackage policy", "line 4, column 1: unexpected keyword"),
        (HEAD + "allow := true\0 if false", "NUL"),
        (HEAD + "allow if frobnicate(1)", "frobnicate"),
        (HEAD + "allow := true\n#" + "x" * MAX_POLICY_BYTES, "larger than"),
        ("\ud800", "not text"),
    ],
)
def test_an_unusable_policy_is_refused_with_the_cause(policy: str, text: str) -> None:
    """defects.md 13: a policy is checked before it is used, by the engine that runs it."""
    with pytest.raises(PolicyInvalid, match=text):
        CompiledPolicy.compile(policy, "{}")


@pytest.mark.parametrize(
    "claims",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": "\ud800"},
        {"x": b"bytes"},
        {"x": {1, 2}},
        {"x": "a" * MAX_INPUT_BYTES},
    ],
)
def test_claims_that_are_not_json_are_refused(claims: dict[str, object]) -> None:
    policy = CompiledPolicy.compile(HEAD + "allow := true", "{}")
    with pytest.raises(PolicyInvalid, match="the claims are"):
        policy.evaluate(claims)  # type: ignore[arg-type]  # what must not come, comes


@pytest.mark.timing
def test_the_longest_claims_of_a_genuine_guest_are_evaluated_in_time() -> None:
    """All other guests wait meanwhile."""
    row: JsonValue = {"index": 1, "type": 2**31, "digest": "ab" * 48}
    claims: dict[str, JsonValue] = {
        "eventLog": {
            "events": [row] * eventlog.MAX_EVENTS,
            "efiApplications": ["cd" * 48] * eventlog.MAX_EVENTS,
        },
        "initData": {f"name{n}": n for n in range(initdata.MAX_VALUES)},
    }
    policy = CompiledPolicy.compile(HEAD + "allow if count(input.eventLog.events) > 0", "{}")
    begins = time.process_time()
    assert policy.evaluate(claims).allow
    assert time.process_time() - begins < 2


def test_claims_are_never_retained_for_the_next_guest() -> None:
    policy = CompiledPolicy.compile(HEAD + "allow if input.x == 1", "{}")
    assert policy.evaluate({"x": 1}).allow
    with pytest.raises(PolicyInvalid):
        policy.evaluate({"x": float("nan")})
    assert not policy.evaluate({}).allow


@given(one=json_values, two=json_values)
def test_values_that_are_equal_in_json_are_equal_in_the_engine(one: object, two: object) -> None:
    """Also with escape sequences, because the engine compares the text of strings."""
    policy = _same(two)
    assert policy.evaluate({"x": two}).allow  # type: ignore[dict-item]
    assert policy.evaluate({"x": one}).allow == (_typed(one) == _typed(two))  # type: ignore[dict-item]


@examples(60)
@given(text=st.text(max_size=40))
def test_compiling_any_text_raises_only_its_own_error(text: str) -> None:
    for policy in (text, HEAD + text, HEAD + "allow if {" + text + "}"):
        try:
            result = CompiledPolicy.compile(policy, "{}").evaluate({})
        except PolicyInvalid:
            continue
        assert result.document.get("allow") is True or not result.allow


def _same(value: object) -> CompiledPolicy:
    data = canonical({"a": value})
    return CompiledPolicy.compile(HEAD + "allow if input.x == data.a", data)


def _typed(value: object) -> object:
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if isinstance(value, dict):
        return {name: _typed(each) for name, each in value.items()}
    return (type(value), value)
