"""Layout of tables and facts: whole identifiers, nothing lost, lines that fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.cli.output.layout import Column, Facts, Group, Kind, Layout, Table, Text
from verdictd_py.cli.output.terminal import Style
from verdictd_py.cli.output.text import cells

UUID = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
KEYS = Table(
    (
        "key",
        Column("changed", optional=True),
        Column("bytes", Kind.NUMBER),
        Column("problem", Kind.SENTENCE),
    ),
    [
        (UUID, "2026-11-27T22:49:58Z", 32, ""),
        ("short", "2026-11-27T22:49:58Z", 1, "a key has 32 bytes; delete it and create another"),
    ],
)


def text(block: Table | Facts | Group | Text, width: int | None) -> list[str]:
    return list(block.lines(Layout(width)))


def test_without_a_width_each_row_is_one_line() -> None:
    lines = text(KEYS, None)
    assert len(lines) == 3
    assert lines[2].split("  ")[-1] == "a key has 32 bytes; delete it and create another"
    assert lines[1].index("32") + 1 == lines[2].index(" 1 ") + 1  # aligned to the right


def test_optional_columns_are_left_out_before_anything_is_wrapped() -> None:
    assert text(KEYS, 110) != text(KEYS, None)
    assert "changed" not in text(KEYS, 110)[0]
    assert len(text(KEYS, 110)) == 3


def test_sentences_are_wrapped_between_words_below_their_column() -> None:
    lines = text(KEYS, 80)
    assert max(map(len, lines)) <= 80
    at = lines[0].index("problem")
    assert [line[at:] for line in lines[2:]] == [
        "a key has 32 bytes; delete it and",
        "create another",
    ]
    assert lines[3][:at].strip() == ""


def test_a_row_that_does_not_fit_is_a_record_with_a_whole_identifier() -> None:
    lines = text(KEYS, 40)
    assert lines[0] == UUID
    assert lines[1] == "  bytes    32"
    assert lines[2] == "short"
    assert lines[4] == "  problem  a key has 32 bytes; delete it"
    assert lines[5] == "           and create another"


def test_values_are_continued_on_the_next_line_and_identifiers_are_not() -> None:
    digest = "ab" * 48
    table = Table(("id", Column("value", Kind.VALUE)), [(digest, digest)])
    lines = text(table, 60)
    assert lines[0] == digest
    assert lines[1].startswith("  value  ab")
    assert "".join(line.split()[-1] for line in lines[1:]) == digest
    assert max(map(len, lines[1:])) <= 60


def test_only_wide_output_has_all_columns() -> None:
    table = Table(("a", Column("b", wide=True)), [(1, 2)])
    assert text(table, None) == ["a", "1"]
    assert list(table.lines(Layout(wide=True))) == ["a  b", "1  2"]


def test_wide_characters_count_twice() -> None:
    assert cells("abc") == 3
    assert cells("密钥") == 4
    assert cells("e\u0301") == 1
    assert text(Table(("n", "m"), [("密钥", "x")]), None) == ["n     m", "密钥  x"]


def test_facts_and_sentences_are_wrapped_with_their_indent() -> None:
    facts = Facts((("name", "one two three four"), ("id", UUID)))
    assert text(facts, 20) == ["name  one two three", "      four", f"id    {UUID}"]
    assert text(Text("  reason: one two three"), 14) == ["  reason: one", "  two three"]
    assert text(Text("a\n\nb\x1b"), 14) == ["a", "", "b\\x1b"]
    assert text(Group("a", facts), None)[0] == "a"


def test_only_a_measurement_is_broken_in_a_sentence() -> None:
    address = "https://broker.example/console/" + "x" * 60
    assert text(Text(f"open {address}"), 40) == ["open", address]
    lines = text(Text(f"measured {'ab' * 48}, expected"), 40)
    assert max(map(len, lines)) <= 40
    assert "ab" * 48 in "".join(lines)


def test_a_text_of_a_guest_cannot_imitate_other_lines() -> None:
    hostile = "a\nverdict  accepted\x1b[2J"
    for block in (Facts((("x", hostile),)), Group(hostile), Table(("a",), [(hostile,)])):
        assert [line for line in text(block, None) if line.startswith("verdict")] == []
        assert "\\nverdict" in "\n".join(text(block, None))
    assert text(Table(("a",), [(["x", "y\nz"],)]), None) == ["a", "x", "y\\nz"]


def test_headings_are_bold_on_a_terminal_only() -> None:
    (heading, _) = Table(("a",), [(1,)]).lines(Layout(80, Style(colour=True)))
    assert heading == "\x1b[1ma\x1b[0m"


WORDS = st.lists(st.text("abc", min_size=1, max_size=12), max_size=8).map(" ".join)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=4), st.integers(20, 90))
def test_no_word_is_lost_and_lines_fit(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Table((Column("x", Kind.VALUE), Column("y", Kind.VALUE), Column("z", Kind.VALUE)), rows)
    lines = text(table, width)
    shown = " ".join(lines).split()
    for row in rows:
        for cell in row[1:]:
            assert all(word in shown for word in cell.split())
    first = {row[0] for row in rows}
    assert all(cells(line) <= width or line in first for line in lines)
