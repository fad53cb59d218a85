"""Width and colours of the terminal, by the usual environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, TextIO

MIN_COLUMNS: Final = 20
"""The smallest width for which text is laid out."""

_BOLD: Final = "1"
_MARK: Final = "1;31"


@dataclass(frozen=True, slots=True)
class Style:
    """Escape sequences of a terminal, or none.

    Attributes:
        colour: whether escape sequences are written.
    """

    colour: bool = False

    def bold(self, text: str) -> str:
        """Return a heading or a name."""
        return self._with(_BOLD, text)

    def mark(self, text: str) -> str:
        """Return a part that differs."""
        return self._with(_MARK, text)

    def _with(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text


def columns(stream: TextIO) -> int | None:
    """Return the number of columns of a line; None if lines have any length.

    `COLUMNS` counts before the size of the terminal, as in Python and curses; it also sets the
    width of output that is not a terminal.
    """
    named = os.environ.get("COLUMNS", "")
    if named.isascii() and named.isdigit() and int(named[:6]) > 0:
        return max(int(named[:6]), MIN_COLUMNS)
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # ValueError: a stream without a descriptor
        found = 0
    return max(found, MIN_COLUMNS) if found else 80


def style(stream: TextIO) -> Style:
    """Return the style for a stream, by NO_COLOR, CLICOLOR_FORCE, CLICOLOR and TERM.

    Sources: https://no-color.org, https://bixense.com/clicolors
    """
    environment = os.environ
    if environment.get("NO_COLOR"):
        return Style()
    if environment.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return Style(colour=True)
    wanted = environment.get("CLICOLOR") != "0" and environment.get("TERM") != "dumb"
    return Style(colour=wanted and stream.isatty())
