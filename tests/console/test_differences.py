"""An earlier text is compared with the one in force, line by line, in bounded time."""

from __future__ import annotations

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.views.differences import CONTEXT, MAX_LINES, difference


def signs(before: str, now: str) -> list[tuple[str, int, str]]:
    found = difference(v1.Revision(content=before), now)
    return [(line.sign, line.number, line.text) for line in found.lines]


def test_lines_that_differ_are_displayed_with_their_surroundings() -> None:
    lines = [f"line {number}" for number in range(1, 21)]
    changed = [*lines[:9], "other", *lines[10:]]
    found = signs("\n".join(lines), "\n".join(changed))
    assert found[0] == ("@", 9 - CONTEXT, "")
    assert ("-", 10, "line 10") in found
    assert ("+", 10, "other") in found
    assert found[-1] == ("@", 20 - 10 - CONTEXT, "")
    assert len(found) == 2 * CONTEXT + 4


def test_equal_texts_have_no_difference() -> None:
    assert signs("a\nb\n", "a\r\nb") == []
    assert signs('{"a": 1, "b": 2}', '{"b": 2,\n "a": 1}') == []


def test_values_of_reference_data_are_lines() -> None:
    found = signs('{"rtmr1": ["aa", "bb"]}', '{"rtmr1": ["aa", "cc"]}')
    assert [(sign, text.strip()) for sign, _, text in found if sign in "+-"] == [
        ("-", '"bb"'),
        ("+", '"cc"'),
    ]


def test_texts_that_are_too_long_are_not_compared() -> None:
    found = difference(v1.Revision(content="a\n" * (MAX_LINES + 1)), "b\n")
    assert found.too_long
    assert found.lines == ()
