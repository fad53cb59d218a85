"""Port through which every package reports what happened."""

from __future__ import annotations

from typing import Protocol

from verdictd_py.domain.eventtypes import Event


class Events(Protocol):
    """Receiver of events: the audit trail and the log, or a test's recorder."""

    def record(self, event: Event) -> None:
        """Record one event.

        An event that must be audited blocks the calling thread until its record is on disk. On
        the event loop, use `commit` for it.

        Raises:
            StorageError: the event must be audited, and the audit trail cannot be written.
        """
        ...

    async def commit(self, *events: Event) -> None:
        """Record events, and return when the records of those to be audited are on disk.

        Everything that depends on the records follows this call: a release, a change, an answer.
        A caller that is cancelled while it waits does not prevent the records.

        Raises:
            StorageError: an event must be audited, and the audit trail cannot be written. None
                of the events is recorded.
        """
        ...
