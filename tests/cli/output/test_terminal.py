"""Width and colours by the usual environment variables."""

from __future__ import annotations

import io

import pytest

from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.terminal import Style


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("environment", "on_terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),  # https://no-color.org: when not an empty string
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR": "1"}, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"CLICOLOR_FORCE": "0"}, False, False),
        ({"CLICOLOR_FORCE": "1", "CLICOLOR": "0"}, False, True),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    on_terminal: bool,
    coloured: bool,
) -> None:
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.style(Stream(terminal=on_terminal)) == Style(coloured)


@pytest.mark.parametrize(
    ("columns", "on_terminal", "width"),
    [
        ("", False, None),
        ("80", False, 80),
        ("120", True, 120),
        ("0", False, None),
        ("1", False, terminal.MIN_COLUMNS),
        ("x", False, None),
        ("", True, 80),  # a terminal that does not report its size
    ],
)
def test_width(
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    on_terminal: bool,
    width: int | None,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.columns(Stream(terminal=on_terminal)) == width
