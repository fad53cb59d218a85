"""Reference data: read strictly, and what of it is not pinned."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.support import POLICIES
from tests.support.tees import SGX, TDX
from verdictd_py.documents.reference import (
    MAX_DATA_BYTES,
    MAX_DATA_DEPTH,
    ReferenceData,
)
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.ports.tees import Tee


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not usable JSON"),
        ("{", "not usable JSON"),
        ("[]", "not a JSON object"),
        ('"rtmr0"', "not a JSON object"),
        ("null", "not a JSON object"),
        ("{} {}", "not usable JSON"),
        ('{"rtmr0": [],}', "not usable JSON"),
        ('{"rtmr0": ["a"], "rtmr0": []}', "occurs twice"),
        ('{"a": {"b": 1, "b": 2}}', "occurs twice"),
        ('{"rtmr0": ["a"], "rtmr\\u0030": []}', "occurs twice"),
        ('{"a": NaN}', "NaN is not"),
        ('{"a": -Infinity}', "-Infinity is not"),
        ('{"a": 1e999}', "not usable JSON"),
        ('{"a": "\\ud800"}', "not usable JSON"),
        ('{"policy": {"allow": true}}', "name `policy`"),
        ('{"\\u0070olicy": 1}', "name `policy`"),
        ("\ufeff{}", "not usable JSON"),
        ('{"a": ' + "[" * MAX_DATA_DEPTH + "]" * MAX_DATA_DEPTH + "}", "nested more than"),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "more than 100 digits"),
        ('{"a": "' + "x" * MAX_DATA_BYTES + '"}', "larger than"),
        ('{"a": "' + "\u00e9" * (MAX_DATA_BYTES // 2) + '"}', "larger than"),
    ],
)
def test_data_that_could_mean_two_things_is_refused(text: str, said: str) -> None:
    """defects.md 15: data with a top-level `policy` would override the verdict."""
    with pytest.raises(PolicyInvalid, match=said):
        ReferenceData.parse(text)
    with pytest.raises(PolicyInvalid, match=said):
        CompiledPolicy.compile("package policy\ndefault allow = false", text)


def test_what_the_caps_allow_is_read() -> None:
    nested = "[" * (MAX_DATA_DEPTH - 1) + "]" * (MAX_DATA_DEPTH - 1)
    CompiledPolicy.compile("package policy\ndefault allow = false", '{"a": ' + nested + "}")


@given(text=st.text() | st.from_regex(r'\{"[a-z]{0,6}": ?[\[\]{}"0-9a-zN.,:-]{0,20}\}?'))
def test_the_reader_raises_its_own_error_only(text: str) -> None:
    try:
        found = ReferenceData.parse(text).values
    except PolicyInvalid:
        return
    assert found == json.loads(text)


def test_data_nested_under_another_name_cannot_reach_the_verdict() -> None:
    """defects.md 15."""
    for name in ("data", "g0", "input", "policy ", "a", "querymodule$3"):
        for inner in ("policy", "data", "query$4"):
            data = json.dumps({name: {inner: {"allow": True, "policy": {"allow": True}}}})
            policy = CompiledPolicy.compile("package policy\ndefault allow = false", data)
            assert policy.evaluate({}).document == {"allow": False}


@pytest.mark.parametrize(
    ("text", "tee", "names"),
    [
        ("{}", TDX, TDX.measurements),
        ("{}", SGX, SGX.measurements),
        ((POLICIES / "tdxData").read_text(), TDX, TDX.measurements),
        ((POLICIES / "sgxData").read_text(), SGX, SGX.measurements),
        ('{"svn": 0, "mrSigner": ["a"]}', SGX, ("mrEnclave",)),
        (
            '{"rtmr1": ["a"], "mrTd": ["b"]}',
            TDX,
            ("rtmr0", "rtmr2", "rtmr3", *TDX.measurements[5:]),
        ),
        (json.dumps({name: ["a"] for name in TDX.measurements}), TDX, ()),
        (json.dumps(dict.fromkeys(TDX.measurements, "a")), TDX, ()),
    ],
)
def test_which_measurements_are_not_pinned(text: str, tee: Tee, names: tuple[str, ...]) -> None:
    assert ReferenceData.parse(text).unpinned(tee.measurements) == names


def test_a_value_has_one_text_however_it_was_made() -> None:
    parsed = ReferenceData.parse('{ "a" : ["\\u0041"], "b": 1 }')
    assert parsed.text == '{"a": ["A"], "b": 1}'
    assert ReferenceData.of(parsed.values) == parsed
    assert ReferenceData.parse(parsed.serialize()) == parsed
    with pytest.raises(PolicyInvalid, match="larger than"):
        ReferenceData.of({"a": "x" * MAX_DATA_BYTES})
