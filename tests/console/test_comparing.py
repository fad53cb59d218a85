"""Digests digit by digit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.console.comparing import Comparison, groups, nearest, short

DIGITS = st.text("0123456789abcdef", min_size=1, max_size=96)


def test_the_first_difference_is_marked() -> None:
    measured = "ab" * 48
    expected = measured[:40] + "0" + measured[41:]
    compared = Comparison.of(measured, expected)
    assert (compared.position, compared.differing, compared.mistyped) == (41, 1, True)
    (marked,) = [group for group in compared.measured_groups if group.marked]
    assert (marked.before, marked.marked, marked.after) == ("", "a", "bababab")
    assert compared.measured_groups.index(marked) == 5


def test_another_measurement_was_not_mistyped() -> None:
    assert not Comparison.of("0" * 96, "f" * 96).mistyped


def test_the_most_similar_value_is_chosen() -> None:
    found = nearest("aaaa", ["bbbb", "aaab", "abbb"])
    assert found is not None
    assert found.expected == "aaab"
    assert nearest("aaaa", []) is None


@given(DIGITS, DIGITS)
def test_groups_have_every_digit_once(measured: str, expected: str) -> None:
    compared = Comparison.of(measured, expected)
    for text, parts in (
        (measured, compared.measured_groups),
        (expected, compared.expected_groups),
    ):
        assert "".join(g.before + g.marked + g.after for g in parts) == text
        assert sum(bool(g.marked) for g in parts) <= 1


@given(DIGITS, DIGITS)
def test_positions_are_those_of_the_first_difference(measured: str, expected: str) -> None:
    position = Comparison.of(measured, expected).position
    assert (position == 0) == (measured == expected)
    if position:
        assert measured[: position - 1] == expected[: position - 1]
        assert measured[position - 1 : position] != expected[position - 1 : position]


def test_a_short_digest_is_unambiguous() -> None:
    one = "b82a5e1e" * 5 + "736a20ff" + "00" * 24
    other = "b82a5e1e" * 5 + "036a20ff" + "00" * 24
    assert short(one) == "b82a5e1e…"
    assert short(one, [other]) == "b82a5e1e…736a20ff…"
    assert next(iter(groups("ab"))).before == "ab"
