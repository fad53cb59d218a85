"""Port of the store in which the history survives a restart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A stored judgement, use of a secret, or revision of a document.

    Attributes:
        kind: verdict of a judgement, or the kind of other rows; each kind is bounded for itself.
        at: time of the appraisal, of the last use, or since when a revision was in force, in
            seconds since 1970.
        body: the row's data as JSON.
        own: whether each broker of a shared store has a row of its own with this id.
    """

    id: str
    kind: str
    at: float
    body: str
    own: bool = False


Count = tuple[int, str, str, int]
"""Interval, verdict, code, number of guests."""

Stored = tuple[Sequence[HistoryRow], Sequence[Count]]
"""Everything in a store."""


class HistoryStore(Protocol):
    """Store of rows and of numbers of guests. Its calls take threads, and none raises."""

    async def load(self) -> Stored | None:
        """Return everything that is stored and valid; None if the store cannot be read now."""
        ...

    async def write(
        self,
        rows: Sequence[HistoryRow],
        deleted: Iterable[str],
        counts: Sequence[Count],
        oldest_interval: int,
    ) -> bool:
        """Store rows and counts, and delete others, in one transaction.

        Args:
            oldest_interval: counts of earlier intervals are deleted.

        Returns:
            Whether everything that was stored before is still there. If it is not, the caller
            writes everything again.
        """
        ...

    async def close(self) -> None:
        """Close the store."""
        ...
