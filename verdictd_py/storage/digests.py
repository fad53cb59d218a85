"""Record of the digests of files that determine decisions, each time that they change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from verdictd_py.domain.events import FileChanged
from verdictd_py.ports import Events

Number = Callable[[Mapping[str, str | None]], Awaitable[Mapping[str, int]]]
"""Numbers changed files; see `revisions.DocumentRevisions.note`."""


class DigestLog:
    """Digests under which files were last used by this process.

    Readers call `observe` with what they have read, before they return it. Therefore a change is
    recorded before it determines a decision, also if it was made by hand or by another process.

    Args:
        number: returns the revisions of changed files; None if they have none.

    Attributes:
        changed: called when a file has other content than when it was last read, and when files
            cannot be read, or can be read again.
    """

    def __init__(self, events: Events, number: Number | None = None) -> None:
        self._events = events
        self._number = number
        self.changed: Callable[[], None] = lambda: None
        self._known: dict[str, str | None] = {}
        self._unreadable: set[frozenset[str]] = set()
        self._recording = asyncio.Lock()

    async def observe(self, digests: Mapping[str, str | None]) -> None:
        """Record the files whose digest is another one than at the last call.

        Args:
            digests: SHA-256 digest of each file in lower-case hex, None for a missing file.

        Raises:
            StorageError: a change could not be recorded, so that it must not determine anything.
        """
        self._note_readable(digests)
        if not self._changed(digests):
            return
        async with self._recording:  # otherwise calls at the same time record a change twice
            changed = self._changed(digests)
            again = changed.keys() & self._known.keys()
            numbers = {} if self._number is None else await self._number(changed)
            await self._events.commit(
                *(
                    FileChanged(
                        file=file,
                        previous=self._known.get(file),
                        sha256=digest,
                        revision=numbers.get(file),
                    )
                    for file, digest in changed.items()
                )
            )
            self._known.update(changed)
        if again:
            self.changed()

    def note_unreadable(self, *files: str) -> None:
        """Note that files that are read together could not be read."""
        if frozenset(files) not in self._unreadable:
            self._unreadable.add(frozenset(files))
            self.changed()

    def _note_readable(self, files: Collection[str]) -> None:
        if self._unreadable and frozenset(files) in self._unreadable:
            self._unreadable.remove(frozenset(files))
            self.changed()

    def was_present(self, file: str) -> bool:
        """Return whether the file existed when it was last recorded."""
        return self._known.get(file) is not None

    def _changed(self, digests: Mapping[str, str | None]) -> dict[str, str | None]:
        return {file: digest for file, digest in digests.items() if self._known.get(file) != digest}
