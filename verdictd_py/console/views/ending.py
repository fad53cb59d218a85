"""What ends next: named sets, collateral, certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

MAX_ENDS: Final = 8

_SOON_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class End:
    """Something with an end.

    Attributes:
        what: what it is, a key of the translations with `%(name)s`.
        name: its name.
        at: time of its end, RFC 3339.
        path: page about it; empty for none.
        renewed: whether the broker renews it by itself.
    """

    what: str
    name: str
    at: str
    path: str = ""
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class Upcoming:
    """An end with the days that are left; negative once it has passed."""

    end: End
    days: int

    @property
    def soon(self) -> bool:
        """Whether the operator has to act."""
        return self.days < _SOON_DAYS and (not self.end.renewed or self.days < 0)


def next_ends(ends: Sequence[End], now: datetime) -> tuple[Upcoming, ...]:
    """Return the next ends, the first one first."""
    upcoming = [Upcoming(end, (datetime.fromisoformat(end.at) - now).days) for end in ends]
    return tuple(sorted(upcoming, key=lambda each: each.end.at)[:MAX_ENDS])
