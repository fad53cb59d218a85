"""Comparison of two digests digit by digit, for display one above the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

GROUP: Final = 8
"""Number of digits of a group."""

FEW_DIGITS: Final = 8
"""Two different measurements differ in nearly all digits. If at most this many differ, one of the
values was mistyped."""


@dataclass(frozen=True, slots=True)
class Group:
    """Digits of a digest around the first difference, which is in at most one group.

    Attributes:
        before, after: the digits around it; all digits are in `before` if there is none.
        marked: the digit that differs; empty if none is in this group.
    """

    before: str
    marked: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured value next to the accepted value that is most similar to it.

    Attributes:
        position: number of the first digit that differs, from 1 on; 0 if none does.
        differing: number of digits that differ, missing ones included.
        digits: number of digits of the longer value.
    """

    measured: str
    expected: str
    position: int
    differing: int

    @classmethod
    def of(cls, measured: str, expected: str) -> Self:
        """Compare two values."""
        longer = max(len(measured), len(expected))
        pairs = zip(measured.ljust(longer), expected.ljust(longer), strict=True)
        different = [number for number, (one, other) in enumerate(pairs, 1) if one != other]
        return cls(measured, expected, different[0] if different else 0, len(different))

    @property
    def digits(self) -> int:
        return max(len(self.measured), len(self.expected))

    @property
    def mistyped(self) -> bool:
        """Whether so few digits differ that one of the values was mistyped."""
        return 0 < self.differing <= FEW_DIGITS

    @property
    def shorts(self) -> tuple[str, str]:
        """Both values, each short and not that of the other."""
        return short(self.measured, [self.expected]), short(self.expected, [self.measured])

    @property
    def measured_groups(self) -> tuple[Group, ...]:
        return tuple(groups(self.measured, self.position))

    @property
    def expected_groups(self) -> tuple[Group, ...]:
        return tuple(groups(self.expected, self.position))


def nearest(measured: str, accepted: Iterable[str]) -> Comparison | None:
    """Return the comparison with the most similar accepted value; None if there is none."""
    comparisons = (Comparison.of(measured, value) for value in accepted)
    return min(comparisons, key=lambda comparison: comparison.differing, default=None)


def groups(digits: str, position: int = 0) -> Iterator[Group]:
    """Return the groups of a digest, with the digit at `position` (from 1 on) marked."""
    for start in range(0, len(digits), GROUP):
        group, index = digits[start : start + GROUP], position - 1 - start
        if 0 <= index < len(group):
            yield Group(group[:index], group[index], group[index + 1 :])
        else:
            yield Group(group)


def is_digest(text: str) -> bool:
    """Return whether a text is displayed in groups: hexadecimal digits, at least two groups."""
    return len(text) >= 2 * GROUP and set(text) <= set("0123456789abcdef")


def short(digits: str, others: Iterable[str] = ()) -> str:
    """Return the beginning of a digest, and its first differing group if another begins likewise.

    Args:
        others: the values from which it must differ visibly.
    """
    same = [one for one in others if one != digits and one[:GROUP] == digits[:GROUP]]
    if not same:
        return f"{digits[:GROUP]}…"
    position = min(Comparison.of(digits, one).position for one in same) - 1
    start = position - position % GROUP
    return f"{digits[:GROUP]}…{digits[start : start + GROUP]}…"
