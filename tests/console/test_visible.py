"""Characters that change how other text appears are displayed as escapes."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.console.frame import Frame
from verdictd_py.console.language import ENGLISH
from verdictd_py.console.rendering import environment, standalone
from verdictd_py.console.visible import visible

HIDDEN = {
    "bidirectional override": ("\u202e", "\\u202e"),
    "bidirectional isolate": ("\u2066", "\\u2066"),
    "right-to-left mark": ("\u200f", "\\u200f"),
    "zero-width space": ("\u200b", "\\u200b"),
    "zero-width joiner": ("\u200d", "\\u200d"),
    "soft hyphen": ("\xad", "\\xad"),
    "escape": ("\x1b[31m", "\\x1b[31m"),
    "NUL": ("\0", "\\x00"),
    "carriage return": ("\r", "\\r"),
    "line separator": ("\u2028", "\\u2028"),
    "no-break space": ("\xa0", "\\xa0"),
    "byte order mark": ("\ufeff", "\\ufeff"),
    "private use": ("\ue000", "\\ue000"),
    "unassigned": ("\U000e0fff", "\\U000e0fff"),
    "tag": ("\U000e0041", "\\U000e0041"),
    "variation selector": ("\ufe0f", "\\ufe0f"),
    "Hangul filler": ("\u3164", "\\u3164"),
    "lone surrogate": ("\ud800", "\\ud800"),
}


@pytest.mark.parametrize(("text", "shown"), HIDDEN.values(), ids=HIDDEN)
def test_an_invisible_character_is_displayed(text: str, shown: str) -> None:
    assert visible(f"a{text}b") == f"a{shown}b"


@pytest.mark.parametrize("text", ["plain", "客户机被拒绝。", "naïve “quotes” ✓", "tab\tline\n"])
def test_other_text_stays(text: str) -> None:
    assert visible(text) == text


@given(st.text())
def test_whatever_is_displayed_is_visible(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert all(c.isprintable() or c in "\n\t" for c in shown)


@given(st.text())
def test_a_template_escapes_every_value(text: str) -> None:
    page = environment().from_string('<p title="{{ x }}">{{ x }}</p>').render(x=text)
    inside = page.removeprefix("<p title=").removesuffix("</p>")
    assert inside.count("<") == 0
    assert inside.count(">") == 1
    assert inside.count('"') == 2


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(Exception, match="undefined"):
        environment().from_string("{{ missing }}").render()


def test_a_file_for_tickets_requests_nothing() -> None:
    values = {"title": "t", "text": "x", "status": "400", "frame": Frame("b"), "problem": ""}
    page = unescape(standalone("error.html", ENGLISH, {**values, "done": ""}))
    assert "<link" not in page
    assert "src=" not in page
    assert "url(http" not in page
    assert "default-src 'none'; style-src 'sha256-" in page
