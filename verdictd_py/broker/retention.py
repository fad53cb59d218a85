"""Which judgements of one verdict the history stores: bounds by number, size, age, and guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from datetime import datetime, timedelta
from typing import Final, Generic, Protocol, TypeVar

CAPACITY: Final = 500
"""Maximum number of judgements of each verdict, about 10 KiB each."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of the judgements of each verdict together, roughly."""

MAX_AGE: Final = timedelta(days=30)

_QUOTA: Final = 4
"""A guest, or a machine, that has more than this part of the number or of the bytes loses its own
judgements first."""


class Entry(Protocol):
    """What is stored about one guest.

    Attributes:
        groups: what it counts for: the guest, then its machine if that is known. Each identifies
            it as far as possible.
        size: rough number of bytes.
    """

    @property
    def id(self) -> str: ...

    @property
    def at(self) -> datetime: ...

    @property
    def groups(self) -> tuple[Hashable, ...]: ...

    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=Entry)


class _Groups:
    """Entries by what they count for, and the groups that have more than their quota.

    Attributes:
        many: groups with more entries than the quota.
        heavy: groups with more bytes than the quota, in more than one entry.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._most = entries
        self._most_bytes = size
        self._ids: dict[Hashable, dict[str, None]] = {}
        self._bytes: Counter[Hashable] = Counter()
        self.many: dict[Hashable, None] = {}
        self.heavy: dict[Hashable, None] = {}

    def add(self, group: Hashable, entry_id: str, size: int) -> None:
        self._ids.setdefault(group, {})[entry_id] = None
        self._bytes[group] += size
        self._note(group)

    def remove(self, group: Hashable, entry_id: str, size: int) -> None:
        del self._ids[group][entry_id]
        self._bytes[group] -= size
        self._note(group)
        if not self._ids[group]:
            del self._ids[group], self._bytes[group]

    def oldest(self, group: Hashable) -> str:
        """Return the id of the oldest entry of a group."""
        return next(iter(self._ids[group]))

    def _note(self, group: Hashable) -> None:
        number = len(self._ids[group])
        _set(self.many, group, included=number > self._most)
        _set(self.heavy, group, included=number > 1 and self._bytes[group] > self._most_bytes)


def _set(members: dict[Hashable, None], group: Hashable, *, included: bool) -> None:
    if included:
        members[group] = None
    else:
        members.pop(group, None)


class Retained(Generic[T]):
    """Entries in the order in which they came, each found by its id.

    When there are too many, or they are too large, a guest that has more than its quota loses its
    oldest one, otherwise a machine that has more. So a guest that connects all the time, from many
    addresses, or with large evidence does not push out the others. Without such a guest or machine,
    the oldest entry of all is evicted.

    Args:
        capacity: maximum number of entries.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: dict[str, T] = {}
        quota = max(1, capacity // _QUOTA), MAX_BYTES // _QUOTA
        self._groups = (_Groups(*quota), _Groups(*quota))  # guests, machines
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        """Iterate from the oldest to the newest."""
        return iter(self._entries.values())

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._entries.values())

    def get(self, entry_id: str) -> T | None:
        """Return the entry with this id, None if there is none."""
        return self._entries.get(entry_id)

    @property
    def newest(self) -> T | None:
        return next(reversed(self._entries.values()), None)

    def add(self, entry: T) -> list[str]:
        """Store an entry as the newest one; return the ids of those that it evicts."""
        self.remove(entry.id)
        self._entries[entry.id] = entry
        for groups, group in zip(self._groups, entry.groups, strict=False):
            groups.add(group, entry.id, entry.size)
        self._bytes += entry.size
        evicted = []
        while victim := self._victim(entry.at):
            evicted.append(victim)
            self.remove(victim)
        return evicted

    def remove(self, entry_id: str) -> bool:
        """Remove an entry; return whether it was stored."""
        entry = self._entries.pop(entry_id, None)
        if entry is None:
            return False
        for groups, group in zip(self._groups, entry.groups, strict=False):
            groups.remove(group, entry_id, entry.size)
        self._bytes -= entry.size
        return True

    def _victim(self, now: datetime) -> str:
        """Return the id of the entry to evict; empty if there is none."""
        if len(self._entries) <= 1:
            return ""
        oldest = next(iter(self._entries.values()))
        if len(self._entries) > self._capacity:
            over = tuple(groups.many for groups in self._groups)
        elif self._bytes > MAX_BYTES:
            over = tuple(groups.heavy for groups in self._groups)
        else:
            return oldest.id if oldest.at < now - MAX_AGE else ""
        for groups, members in zip(self._groups, over, strict=True):
            if members:
                return groups.oldest(next(iter(members)))
        return oldest.id
