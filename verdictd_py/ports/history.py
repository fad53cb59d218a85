"""Port of the store in which the history of appraisals survives a restart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A stored judgement.

    Attributes:
        kind: verdict; each verdict is bounded for itself.
        at: time of the appraisal, in seconds since 1970.
        body: the judgement as JSON.
    """

    id: str
    kind: str
    at: float
    body: str


Count = tuple[int, str, str, int]
"""Interval, verdict, code, number of guests."""

Stored = tuple[Sequence[HistoryRow], Sequence[Count]]
"""Everything in a store."""


class HistoryStore(Protocol):
    """Store of judgements and of numbers of guests. Its calls take threads, and none raises."""

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
