"""Counts of the connections of all workers (see `census`), and the choice of what is closed.

When there are too many connections, the oldest one without evidence is closed, whichever worker
has it. A worker that always closed its own oldest connection could close one that was accepted a
moment ago, of a genuine guest behind the same NAT as a flood: the kernel gives the workers unequal
numbers of connections. A worker that has no connection of an address would have to refuse new ones,
although another worker has only silent ones. Therefore the worker that accepts the new connection
asks the worker with the oldest one to close it, and counts that one as closed at once.

A worker asks another one for at most `ASKS` connections that are not closed yet. So a limit is
exceeded by at most that many for each pair of workers, until the other worker's next round. When
the other worker does not answer, because it is stopped or has just died, the next oldest connection
is closed: in the end that of the asking worker, and if there is none, the new one is refused.

At the limit of all connections, the address is chosen that has the most among those that have the
most in at least one worker. It has at least as many as the address with the most of all, divided by
the number of workers; the kernel spreads the connections of a flood, so it usually is that one.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from verdictd_py.listeners.census import ASKS, ListenerCensus, Region
from verdictd_py.listeners.counts import Evictable, LocalAges

Key = TypeVar("Key")
Item = TypeVar("Item", bound=Evictable)

_REASON: Final = "too many connections of all workers; this was the oldest without evidence"


class SharedCounts(Generic[Key]):
    """Port `Counts` of all workers.

    Args:
        tables: the table of each worker.
        field: its total in `Region.totals`.
        text_of: returns what identifies a key.
    """

    def __init__(
        self,
        census: ListenerCensus,
        tables: tuple[memoryview[int], ...],
        field: int,
        text_of: Callable[[Key], str],
    ) -> None:
        self._census = census
        self._tables = tables
        self._own = tables[census.worker]
        self._totals = census.own.totals
        self._field = field
        self._text_of = text_of

    @property
    def total(self) -> int:
        return self._census.total(self._field)

    def __getitem__(self, key: Key) -> int:
        slot = self._census.slot(self._text_of(key))
        return sum([table[slot] for table in self._tables])

    def add(self, key: Key) -> None:
        self._own[self._census.slot(self._text_of(key))] += 1
        self._totals[self._field] += 1

    def remove(self, key: Key) -> None:
        self._own[self._census.slot(self._text_of(key))] -= 1
        self._totals[self._field] -= 1


class SharedAges(Generic[Key, Item]):
    """Port `Ages` of all workers.

    Args:
        text_of: returns what identifies a key.
        clock: returns the time in nanoseconds, by a clock that all workers share.
    """

    def __init__(
        self,
        census: ListenerCensus,
        text_of: Callable[[Key], str],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._census = census
        self._region = census.own
        self._text_of = text_of
        self._clock = clock
        self._own: LocalAges[int, Item] = LocalAges()
        self._asked = tuple(deque[int]() for _ in census.regions)
        self._asked_slots: Counter[int] = Counter()
        census.subscribe(self._handle)

    def __len__(self) -> int:
        """Return the number of connections, without those that others are asked to close."""
        self._settle()
        return max(self._census.total(Region.NEW) - sum(map(len, self._asked)), 0)

    def count(self, key: Key) -> int:
        self._settle()
        return self._count(self._census.slot(self._text_of(key)))

    def add(self, key: Key, item: Item) -> None:
        slot = self._census.slot(self._text_of(key))
        self._own.add(slot, item, self._clock())
        self._publish(slot, 1)

    def remove(self, key: Key, item: Item) -> None:
        slot = self._census.slot(self._text_of(key))
        self._own.remove(slot, item)
        self._publish(slot, -1)

    def oldest(self, key: Key) -> Evictable | None:
        return self._oldest(self._census.slot(self._text_of(key)))

    def oldest_of_largest(self) -> Evictable | None:
        slots = {region.totals[Region.LARGEST] - 1 for region in self._census.regions} - {-1}
        by_size = sorted(slots, key=lambda slot: (-self._count(slot), self._first_stamp(slot)))
        for slot in by_size:
            if (found := self._oldest(slot)) is not None:
                return found
        return None

    def _count(self, slot: int) -> int:
        counted = sum([region.new[slot] for region in self._census.regions])
        return max(counted - self._asked_slots[slot], 0)

    def _first_stamp(self, slot: int) -> int:
        stamps = (region.oldest[slot] for region in self._census.regions)
        return min((stamp for stamp in stamps if stamp), default=0)

    def _oldest(self, slot: int) -> Evictable | None:
        """Return the oldest connection of a slot that can be closed."""
        for worker in self._by_age(slot):
            if worker == self._census.worker:
                return self._own.oldest(slot)
            asked = self._asked[worker]
            if len(asked) < ASKS and asked.count(slot) < self._census.regions[worker].new[slot]:
                return _OfAnotherWorker(self._ask, worker, slot)
        return None

    def _by_age(self, slot: int) -> Iterator[int]:
        """Return the workers that have connections of a slot, that with the oldest one first."""
        stamps = [(region.oldest[slot], n) for n, region in enumerate(self._census.regions)]
        return (worker for stamp, worker in sorted(stamps) if stamp)

    def _publish(self, slot: int, change: int) -> None:
        region, largest = self._region, self._own.largest
        region.new[slot] += change
        region.oldest[slot] = self._own.oldest_stamp(slot)
        region.totals[Region.NEW] += change
        region.totals[Region.LARGEST] = 0 if largest is None else largest + 1

    def _ask(self, worker: int, slot: int) -> None:
        """Ask another worker to close its oldest connection of a slot."""
        number = self._region.asked[worker]
        self._region.ring[worker * ASKS + number % ASKS] = slot
        self._region.asked[worker] = number + 1
        self._asked[worker].append(slot)
        self._asked_slots[slot] += 1
        self._census.wake(worker)

    def _settle(self) -> None:
        """Close what others have asked for; otherwise further connections would be closed."""
        self._handle()
        self._forget_closed()

    def _forget_closed(self) -> None:
        """Forget the connections that other workers have closed, or no longer have."""
        for worker, asked in enumerate(self._asked):
            if not asked:
                continue
            region, waiting = self._census.regions[worker], 0
            if region.totals[Region.PRESENT]:
                handled = region.handled[self._census.worker]
                waiting = max(self._region.asked[worker] - handled, 0)
            while len(asked) > waiting:
                slot = asked.popleft()
                self._asked_slots[slot] -= 1
                if not self._asked_slots[slot]:
                    del self._asked_slots[slot]

    def _handle(self) -> None:
        """Close the connections that other workers have asked for."""
        me, handled = self._census.worker, self._region.handled
        for worker, region in enumerate(self._census.regions):
            while handled[worker] < region.asked[me]:
                slot = region.ring[me * ASKS + handled[worker] % ASKS]
                oldest = self._own.oldest(slot)
                if oldest is not None:
                    oldest.evict(_REASON, "connections")
                handled[worker] += 1


class _OfAnotherWorker:
    """The oldest connection of a slot that another worker has."""

    def __init__(self, ask: Callable[[int, int], None], worker: int, slot: int) -> None:
        self._ask = ask
        self._worker = worker
        self._slot = slot

    def evict(self, reason: str, limit: str) -> None:
        """Have the other worker close it; the event there has a reason of its own."""
        del reason, limit
        self._ask(self._worker, self._slot)
