"""A difference between values: one line below the other, with the first differing digit marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from verdictd_py.cli.output.layout import Block, Layout
from verdictd_py.cli.output.terminal import Style
from verdictd_py.cli.output.text import wrapped
from verdictd_py.cli.parsing import one_line

_INDENT: Final = "  "
_DIGITS: Final = re.compile(r"[0-9A-Fa-f]{8,}")
"""Values whose digits are compared: hex of at least 4 bytes. Words differ as a whole."""

_FURTHER: Final = re.compile(r"and [0-9]+ more")
"""End of a long list of values in a reason of the broker."""

_MIN_ROOM: Final = 8
_MULTIPLE: Final = 8
"""Digits of a part of a long value are a multiple of this."""


class Difference:
    """A value above the values that were expected in its place.

    A value that is longer than the line is written in parts, each above the parts of the others.

    Args:
        name: what has the value.
        labels: names of the value and of the expected values.
        value: empty if there is none.
        expected: alternatives; none for any value.
        more: a text below them, such as the number of further ones.
    """

    def __init__(
        self,
        name: str,
        labels: tuple[str, str],
        value: str,
        expected: Sequence[str],
        more: str = "",
    ) -> None:
        self.name = one_line(name)
        self._labels = labels
        self._value = one_line(value)
        self._expected = [one_line(text) for text in expected]
        self._more = one_line(more)

    def lines(self, layout: Layout) -> Iterable[str]:
        width, style = layout.width, layout.style
        yield style.bold(self.name)
        size = max(map(len, self._labels))
        prefix = len(_INDENT) * 2 + size
        room = None if width is None else max(width - prefix, _MIN_ROOM)
        values = [self._value, *self._expected]
        if all(_DIGITS.fullmatch(value) for value in values) and self._expected:
            yield from self._digits(room, size, style)
        else:
            for label, value in zip(self._names(), values, strict=True):
                yield from _labelled(label, size, wrapped(value, room, fold=True))
        if self._more:
            yield " " * prefix + self._more

    def _names(self) -> list[str]:
        return [self._labels[0], *[self._labels[1]] * len(self._expected)]

    def _digits(self, room: int | None, size: int, style: Style) -> Iterator[str]:
        values = [self._value, *self._expected]
        places = [_first_difference(self._value, other) for other in self._expected]
        for start, end in _parts(max(map(len, values)), room):
            value = _marked(
                self._value,
                start,
                end,
                min((place for place in places if place is not None), default=None),
                style,
            )
            yield from _labelled(self._labels[0], size, [value])
            for other, place in zip(self._expected, places, strict=True):
                shown = _marked(other, start, end, place, style)
                yield from _labelled(self._labels[1], size, [shown])
                if place is not None and start <= place < end:
                    yield _INDENT * 2 + " " * (size + place - start) + style.mark("^")


class Values:
    """Labelled values below a name; a value that is longer than the line has several lines."""

    def __init__(self, name: str, values: Sequence[tuple[str, str]]) -> None:
        self._name = one_line(name)
        self._values = [(one_line(label), one_line(value)) for label, value in values]

    def lines(self, layout: Layout) -> Iterable[str]:
        yield layout.style.bold(self._name)
        size = max((len(label) for label, _ in self._values), default=0)
        room = None
        if layout.width is not None:
            room = max(layout.width - len(_INDENT) * 2 - size, _MIN_ROOM)
        for label, value in self._values:
            yield from _labelled(label, size, wrapped(value, room, fold=True))


def _first_difference(one: str, other: str) -> int | None:
    """Return the place of the first digit that differs, or the end of the shorter value."""
    if one == other:
        return None
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return min(len(one), len(other))


def _marked(value: str, start: int, end: int, place: int | None, style: Style) -> str:
    part = value[start:end]
    if place is None or not start <= place < start + len(part):
        return part
    at = place - start
    return part[:at] + style.mark(part[at]) + part[at + 1 :]


def _parts(length: int, room: int | None) -> Iterator[tuple[int, int]]:
    """Yield the bounds of parts of equal length that fit."""
    size = length
    if room is not None and length > room:
        number = -(-length // room)
        size = -(-length // number)
        size = min(-(-size // _MULTIPLE) * _MULTIPLE, room)
    for start in range(0, length, max(size, 1)):
        yield start, start + size


def _labelled(label: str, size: int, lines: Sequence[str]) -> Iterator[str]:
    for line in lines or [""]:
        yield f"{_INDENT}{label:{size}}{_INDENT}{line}".rstrip()
        label = ""


def measured_and_expected(name: str, measured: str, expected: str) -> Block:
    """Return the difference of a failed rule, whose expected value is a text of the broker."""
    alternatives, more = expected.split(", "), ""
    if _FURTHER.fullmatch(alternatives[-1]):
        more = alternatives.pop()
    if not all(_DIGITS.fullmatch(value) for value in alternatives):
        alternatives, more = [expected], ""
    labels = ("measured", "expected")
    return Difference(name, labels, measured or "nothing", alternatives if expected else [], more)
