"""Output of answers: unchanged for programs, without control characters on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from verdictd_py.cli.management import show


class Terminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True


CONTENT = b"package policy # \x1b[2J\xff\n"


def test_content_is_written_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    show.content("x", CONTENT).print(as_json=False)
    assert capfdbinary.readouterr().out == CONTENT


def test_control_characters_are_escaped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show.content("x", CONTENT).print(as_json=False)
    terminal.seek(0)
    assert terminal.read() == "package policy # \\x1b[2J\ufffd\n"
