"""Near misses: the known word that a misspelled one most probably stands for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

MAX_CHARACTERS: Final = 100
"""Longer words are compared with nothing: the comparison takes the product of both lengths."""

_MAX_EDITS: Final = 3
_SHORTEST_BEGINNING: Final = 3


def closest(word: str, known: Collection[str]) -> str | None:
    """Return the known word that is closest to `word`, or None if no word is close.

    A word is close if few edits (insert, delete, replace, swap two neighbours) lead to it: one
    for each three characters, at most three. Case, leading dashes and the difference between `-`
    and `_` do not count. If no word is close, the only one that begins with `word` is returned.
    """
    plain = _plain(word)
    if not 1 < len(plain) <= MAX_CHARACTERS:
        return None
    limit = allowed_edits(plain)
    counted = [(distance(plain, _plain(other)), other) for other in known]
    close = [(edits, other) for edits, other in counted if edits <= limit]
    if close:
        return min(close)[1]
    longer = {other for other in known if _plain(other).startswith(plain)}
    if len(longer) == 1 and len(plain) >= _SHORTEST_BEGINNING:
        return longer.pop()
    return None


def allowed_edits(word: str) -> int:
    """Return the number of edits up to which another word is close to `word`."""
    return min(_MAX_EDITS, max(1, len(word) // 3))


def distance(first: str, second: str) -> int:
    """Return the number of edits between two words (optimal string alignment).

    A difference of more than `_MAX_EDITS` in length is returned without a comparison.
    """
    if abs(len(first) - len(second)) > _MAX_EDITS:
        return abs(len(first) - len(second))
    older: list[int] = []
    above: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        older, above, row = above, row, [i]
        for j, b in enumerate(second, start=1):
            edits = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                edits = min(edits, older[j - 2] + 1)
            row.append(edits)
    return row[-1]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'other'?` for a near miss, otherwise an empty text."""
    other = closest(word, known)
    return f"; did you mean {other!r}?" if other is not None and other != word else ""


def _plain(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()
