"""Width of a text on a terminal, and its lines."""

from __future__ import annotations

import unicodedata


def cells(text: str) -> int:
    """Return the number of columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def wrapped(line: str, width: int | None, *, fold: bool = False) -> list[str]:
    """Return the lines of a text, broken between words.

    Args:
        fold: whether a word that is longer than a line is continued on the next line.
    """
    if width is None or cells(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    lines, current = [], indent
    for word in line.split():
        rest = word
        if current.strip() and cells(current) + 1 + cells(rest) > width:
            lines.append(current)
            current = indent
        while fold and cells(indent) + cells(rest) > width > len(indent):
            lines.append(indent + rest[: width - len(indent)])
            rest = rest[width - len(indent) :]
        if rest:
            current = f"{current} {rest}" if current.strip() else indent + rest
    return [*lines, current] if current.strip() or not lines else lines
