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
        """Return where its collateral is from, and what to do if none of it can be used.

        Empty for a source that has none of its own, so that only the guest can send better.
        """
        ...
