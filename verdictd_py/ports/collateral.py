"""Port of the store in which verifiers save fetched collateral."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol


class CollateralStore(Protocol):
    """Store of fetched collateral, by file name."""

    async def names(self) -> tuple[str, ...]:
        """Return the names of all saved collateral."""
        ...

    async def load(self, name: str) -> bytes | None:
        """Return the content that was saved under a name, None if there is none.

        Raises:
            StorageError: it cannot be read.
        """
        ...

    async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
        """Return for each name a value that differs once its content was replaced.

        It is cheap: callers compare it before they use content that they have read earlier,
        because other processes save collateral too. It never raises.
        """
        ...

    async def save(self, name: str, content: bytes) -> None:
        """Create or replace the content of a name, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        ...

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the content of a name while no other process can change it.

        Args:
            change: returns the new content for the current one (None if there is none), or None
                to leave it unchanged. It may run in another thread.

        Raises:
            StorageError: the content cannot be read or written.
        """
        ...
