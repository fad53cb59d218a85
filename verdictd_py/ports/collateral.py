"""Where verifiers store what they fetch, so that it survives a restart."""

from __future__ import annotations

from typing import Protocol


class CollateralStore(Protocol):
    """Store of fetched collateral, by file name."""

    async def names(self) -> tuple[str, ...]:
        """Return the names of everything that was saved."""
        ...

    async def load(self, name: str) -> bytes | None:
        """Return what was saved under that name, None where nothing was.

        Raises:
            StorageError: it cannot be read.
        """
        ...

    async def save(self, name: str, content: bytes) -> None:
        """Create or replace, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        ...
