"""Comparison of an earlier text of a document with the one in force, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1

MAX_LINES: Final = 2000
"""Maximum number of lines that differ of texts that are compared; the time grows faster."""

CONTEXT: Final = 3
"""Equal lines that are displayed around a difference."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of a comparison.

    Attributes:
        sign: `-` for a line of the earlier text, `+` for one of the text in force, ` ` for both,
            `@` for equal lines that are omitted.
        number: number of the line in its text; of omitted lines, how many there are.
    """

    sign: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """An earlier text of a document next to the one in force.

    Attributes:
        revision: the earlier one.
        lines: the differences with some equal lines; empty if there are none.
        too_long: whether the texts are too long to be compared.
    """

    revision: v1.Revision
    lines: tuple[DiffLine, ...]
    too_long: bool = False

    @property
    def removed(self) -> int:
        return sum(line.sign == "-" for line in self.lines)

    @property
    def added(self) -> int:
        return sum(line.sign == "+" for line in self.lines)


def difference(revision: v1.Revision, current: str) -> Difference:
    """Compare an earlier text with the one in force."""
    before, now = _lines(revision.content), _lines(current)
    start = _equal(before, now)
    end = _equal(before[start:][::-1], now[start:][::-1])
    parts = before[start : len(before) - end], now[start : len(now) - end]
    if any(len(part) > MAX_LINES for part in parts):
        return Difference(revision, (), too_long=True)
    found = [*_same(now, 0, start), *_changed(*parts, start), *_same(now, len(now) - end, len(now))]
    return Difference(revision, tuple(_shortened(found)))


def _lines(text: str) -> list[str]:
    """Return the lines of a text; JSON has one member a line."""
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True)
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many lines at the beginning are equal."""
    number = 0
    while number < min(len(one), len(other)) and one[number] == other[number]:
        number += 1
    return number


def _changed(before: Sequence[str], now: Sequence[str], start: int) -> Iterator[DiffLine]:
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, before, now).get_opcodes():
        if kind == "equal":
            yield from _same(now, j1, j2, start)
            continue
        for number in range(i1, i2):
            yield DiffLine("-", start + number + 1, before[number])
        for number in range(j1, j2):
            yield DiffLine("+", start + number + 1, now[number])


def _same(lines: Sequence[str], begin: int, end: int, start: int = 0) -> Iterator[DiffLine]:
    for number in range(begin, end):
        yield DiffLine(" ", start + number + 1, lines[number])


def _shortened(lines: Sequence[DiffLine]) -> Iterator[DiffLine]:
    """Yield the lines that differ with some around them, and how many others there are."""
    differing = [at for at, line in enumerate(lines) if line.sign != " "]
    shown = {at + near for at in differing for near in range(-CONTEXT, CONTEXT + 1)}
    omitted = 0
    for at, line in enumerate(lines):
        if at in shown:
            if omitted:
                yield DiffLine("@", omitted, "")
            omitted = 0
            yield line
        else:
            omitted += 1
    if omitted and differing:
        yield DiffLine("@", omitted, "")
