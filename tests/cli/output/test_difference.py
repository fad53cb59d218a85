"""A difference is two lines, one below the other, with the first differing digit marked."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from verdictd_py.cli.output.difference import Difference, Values, measured_and_expected
from verdictd_py.cli.output.layout import Block, Layout
from verdictd_py.cli.output.terminal import Style

MEASURED = "ab" * 48
EXPECTED = "ab" * 40 + "ac" + "ab" * 7


def text(block: Block, width: int | None, *, colour: bool = False) -> list[str]:
    return list(block.lines(Layout(width, Style(colour))))


def test_a_value_that_fits_is_one_pair_of_lines() -> None:
    assert text(measured_and_expected("rtmr1", MEASURED, EXPECTED), None) == [
        "rtmr1",
        f"  measured  {MEASURED}",
        f"  expected  {EXPECTED}",
        " " * (12 + 81) + "^",
    ]


def test_a_long_value_is_written_in_parts_of_equal_length() -> None:
    assert text(measured_and_expected("rtmr1", MEASURED, EXPECTED), 80) == [
        "rtmr1",
        f"  measured  {MEASURED[:48]}",
        f"  expected  {EXPECTED[:48]}",
        f"  measured  {MEASURED[48:]}",
        f"  expected  {EXPECTED[48:]}",
        " " * (12 + 33) + "^",
    ]


def test_the_digit_is_also_coloured_on_a_terminal() -> None:
    lines = text(Difference("x", ("a", "b"), "0" * 8, ["0" * 7 + "1"]), 80, colour=True)
    assert lines[1] == "  a  0000000\x1b[1;31m0\x1b[0m"
    assert lines[2] == "  b  0000000\x1b[1;31m1\x1b[0m"
    assert lines[3] == " " * 12 + "\x1b[1;31m^\x1b[0m"


def test_each_of_several_expected_values_is_marked() -> None:
    lines = text(measured_and_expected("x", "0" * 8, "1" + "0" * 7 + ", 00100000"), 80)
    assert lines[1:] == [
        "  measured  00000000",
        "  expected  10000000",
        "            ^",
        "  expected  00100000",
        "              ^",
    ]


def test_the_number_of_further_expected_values_is_below_them() -> None:
    block = measured_and_expected("x", "0" * 8, "1" + "0" * 7 + ", and 968 more")
    assert text(block, 80)[1:] == [
        "  measured  00000000",
        "  expected  10000000",
        "            ^",
        "            and 968 more",
    ]


def test_several_values_of_two_sets_are_labelled_and_whole() -> None:
    values = [("spring", MEASURED), ("summer", EXPECTED), ("summer", "-")]
    lines = text(Values("rtmr1", values), 60)
    assert lines[0] == "rtmr1"
    assert max(map(len, lines)) <= 60
    assert "".join(line[10:] for line in lines[1:]) == f"{MEASURED}{EXPECTED}-"
    assert lines[1].startswith("  spring  ab")


def test_a_shorter_value_differs_where_it_ends() -> None:
    lines = text(measured_and_expected("x", "0" * 9, "0" * 8), 80)
    assert lines[-1] == " " * (12 + 8) + "^"


@pytest.mark.parametrize(
    ("measured", "expected", "lines"),
    [
        ("OutOfDate", "UpToDate", ["  measured  OutOfDate", "  expected  UpToDate"]),
        ("", "false", ["  measured  nothing", "  expected  false"]),
        ("3", "at least 4", ["  measured  3", "  expected  at least 4"]),
        ("\x1b\nx", "x", ["  measured  \\x1b\\nx", "  expected  x"]),
        ("abababab", "", ["  measured  abababab"]),
    ],
)
def test_words_are_not_marked(measured: str, expected: str, lines: list[str]) -> None:
    assert text(measured_and_expected("x", measured, expected), 80)[1:] == lines


DIGITS = st.text("0123456789abcdef", min_size=8, max_size=128)


@example("0" * 9, "0" * 9, 20)
@given(DIGITS, DIGITS, st.one_of(st.none(), st.integers(20, 200)))
def test_at_any_width_the_values_are_whole_and_the_mark_is_right(
    one: str, other: str, width: int | None
) -> None:
    lines = text(Difference("x", ("a", "b"), one, [other]), width)[1:]
    values = {
        label: "".join(line[5:] for line in lines if line.startswith(f"  {label}"))
        for label in "ab"
    }
    assert values == {"a": one, "b": other}
    assert width is None or max(map(len, lines)) <= width
    marks = [(n, line.index("^")) for n, line in enumerate(lines) if "^" in line]
    if one == other:
        assert not marks
        return
    ((row, column),) = marks
    upper, lower = lines[row - 2].ljust(column + 1), lines[row - 1].ljust(column + 1)
    assert upper[5:column] == lower[5:column]
    assert upper[column] != lower[column]
