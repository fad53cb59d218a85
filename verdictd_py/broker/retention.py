"""Which judgements of one verdict the history stores: bounds by number, size, age, and guest."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from datetime import datetime, timedelta
from typing import Final, Generic, Protocol, TypeVar

CAPACITY: Final = 500
"""Maximum number of judgements of each verdict, about 10 KiB each."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of the judgements of each verdict together, roughly."""

MAX_AGE: Final = timedelta(days=30)

_QUOTA: Final = 4
"""A guest that has more than this part of the capacity loses its own judgements first."""


class Entry(Protocol):
    """What is stored about one guest.

    Attributes:
        guest: identifies the guest as far as possible.
        size: rough number of bytes.
    """

    @property
    def id(self) -> str: ...

    @property
    def at(self) -> datetime: ...

    @property
    def guest(self) -> Hashable: ...

    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=Entry)


class Retained(Generic[T]):
    """Entries in the order in which they came, each found by its id.

    When there are too many, a guest that has more than its quota loses its oldest one. So a guest
    that connects all the time does not push out the others. Without such a guest, the oldest entry
    of all is evicted.

    Args:
        capacity: maximum number of entries.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._quota = max(1, capacity // _QUOTA)
        self._entries: dict[str, T] = {}
        self._guests: dict[Hashable, dict[str, None]] = {}
        self._over: dict[Hashable, None] = {}
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
        of_guest = self._guests.setdefault(entry.guest, {})
        of_guest[entry.id] = None
        if len(of_guest) > self._quota:
            self._over[entry.guest] = None
        self._bytes += entry.size
        evicted = []
        while self._is_over(entry.at):
            evicted.append(self._victim())
            self.remove(evicted[-1])
        return evicted

    def remove(self, entry_id: str) -> bool:
        """Remove an entry; return whether it was stored."""
        entry = self._entries.pop(entry_id, None)
        if entry is None:
            return False
        of_guest = self._guests[entry.guest]
        del of_guest[entry_id]
        if len(of_guest) <= self._quota:
            self._over.pop(entry.guest, None)
        if not of_guest:
            del self._guests[entry.guest]
        self._bytes -= entry.size
        return True

    def _is_over(self, now: datetime) -> bool:
        if len(self._entries) <= 1:
            return False
        oldest = next(iter(self._entries.values()))
        too_many = len(self._entries) > self._capacity or self._bytes > MAX_BYTES
        return too_many or oldest.at < now - MAX_AGE

    def _victim(self) -> str:
        """Return the id of the entry to evict."""
        guest = next(iter(self._over), None)
        if guest is None or len(self._entries) <= self._capacity:
            return next(iter(self._entries))
        return next(iter(self._guests[guest]))
