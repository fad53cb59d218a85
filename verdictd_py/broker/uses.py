"""How often each key and resource was released, and when last. Contents and guests are not in here.

The audit trail is the proof of releases. These numbers are for a glance: a kill loses those of the
last seconds.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from verdictd_py.ports.history import HistoryRow

KIND: Final = "use"

MAX_PATHS: Final = 2000
"""Paths whose uses are counted; the one that was released least recently is discarded."""

_PREFIX: Final = "use:"


@dataclass(frozen=True, slots=True)
class Use:
    """Releases of one path: their number and the time of the last one."""

    number: int
    last_at: datetime

    def plus(self, other: Use) -> Use:
        """Return both together."""
        return Use(self.number + other.number, max(self.last_at, other.last_at))


class Uses:
    """Releases by canonical path (`StoredObject`): `keys/NAME`, `resources/NAME`, `image/FILE`."""

    kind = KIND

    def __init__(self) -> None:
        self._uses: OrderedDict[str, Use] = OrderedDict()
        self._changed: dict[str, None] = {}
        self._deleted: dict[str, None] = {}

    def note(self, paths: Iterable[str], at: datetime) -> None:
        """Count one release of each path."""
        self.add({path: Use(1, at) for path in paths})

    def add(self, uses: Mapping[str, Use]) -> None:
        """Add releases to those that are counted already."""
        for path, use in uses.items():
            known = self._uses.pop(path, None)
            self._uses[path] = use if known is None else known.plus(use)
            self._changed[path] = None
            self._deleted.pop(path, None)
        self._evict()

    def __bool__(self) -> bool:
        return bool(self._uses)

    def items(self) -> Iterable[tuple[str, Use]]:
        """Return all paths with their releases."""
        return tuple(self._uses.items())

    def of(self, path: str) -> Use | None:
        """Return the releases of a path; None if none is known."""
        return self._uses.get(path)

    def restore(self, rows: Sequence[HistoryRow]) -> None:
        """Add the releases of an earlier run, which come before those of this one."""
        own, self._uses = self._uses, OrderedDict()
        for row in sorted(rows, key=lambda each: each.at):
            with suppress(ValueError, OverflowError, TypeError, AttributeError):
                number = json.loads(row.body)["number"]
                at = datetime.fromtimestamp(row.at, UTC)
                if row.id.startswith(_PREFIX) and isinstance(number, int):
                    self._uses[row.id.removeprefix(_PREFIX)] = Use(number, at)
        self.add(own)

    def changes(self) -> tuple[Sequence[HistoryRow], Sequence[str]]:
        """Return the rows that changed since the last call, and the ids of deleted ones."""
        changed, self._changed = self._changed, {}
        deleted, self._deleted = self._deleted, {}
        rows = [_row(path, self._uses[path]) for path in changed if path in self._uses]
        return rows, [f"{_PREFIX}{path}" for path in deleted]

    def write_again(self) -> None:
        """Have the next call of `changes` return everything."""
        self._changed = dict.fromkeys(self._uses)

    def _evict(self) -> None:
        while len(self._uses) > MAX_PATHS:
            path, _ = self._uses.popitem(last=False)
            self._changed.pop(path, None)
            self._deleted[path] = None


def _row(path: str, use: Use) -> HistoryRow:
    body = json.dumps({"number": use.number})
    return HistoryRow(f"{_PREFIX}{path}", KIND, use.last_at.timestamp(), body, own=True)
