"""Statements of a TOML document with their lines, and every statement that is wrong.

`tomllib` reports no lines of values, and stops at the first error. A configuration is checked as a
whole instead: it is divided into statements (`key = value`, `[table]`), each of which is parsed.

A statement begins in a line that looks like one. A value of several lines may contain such lines,
so that a statement that cannot be parsed is tried again together with the ones after it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_BEGINNING: Final = re.compile(r"\s*(?:[A-Za-z0-9_\"'][A-Za-z0-9_.\"' -]*=|\[)")
_POSITION: Final = re.compile(r" ?\(at (?:line (\d+), column \d+|end of document)\)")
_BYTE_ORDER_MARK: Final = "\ufeff"
"""What some editors of Windows write first; it cannot be seen."""
_NO_VALUE: Final = "Expected '='"
_MAX_JOINED: Final = 50
"""Maximum number of further lines that look like statements in one value."""


@dataclass(frozen=True, slots=True)
class SyntaxFault:
    """A statement that is not TOML, or contradicts an earlier one.

    Attributes:
        line: number of the line, from 1.
        cause: cause and remedy.
        key: first word of the statement, which may be the name of a setting.
    """

    line: int
    cause: str
    key: str = ""


@dataclass(slots=True)
class Document:
    """What can be read of a TOML document.

    Attributes:
        table: the values of all statements that are correct.
        lines: by path of a key (`("tee", "acme", "url")`): the line of its statement.
        faults: the statements that are not correct.
    """

    table: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    faults: list[SyntaxFault] = field(default_factory=list)

    def line_of(self, *path: object) -> int | None:
        """Return the line of a value, or else that of the closest table around it."""
        keys = tuple(str(key) for key in path)
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.lines:
                return self.lines[keys[:length]]
        return None


@dataclass(frozen=True, slots=True)
class _Statement:
    line: int
    text: str | None
    """None for a heading of a table that cannot be parsed."""


def read(text: str) -> Document:
    """Read a document; one that is not TOML as far as its statements are."""
    document = Document()
    correct: list[str] = []
    header: str | None = ""
    statements = [*_statements(text.split("\n"), document.faults)]
    consistent = _fault("\n".join(one.text or "" for one in statements)) is None
    for statement in statements:
        content = statement.text
        is_header = content is None or content.lstrip().startswith("[")
        if content is None or (header is None and not is_header):
            header = None  # the table of what follows is unknown
            continue
        try:
            if not consistent:  # otherwise once, below
                document.table = tomllib.loads("\n".join((*correct, content)))
        except tomllib.TOMLDecodeError as error:
            fault = SyntaxFault(statement.line, _contradiction(error), _word(content))
            document.faults.append(fault)
            header = None if is_header else header
            continue
        correct.append(content)
        header = content if is_header else header
        for path in _paths(tomllib.loads(content if is_header else f"{header}\n{content}")):
            document.lines.setdefault(path, statement.line)
    if consistent:
        document.table = tomllib.loads("\n".join(correct))
    document.faults.sort(key=lambda fault: fault.line)
    return document


def _statements(lines: Sequence[str], faults: list[SyntaxFault]) -> Iterator[_Statement]:
    """Yield the statements that can be parsed, and add a fault for each that cannot."""
    starts = [n for n, line in enumerate(lines) if n == 0 or _BEGINNING.match(line)]
    ends = [*starts[1:], len(lines)]
    index = 0
    while index < len(starts):
        start = starts[index]
        for last in range(index, min(index + _MAX_JOINED, len(starts))):
            part = "\n".join(lines[start : ends[last]])
            if _fault(part) is None:
                yield _Statement(start + 1, part)
                index = last + 1
                break
        else:
            yield from _partly(lines, start, ends[index], faults)
            index += 1


def _partly(
    lines: Sequence[str], start: int, end: int, faults: list[SyntaxFault]
) -> Iterator[_Statement]:
    """Yield the correct beginning of lines that cannot be parsed, if there is one."""
    own = lines[start:end]
    line, cause = _fault("\n".join(own)) or (1, "")
    correct = (n for n in range(len(own) - 1, 0, -1) if _fault("\n".join(own[:n])) is None)
    whole = next(correct, 0)
    if whole:  # wrong lines follow a correct statement
        yield _Statement(start + 1, "\n".join(own[:whole]))
        line = whole + 1
        cause = (_fault(own[whole]) or (1, cause))[1]
    else:
        line = 1
    wrong = own[line - 1]
    faults.append(SyntaxFault(start + line, f"{cause}; correct this statement", _word(wrong)))
    if wrong.lstrip().startswith("["):
        yield _Statement(start + line, None)
    elif _NO_VALUE in cause and _fault("\n".join(lines[start + line : end])) is not None:
        yield from _partly(lines, start + line, end, faults)  # the next line does not continue it


def _word(statement: str) -> str:
    """Return the first word of a statement."""
    found = re.search(r"[A-Za-z0-9_-]+", statement)
    return found[0] if found else ""


def _fault(part: str) -> tuple[int, str] | None:
    """Return the line and the cause of the first error of a part; None if there is none."""
    try:
        tomllib.loads(part)
    except tomllib.TOMLDecodeError as error:
        position = _POSITION.search(str(error))
        line = int(position[1]) if position and position[1] else part.count("\n") + 1
        if part.startswith(_BYTE_ORDER_MARK):
            return line, "a byte order mark precedes it: save the file as UTF-8 without one"
        return line, f"it is not valid TOML ({_POSITION.sub('', str(error))})"
    return None


def _contradiction(error: tomllib.TOMLDecodeError) -> str:
    cause = _POSITION.sub("", str(error))
    if cause == "Cannot overwrite a value":
        return "it is set a second time; remove one of the two"
    return f"it contradicts an earlier line ({cause}); remove one of the two"


def _paths(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*above, key)
        below = value[-1] if isinstance(value, list) and value else value
        if isinstance(below, dict):
            yield from _paths(below, (*above, key))
