"""Output of commands in each form: unchanged for programs, printable on a terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest

from verdictd_py.cli.management import storedviews
from verdictd_py.cli.output import errors
from verdictd_py.cli.output.layout import Column, Table
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.errors import ConfigError

CONTENT = b"package policy # \x1b[2J\xff\n"
LIST = CommandOutput(
    "key-list",
    [{"name": "a", "size": 32}, {"name": "b", "size": 1}],
    Table(("key", Column("bytes", wide=True)), [("a", 32), ("b", 1)]),
    names=("a", "b"),
)


class Terminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True


def test_content_is_written_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for form in (Form.TABLE, Form.WIDE, Form.NAMES):
        storedviews.content("x", CONTENT).print(form)
        assert capfdbinary.readouterr().out == CONTENT


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_control_characters_are_escaped_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    storedviews.content("x", b"package\tpolicy # \x1b[2J" + end).print(Form.TABLE)
    terminal.seek(0)
    assert terminal.read() == "package policy # \\x1b[2J\n"


@pytest.mark.parametrize("content", [b"a\0b", b"\xff"])
def test_binary_content_is_not_written_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(ConfigError, match="> FILE"):
        storedviews.content("x", content).print(Form.TABLE)
    terminal.seek(0)
    assert terminal.read() == ""


def test_each_form_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"schema": "verdictd.v1/key-list", "items": LIST.data}
    forms = {
        Form.TABLE: "key\na\nb\n",
        Form.WIDE: "key  bytes\na    32\nb    1\n",
        Form.JSON: json.dumps(document, indent=2) + "\n",
        Form.YAML: (
            "schema: verdictd.v1/key-list\nitems:\n"
            "  - name: a\n    size: 32\n  - name: b\n    size: 1\n"
        ),
        Form.NAMES: "a\nb\n",
    }
    for form, expected in forms.items():
        LIST.print(form)
        assert capsys.readouterr().out == expected, form


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (("status", "--json"), Form.JSON),
        (("-o", "json", "nonsense"), Form.JSON),
        (("-oyaml",), Form.YAML),
        (("--output=yaml",), Form.YAML),
        (("--output", "json"), Form.JSON),
        (("-o",), Form.TABLE),
        (("-o", "xml"), Form.TABLE),
        (("key", "create", "--", "--json"), Form.TABLE),
        (("-q", "--outputs=json"), Form.TABLE),
    ],
    ids=" ".join,
)
def test_the_form_is_known_although_the_command_line_is_wrong(
    words: tuple[str, ...], form: Form
) -> None:
    assert errors.requested_form(words) is form


def test_an_error_is_a_document_only_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(Form.TABLE, 1, "not-found", "no\nkey")
    assert capsys.readouterr().out == ""
    errors.report(Form.JSON, 1, "not-found", "no\nkey")
    assert json.loads(capsys.readouterr().out) == {
        "schema": "verdictd.v1/error",
        "status": 1,
        "code": "not-found",
        "message": "no key",
    }
