"""Statements of an audit file about other audit files, in the records `audit.began` and the like.

A statement is a text of an event's field: the name of a file and how it was then. It is read again
by `events.verification`, also by later versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from verdictd_py.errors import StorageError


class State(StrEnum):
    """State of a file of which a statement tells."""

    ENDED = "ended"
    """Its writer had ended: nothing is added to it any more."""
    OPEN = "open"
    """Its writer was running: more records may follow."""
    MISSING = "missing"
    """It was not in the directory any more."""
    CUT = "cut"
    """It had fewer records than its writer had written."""
    UNREADABLE = "unreadable"
    """Its last record could not be read."""
    PRUNED = "pruned"
    """It is removed now, because it is older than the retention allows."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement about a file.

    Attributes:
        name: the file's name without its directory.
        records: number of its records.
        digest: digest of its last record.
        partial: bytes after the last record: its writer was killed while it wrote them.
        first: digest of the first record, of a file that is pruned.
    """

    name: str
    state: State
    records: int
    digest: str
    partial: int = 0
    first: str = ""

    def __str__(self) -> str:
        text = f"{self.name} {self.state} {self.records} {self.digest}"
        if self.partial:
            text += f" partial={self.partial}"
        if self.first:
            text += f" first={self.first}"
        return text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a statement.

        Raises:
            StorageError: the text is none.
        """
        name, state, records, digest, *more = [*text.split(" "), "", "", ""]
        options = dict(part.partition("=")[::2] for part in more if part)
        try:
            return cls(
                name,
                State(state),
                int(records),
                digest,
                int(options.get("partial", "0")),
                options.get("first", ""),
            )
        except ValueError:
            raise StorageError(f"{text[:100]!r} is not a statement about an audit file") from None
