"""`docs/reference/` has every command and every option that `--help` of either program lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from verdictd_py.cli import commandlines, programs

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGES = {
    "verdictd-py": "configuration.md",
    "verdict-py": "verdict-py.md",
}
PARSERS = dict(programs.parsers())


def page_of(words: str) -> str:
    """Return the text about a command: its section of the page, or the page without sections."""
    if not words.startswith("verdictd-py "):
        return (REFERENCE / PAGES[words.partition(" ")[0]]).read_text()
    text = (REFERENCE / "verdictd-py.md").read_text()
    begin = text.index(f"# {words}\n")
    return text[begin : text.find("\n#", begin)] if "\n#" in text[begin:] else text[begin:]


@pytest.mark.parametrize("words", PARSERS)
def test_every_option_of_help_is_in_the_reference(words: str) -> None:
    page = page_of(words)
    if "The options of `" in page:  # those of the command above are listed there
        page += page_of(words.rpartition(" ")[0])
    listed = commandlines.own_options(PARSERS[words])
    names = [name for action in listed for name in action.option_strings]
    assert [name for name in names if not re.search(rf"[`[]{name}(?![\w-])", page)] == []


def test_every_command_is_in_the_reference() -> None:
    assert len(PARSERS) > 40
    for words in PARSERS:
        program, _, command = words.partition(" ")
        assert program in PAGES
        if command and program == "verdictd-py":
            assert f"# {words}\n" in page_of(words)
