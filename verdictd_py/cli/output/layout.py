"""Blocks of text, laid out for a width: tables, facts, sentences.

Identifiers are never broken: a user copies them. A table that does not fit leaves out its optional
columns, the last one first, then wraps the columns with sentences, then writes each row as a record
of several lines. Without a width, each row is one line, for grep and awk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from verdictd_py.cli.output.terminal import Style
from verdictd_py.cli.output.text import cells, wrapped
from verdictd_py.cli.parsing import one_line, printable

_GAP: Final = "  "
_MIN_SENTENCE: Final = 16
"""Columns that a wrapped cell has at least; with fewer, the table is written as records."""

_MIN_VALUE: Final = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Properties of the output.

    Attributes:
        width: number of columns; None for lines of any length.
        wide: whether tables have all columns.
    """

    width: int | None = None
    style: Style = field(default_factory=Style)
    wide: bool = False


_MEASUREMENT: Final = re.compile(r"[0-9a-f]{65,}")


class Block(Protocol):
    """A part of a text."""

    def lines(self, layout: Layout) -> Iterable[str]:
        """Return its lines."""
        ...


class Kind(Enum):
    """How the cells of a column are laid out."""

    IDENTIFIER = auto()
    """Never broken."""
    SENTENCE = auto()
    """Wrapped between words."""
    VALUE = auto()
    """Wrapped between words; in a record, a word that is too long is continued on the next line."""
    NUMBER = auto()
    """Aligned to the right, never broken."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        optional: whether the column is left out of a table that is too wide.
        wide: whether only `-o wide` has it.
    """

    name: str
    kind: Kind = Kind.IDENTIFIER
    optional: bool = False
    wide: bool = False


class Text:
    """Sentences, wrapped between words; a line feed begins a new line.

    A measurement that is longer than the line is continued on the next one; any other word is
    written whole, because it may be an address or a path to copy.

    Control characters are escaped: the text may come from a guest.
    """

    def __init__(self, text: object) -> None:
        self._text = printable(str(text))

    def lines(self, layout: Layout) -> Iterable[str]:
        for line in self._text.split("\n"):
            yield from wrapped(line, layout.width, fold=bool(_MEASUREMENT.search(line)))


class Facts:
    """Names with their values, one below the other."""

    def __init__(self, facts: Iterable[tuple[str, object]]) -> None:
        self._facts = [(name, one_line(str(value))) for name, value in facts]

    def lines(self, layout: Layout) -> Iterable[str]:
        width, style = layout.width, layout.style
        names = max((cells(name) for name, _ in self._facts), default=0)
        room = None if width is None else max(width - names - len(_GAP), _MIN_VALUE)
        for name, value in self._facts:
            label = style.bold(name) + " " * (names - cells(name))
            for line in wrapped(value, room):
                yield (label + _GAP + line).rstrip()
                label = " " * names


class Group:
    """Blocks below each other; a text is one line, whatever it contains."""

    def __init__(self, *blocks: Block | str) -> None:
        self._blocks = [Text(one_line(b)) if isinstance(b, str) else b for b in blocks]

    def lines(self, layout: Layout) -> Iterable[str]:
        for block in self._blocks:
            yield from block.lines(layout)


