"""Where collateral comes from, and where it survives a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verdictd_py.domain.evidence import Collateral, Tee


@dataclass(frozen=True, slots=True)
class CollateralRequest:
    """Which collateral: `fmspc` 12 lower-case hex digits, `ca` processor or platform."""

    tee: Tee
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


class CollateralStore(Protocol):
    """Where fetched collateral survives a restart, by file name."""

    async def names(self) -> tuple[str, ...]:
        """Everything that was saved; asked once, at start."""
        ...

    async def load(self, name: str) -> bytes | None:
        """What was saved under that name, None where nothing was.

        Raises:
            StorageError: it cannot be read.
        """
        ...

    async def save(self, name: str, content: bytes) -> None:
        """Creates or replaces, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        ...
