"""Port of the sources of Intel's collateral, for the verifiers of TDX and SGX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verdictd_py.formats.collateral import Collateral


@dataclass(frozen=True, slots=True)
class CollateralRequest:
    """Platform type: `fmspc` is 12 lower-case hex digits, `ca` is `processor` or `platform`."""

    tee: str
    fmspc: str
    ca: str


class CollateralSource(Protocol):
    """Source of collateral, whose results the verifier verifies."""

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Return collateral to try, best first, never empty.

        Raises:
            CollateralUnavailable: there is none for this platform now.
        """
        ...

    def remedy(self, request: CollateralRequest) -> str:
        """Return the origin of this source's collateral, and the remedy if none of it can be used.

        The text is empty for a source without collateral of its own: only guests send it.
        """
        ...
