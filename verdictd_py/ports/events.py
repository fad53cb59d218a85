"""Where the lower rooms say what happened."""

from __future__ import annotations

from typing import Protocol

from verdictd_py.domain.secrets import SecretBytes

EventValue = str | int | float | bool | None | SecretBytes | tuple[str, ...]


class Events(Protocol):
    """Where the lower rooms say what happened; the logger is behind it, not in them."""

    def record(self, event: str, /, **fields: EventValue) -> None:
        """Records one event. `SecretBytes` among the fields are shown as their size."""
        ...