class Table:
    """Rows of cells below a heading.

    Args:
        columns: names stand for columns with identifiers.
        rows: a cell that is a list has several lines.
    """

    def __init__(self, columns: Sequence[Column | str], rows: Iterable[Sequence[object]]) -> None:
        self._columns = [Column(c) if isinstance(c, str) else c for c in columns]
        self._rows = [[_cell_text(cell) for cell in row] for row in rows]

    def lines(self, layout: Layout) -> Iterable[str]:
        width, style = layout.width, layout.style
        chosen = [n for n, column in enumerate(self._columns) if layout.wide or not column.wide]
        sizes = [self._size(index) for index in chosen]
        optional = [n for n in chosen if self._columns[n].optional]
        while width is not None and _total(sizes) > width and optional:
            chosen.remove(optional.pop())
            sizes = [self._size(index) for index in chosen]
        if width is not None and _total(sizes) > width:
            fitted = self._fitted(chosen, sizes, width)
            if fitted is None:
                return self._records(chosen, width, style)
            sizes = fitted
        return self._grid(chosen, sizes, style)

    def row(self, index: int) -> Table:
        """Return a table with only one row."""
        cells_of_row = [cell.split("\n") for cell in self._rows[index]]
        return Table(self._columns, [cells_of_row])

    def _size(self, index: int) -> int:
        texts = (line for row in self._rows for line in row[index].split("\n"))
        return max(cells(self._columns[index].name), *map(cells, texts), 0)

    def _fitted(self, chosen: list[int], sizes: list[int], width: int) -> list[int] | None:
        """Return sizes for which the row fits, or None if there are none."""
        flexible = [n for n, index in enumerate(chosen) if self._is_flexible(index)]
        room = width - _total(sizes) + sum(sizes[n] for n in flexible)
        least = {n: self._least(chosen[n], sizes[n]) for n in flexible}
        if not flexible or room < sum(least.values()):
            return None
        fitted = list(sizes)
        for n in flexible:
            fitted[n] = least[n]
        spare = room - sum(least.values())
        while spare > 0:
            growing = [n for n in flexible if fitted[n] < sizes[n]]
            if not growing:
                break
            smallest = min(growing, key=lambda n: fitted[n])
            fitted[smallest] += 1
            spare -= 1
        return fitted

    def _is_flexible(self, index: int) -> bool:
        return self._columns[index].kind in (Kind.SENTENCE, Kind.VALUE)

    def _least(self, index: int, size: int) -> int:
        words = (word for row in self._rows for word in row[index].split())
        longest = max(map(cells, words), default=0)
        return min(size, max(longest, _MIN_SENTENCE, cells(self._columns[index].name)))

    def _grid(self, chosen: list[int], sizes: list[int], style: Style) -> Iterator[str]:
        names = [
            self._padded(n, self._columns[n].name, s) for n, s in zip(chosen, sizes, strict=True)
        ]
        yield _GAP.join(map(style.bold, (*names[:-1], names[-1].rstrip())))
        for row in self._rows:
            parts = [self._cell(n, row[n], size) for n, size in zip(chosen, sizes, strict=True)]
            for number in range(max(map(len, parts))):
                texts = (
                    self._padded(index, part[number] if number < len(part) else "", size)
                    for index, part, size in zip(chosen, parts, sizes, strict=True)
                )
                yield _GAP.join(texts).rstrip()

    def _cell(self, index: int, text: str, size: int) -> list[str]:
        if not self._is_flexible(index):
            return text.split("\n")
        fold = self._columns[index].kind is Kind.VALUE
        return [line for part in text.split("\n") for line in wrapped(part, size, fold=fold)]

    def _padded(self, index: int, text: str, size: int) -> str:
        space = " " * (size - cells(text))
        return space + text if self._columns[index].kind is Kind.NUMBER else text + space

    def _records(self, chosen: list[int], width: int, style: Style) -> Iterator[str]:
        first, *others = chosen
        names = max((cells(self._columns[n].name) for n in others), default=0)
        room = max(width - names - 2 * len(_GAP), _MIN_VALUE)
        for row in self._rows:
            head = self._columns[first]
            numbered = head.kind is Kind.NUMBER
            yield style.bold(f"{head.name} {row[first]}" if numbered else row[first])
            for index in others:
                label = self._columns[index].name
                for line in self._cell(index, row[index], room):
                    if line:
                        yield f"{_GAP}{label:{names}}{_GAP}{line}"
                        label = ""


def _cell_text(cell: object) -> str:
    """Return the text of a cell; only line feeds between the items of a list remain."""
    if isinstance(cell, list):
        return "\n".join(one_line(str(item)) for item in cell)
    return one_line(str(cell))


def _total(sizes: Sequence[int]) -> int:
    return sum(sizes) + len(_GAP) * (len(sizes) - 1)
