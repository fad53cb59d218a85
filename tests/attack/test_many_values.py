"""Attack: JSON with millions of values of any type takes memory and time before it is refused."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from verdictd_py.encoding import MAX_VALUES, decode_value
from verdictd_py.errors import RequestError

VALUES = {
    "null": b"null",
    "booleans": b"true",
    "strings": b'""',
    "strings with commas": b'",\\",,"',
    "integers": b"1",
    "floats": b"1.5",
}


def array(value: bytes, count: int) -> bytes:
    return b"[" + b",".join([value] * count) + b"]"


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_of_each_type_are_refused_before_any_is_built(value: bytes) -> None:
    data = array(value, 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=f"more than {MAX_VALUES} values"):
            decode_value(data, "the request")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)  # the values take 8 times
    finally:
        tracemalloc.stop()


def test_members_of_an_object_are_counted_too() -> None:
    members = b",".join(b'"%d":null' % number for number in range(MAX_VALUES + 1))
    with pytest.raises(RequestError, match="values"):
        decode_value(b"{" + members + b"}", "the request")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_as_many_values_as_the_limit_are_accepted(value: bytes) -> None:
    data = array(value, MAX_VALUES)
    assert decode_value(data, "the request") == json.loads(data)


def test_commas_in_strings_are_no_values() -> None:
    text = "," * (2 * MAX_VALUES)
    assert decode_value(json.dumps({text: [text, {text: text}]}).encode(), "the request")


def test_a_limit_that_is_reached_only_after_invalid_json_is_not_what_is_reported() -> None:
    data = b'["a" "b"' + b'"c"' * 100 + b",1" * (2 * MAX_VALUES)
    with pytest.raises(RequestError, match="not valid JSON"):
        decode_value(data, "the request")


@pytest.mark.parametrize("escape", [rb"\\", rb"\"", rb"\\\""])
def test_a_string_of_escapes_does_not_hide_the_values_after_it(escape: bytes) -> None:
    hidden = b'"' + escape * 1_000 + b'"'
    with pytest.raises(RequestError, match=f"more than {MAX_VALUES} values"):
        decode_value(b"[" + hidden + b",1" * MAX_VALUES + b"]", "the request")
    assert decode_value(b"[" + hidden + b",1" * (MAX_VALUES - 1) + b"]", "the request")
