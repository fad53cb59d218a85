"""Interface of a scenario: its budget, its rows, and what it leaves behind when it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

PASSED: Final = "passed"
FAILED: Final = "FAILED"
SKIPPED: Final = "skipped"

Result = Literal["passed", "FAILED", "skipped"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        case: what was done to the broker.
        figures: what was measured, with units.
        result: whether the promise was kept; `skipped` names what is missing in `figures`.
    """

    case: str
    figures: str
    result: Result

    @classmethod
    def judged(cls, case: str, figures: str, *, passed: bool) -> Row:
        """Return a row that passed or failed."""
        return cls(case, figures, PASSED if passed else FAILED)

    @classmethod
    def skipped(cls, case: str, missing: str) -> Row:
        """Return a row of a case that cannot run on this host."""
        return cls(case, missing, SKIPPED)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a scenario may use.

    Attributes:
        seconds: about how long it may take.
        smoke: the smallest form that uses each part of the scenario once; limits that a busy
            machine exceeds are not judged.
        directory: empty and writable, removed afterwards unless a row failed.
        only: part of the names of the cases that run alone, in `floods` and `memory`.
    """

    seconds: float
    smoke: bool
    directory: Path
    only: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as the command line lists it.

    Attributes:
        share: part of the whole time, relative to the other scenarios.
    """

    name: str
    about: str
    share: float
    run: Callable[[Budget], AsyncIterator[Row]]
