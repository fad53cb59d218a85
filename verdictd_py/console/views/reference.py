"""The matrix of reference values: measurements, the sets that accept them, the guests seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.comparing import Comparison, nearest, short
from verdictd_py.console.views.guest import Expectations
from verdictd_py.console.views.guests import digests

MAX_VALUES: Final = 40
"""Values of a measurement that the matrix lists; those of guests and sets come first."""

IN_FORCE: Final = "in force"

_SOON_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Column:
    """A set of values.

    Attributes:
        name: name of the set, or of the reference data.
        state: `in force`, `expired`, `retired`; empty for the reference data.
        days: days until it expires; None for no end.
    """

    name: str
    state: str = ""
    days: int | None = None

    @property
    def soon(self) -> bool:
        return self.state == IN_FORCE and self.days is not None and self.days < _SOON_DAYS


@dataclass(frozen=True, slots=True)
class Row:
    """A value.

    Attributes:
        cells: for each column `yes`, `past` (a set that no longer decides) or empty.
        accepted, refused: guests that measured it.
        mistyped: the similar value, if one of both was mistyped.
    """

    value: str
    beginning: str
    cells: tuple[str, ...]
    accepted: int
    refused: int
    mistyped: Comparison | None


@dataclass(frozen=True, slots=True)
class Block:
    """A measurement with its values."""

    name: str
    meaning: str
    unpinned: bool
    rows: tuple[Row, ...]
    omitted: int


@dataclass(frozen=True, slots=True)
class SetRow:
    """A named set in the list of sets."""

    set: v1.ReferenceSet
    fields: tuple[str, ...]
    column: Column


@dataclass(frozen=True, slots=True)
class Matrix:
    """The page."""

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    sets: tuple[SetRow, ...]
    unpinned: tuple[str, ...]
    mistyped: tuple[tuple[str, Comparison], ...]


def matrix(
    reference: v1.Reference,
    sets: Sequence[v1.ReferenceSet],
    guests: Sequence[v1.Guest],
    measurements: Mapping[str, str],
    now: datetime,
) -> Matrix:
    """Return the matrix of one TEE.

    Args:
        guests: the guests of this TEE that the broker remembers.
        measurements: meaning of each measurement, by name.
    """
    expected = Expectations.of(reference, sets, measurements)
    columns = (Column(reference.name), *(_column(each, now) for each in sets))
    measured = [(guest, digests(guest)) for guest in guests]
    blocks = tuple(
        _block(name, meaning, expected, sets, measured) for name, meaning in measurements.items()
    )
    wrong = [(block.name, row.mistyped) for block in blocks for row in block.rows if row.mistyped]
    unique = {frozenset((each.measured, each.expected)): (name, each) for name, each in wrong}
    return Matrix(
        columns,
        blocks,
        tuple(
            SetRow(each, tuple(a.field for a in each.values), column)
            for each, column in zip(sets, columns[1:], strict=True)
        ),
        expected.unpinned,
        tuple(unique.values()),
    )


def _column(each: v1.ReferenceSet, now: datetime) -> Column:
    days = None
    if each.expires_at:
        days = (datetime.fromisoformat(each.expires_at) - now).days
    return Column(each.name, each.state, days)


def _block(
    name: str,
    meaning: str,
    expected: Expectations,
    sets: Sequence[v1.ReferenceSet],
    guests: Sequence[tuple[v1.Guest, Mapping[str, str]]],
) -> Block:
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for guest, measured in guests:
        value = measured.get(name)
        if value is not None:
            number = accepted if guest.verdict == v1.VERDICT_ACCEPTED else refused
            number[value] += max(1, guest.times)
    of_sets = [_values(each, name) for each in sets]
    own = expected.stored.get(name, ())
    seen = accepted + refused
    every = [*(value for value, _ in seen.most_common()), *own, *(v for vs in of_sets for v in vs)]
    values = list(dict.fromkeys(every))
    rows = []
    for value in values[:MAX_VALUES]:
        cells = [_cell(value in own, in_force=True)]
        cells += [
            _cell(value in vs, in_force=each.state == IN_FORCE)
            for each, vs in zip(sets, of_sets, strict=True)
        ]
        others = [other for other in values[:MAX_VALUES] if other != value]
        similar = nearest(value, others)
        rows.append(
            Row(
                value,
                short(value, others),
                tuple(cells),
                accepted[value],
                refused[value],
                similar if similar is not None and similar.mistyped else None,
            )
        )
    unpinned = name in expected.unpinned
    return Block(name, meaning, unpinned, tuple(rows), max(0, len(values) - MAX_VALUES))


def _values(each: v1.ReferenceSet, name: str) -> Sequence[str]:
    return next((accepted.values for accepted in each.values if accepted.field == name), ())


def _cell(is_in: bool, *, in_force: bool) -> str:
    if not is_in:
        return ""
    return "yes" if in_force else "past"
