"""Port through which every package reports what happened."""

from __future__ import annotations

from typing import Protocol

from verdictd_py.domain.eventtypes import Event


class Events(Protocol):
    """Receiver of events: the audit trail and the log, or a test's recorder."""

    def record(self, event: Event) -> None:
        """Record one event.

        Raises:
            StorageError: the event must be audited, and the audit trail cannot be written.
        """
        ...
