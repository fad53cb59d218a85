"""Counts of connections by key, of one process: every operation takes constant time.

Under a flood they are used for each connection.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key")
Key_contra = TypeVar("Key_contra", contravariant=True)


class Evictable(Protocol):
    """A connection without evidence, which may be closed for another one."""

    def evict(self, reason: str, limit: str) -> None:
        """Close the connection, because a limit of this name was reached."""
        ...


Item = TypeVar("Item", bound=Evictable)
Item_contra = TypeVar("Item_contra", bound=Evictable, contravariant=True)


class Counts(Protocol[Key_contra]):
    """Numbers by key."""

    @property
    def total(self) -> int:
        """The sum of all numbers."""
        ...

    def __getitem__(self, key: Key_contra) -> int: ...

    def add(self, key: Key_contra) -> None:
        """Count one more."""
        ...

    def remove(self, key: Key_contra) -> None:
        """Count one less."""
        ...


class Ages(Protocol[Key_contra, Item_contra]):
    """Connections without evidence, by key."""

    def __len__(self) -> int: ...

    def count(self, key: Key_contra) -> int:
        """Return the number of connections of a key."""
        ...

    def add(self, key: Key_contra, item: Item_contra) -> None:
        """Add the newest connection."""
        ...

    def remove(self, key: Key_contra, item: Item_contra) -> None:
        """Remove a connection that was added."""
        ...

    def oldest(self, key: Key_contra) -> Evictable | None:
        """Return the oldest connection of a key, None if it has none."""
        ...

    def oldest_of_largest(self) -> Evictable | None:
        """Return the oldest connection of the key with the most."""
        ...


class LocalCounts(Generic[Key]):
    """Port `Counts` of one process."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self.total = 0

    def __getitem__(self, key: Key) -> int:
        return self._numbers.get(key, 0)

    def add(self, key: Key) -> None:
        self._numbers[key] = self[key] + 1
        self.total += 1

    def remove(self, key: Key) -> None:
        self.total -= 1
        self._numbers[key] -= 1
        if not self._numbers[key]:
            del self._numbers[key]


class LocalAges(Generic[Key, Item]):
    """Port `Ages` of one process: the connections of each key, and the keys by their number."""

    def __init__(self) -> None:
        self._sources: dict[Key, dict[Item, int]] = {}
        self._sizes: dict[int, dict[Key, None]] = {}
        self._largest = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count(self, key: Key) -> int:
        return len(self._sources.get(key, ()))

    def add(self, key: Key, item: Item, stamp: int = 0) -> None:
        """Add the newest connection.

        Args:
            stamp: time at which it was accepted, for `oldest_stamp`.
        """
        self._sources.setdefault(key, {})[item] = stamp
        self._length += 1
        size = self.count(key)
        self._resize(key, size - 1, size)

    def remove(self, key: Key, item: Item) -> None:
        items = self._sources[key]
        del items[item]
        self._length -= 1
        size = len(items)
        if not size:
            del self._sources[key]
        self._resize(key, size + 1, size)

    def oldest(self, key: Key) -> Item | None:
        return next(iter(self._sources.get(key, ())), None)

    def oldest_stamp(self, key: Key) -> int:
        """Return the time at which the oldest connection of a key was accepted; 0 for none."""
        return next(iter(self._sources.get(key, {}).values()), 0)

    @property
    def largest(self) -> Key | None:
        """The key with the most connections, None if there are none."""
        return next(iter(self._sizes.get(self._largest, ())), None)

    def oldest_of_largest(self) -> Item | None:
        key = self.largest
        return None if key is None else self.oldest(key)

    def _resize(self, key: Key, before: int, after: int) -> None:
        if before:
            del self._sizes[before][key]
            if not self._sizes[before]:
                del self._sizes[before]
        if after:
            self._sizes.setdefault(after, {})[key] = None
        if after > self._largest or self._largest not in self._sizes:
            self._largest = after  # sizes change by one, so no size is between
