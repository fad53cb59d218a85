"""Where Intel's collateral comes from, as an interface for the verifiers of TDX and SGX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verdictd_py.formats.collateral import Collateral


@dataclass(frozen=True, slots=True)
class CollateralRequest:
    """Which collateral: `fmspc` 12 lower-case hex digits, `ca` processor or platform."""

    tee: str
    fmspc: str
    ca: str


class CollateralSource(Protocol):
    """Where collateral comes from; the verifier checks what it gets."""

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Collateral to try, best first, never empty.

        Raises:
            CollateralUnavailable: there is none for this platform now.
        """
        ...
