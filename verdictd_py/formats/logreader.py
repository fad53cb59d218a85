"""Reader of the bytes of an event log, whose errors name the offset."""

from __future__ import annotations

from typing import Final

from verdictd_py.errors import EvidenceFormat

_ONES: Final = b"\xff" * 4
"""Begin of an area after the last event that firmware filled with 0xFF: no register's index."""

_ZEROS: Final = bytes(12)
"""Begin of an area that firmware filled with zeros. As an event, it would have no digest."""


class LogReader:
    """Reader of little-endian numbers and bytes that never reads beyond the end.

    Args:
        start: offset of the first byte.
        end: offset after the last byte, None for all.
    """

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    @property
    def at_end(self) -> bool:
        """Whether the last event was read: no data is left, or a filled area begins."""
        rest = self._data[self._at : min(self._at + len(_ZEROS), self._end)]
        return rest.startswith(_ONES) or rest == _ZEROS[: len(rest)]

    def take(self, size: int) -> bytes:
        if size > self._end - self._at:
            raise self.problem("ends in the middle of an event")
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def part(self, size: int) -> LogReader:
        """Take `size` bytes, and return a reader of them that counts offsets alike."""
        start = self._at
        self.take(size)
        return LogReader(self._data, start, self._at)

    def problem(self, text: str) -> EvidenceFormat:
        """Return an error that names the offset."""
        return EvidenceFormat(f"the event log {text}, at byte {self._at}")
