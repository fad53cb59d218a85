"""Counters of the connections of all workers, in memory that the workers share.

Each worker writes its own region only, and reads those of all workers. So there are no locks, and
a limit is a comparison with a sum over the regions. Two workers that count a connection at the same
moment do not see each other: a limit may be exceeded by one connection for each further worker.

Addresses, platforms and tokens are counted by a keyed hash of 15 bits, so that a region has a
constant size, however many addresses an attacker has. Different addresses with one hash share a
limit, which then applies too early. At most four addresses can be at a limit of a quarter of all
connections; the probability that an address shares the counter of one of them is 4 in 32,768. The
attacker cannot choose it, because the operator process chooses the key at random when it starts.

The operator process clears the region of a worker that has ended, before it starts another one.

Processors order the writes of one worker as far as it matters here: a sum that is read too early
is a sum of a moment before.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from verdictd_py import sharedmemory

SLOTS: Final = 1 << 15
"""Number of counters of each table, a power of two."""

MAX_WORKERS: Final = 128

ASKS: Final = 16
"""Maximum number of connections that one worker has asked another one to close, and that it has
not closed yet. An event loop does it in its next round, which takes at most 20 ms."""

LISTENERS: Final = ("listen", "kbs_http")
"""Listeners of guests, which each have their own limits."""

_KEY_BYTES: Final = 32
_PAGE: Final = mmap.PAGESIZE
_COUNTER: Final = 4  # bytes of format "I"
_STAMP: Final = 8  # bytes of format "Q"
_RING: Final = MAX_WORKERS * ASKS * _COUNTER
_LINKS: Final = 2 * MAX_WORKERS * _STAMP
_TABLES: Final = ("new", "evidence", "platforms", "tokens", "bytes")


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


_TOTALS_BYTES: Final = _pages(16 * _STAMP)
_LISTENER_BYTES: Final = (
    _TOTALS_BYTES
    + _pages(_LINKS)
    + _pages(_RING)
    + _pages(len(_TABLES) * SLOTS * _COUNTER)
    + _pages(SLOTS * _STAMP)
)
_REGION_BYTES: Final = len(LISTENERS) * _LISTENER_BYTES


class Region:
    """Counters of one worker for one listener.

    Attributes:
        totals: sums over all slots, and flags, by the constants of this class.
        asked: number of connections that this worker has asked each other worker to close.
        handled: number of those that this worker has handled, by the worker that asked.
        ring: slots of the last connections asked for, `ASKS` for each other worker.
        new, evidence, platforms, tokens: numbers of connections, or of requests, by slot.
        bytes: held bytes by slot of their owner.
        oldest: when the oldest connection of a slot without evidence was accepted, in nanoseconds
            of the monotonic clock, which all processes of a host share; 0 if there is none.
    """

    NEW: Final = 0
    EVIDENCE: Final = 1
    PLATFORMS: Final = 2
    TOKENS: Final = 3
    BYTES: Final = 4
    UNPROVEN_BYTES: Final = 5
    LARGEST: Final = 6  # the slot with the most connections without evidence, plus one
    WAITING: Final = 7  # whether a connection waits until others release bytes
    PRESENT: Final = 8  # whether the worker runs

    def __init__(self, memory: memoryview, offset: int) -> None:
        def take(size: int, form: str) -> memoryview:
            nonlocal offset
            taken = memory[offset : offset + size].cast(form)  # type: ignore[call-overload]
            offset += _pages(size)
            return memoryview(taken)

        self.totals = take(16 * _STAMP, "Q")
        links = take(_LINKS, "Q")
        self.asked, self.handled = links[:MAX_WORKERS], links[MAX_WORKERS:]
        self.ring = take(_RING, "I")
        tables = take(len(_TABLES) * SLOTS * _COUNTER, "I")
        self.new, self.evidence, self.platforms, self.tokens, self.bytes = (
            tables[at : at + SLOTS] for at in range(0, len(tables), SLOTS)
        )
        self.oldest = take(SLOTS * _STAMP, "Q")


@dataclass(frozen=True, slots=True)
class ListenerCensus:
    """Regions of all workers for one listener, as one worker uses them.

    Attributes:
        regions: by worker, from 0.
        worker: number of this worker in `regions`.
        slot: returns the slot of a text, such as an address.
        wake: wakes another worker, so that it reads what this one has written.
        subscribe: has a function called when another worker has woken this one.
    """

    regions: tuple[Region, ...]
    worker: int
    slot: Callable[[str], int]
    wake: Callable[[int], None]
    subscribe: Callable[[Callable[[], None]], None]

    @property
    def own(self) -> Region:
        return self.regions[self.worker]

    def total(self, field: int) -> int:
        """Return the sum of a total over all workers."""
        return sum([region.totals[field] for region in self.regions])


class Census:
    """Shared memory with the counters of all workers.

    Args:
        descriptors: the shared memory, then one eventfd(2) for each worker.
        worker: number of this worker, from 0; None in the operator process, which only reads and
            clears.

    Attributes:
        descriptors: what each worker inherits.
    """

    def __init__(self, descriptors: tuple[int, ...], worker: int | None = None) -> None:
        self.descriptors = descriptors
        self._worker = worker
        self._events = descriptors[1:]
        self._map = sharedmemory.attach(descriptors[0])
        memory = memoryview(self._map)
        self._key = bytes(memory[:_KEY_BYTES])
        self._regions = [
            [Region(memory, self._offset(number) + at) for at in _offsets_of_listeners()]
            for number in range(len(self._events))
        ]
        self._subscribers: list[Callable[[], None]] = []
        self._slot = lru_cache(maxsize=8192)(self._hashed)

    @classmethod
    def create(cls, workers: int) -> Self:
        """Create the memory for a number of workers; the operator process does so at its start.

        Raises:
            ValueError: there are too many workers.
        """
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"a census counts 1 to {MAX_WORKERS} workers")
        memory = sharedmemory.create("connections", _PAGE + workers * _REGION_BYTES)
        os.pwrite(memory, os.urandom(_KEY_BYTES), 0)
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        return cls((memory, *(os.eventfd(0, flags) for _ in range(workers))))

    def listener(self, name: str) -> ListenerCensus:
        """Return the counters of a listener, for this worker.

        Raises:
            ValueError: the listener does not serve guests, or this is the operator process.
        """
        if self._worker is None:
            raise ValueError("the operator process serves no guests")
        at = LISTENERS.index(name)
        regions = tuple(region[at] for region in self._regions)
        own = regions[self._worker]
        for other, region in enumerate(regions):  # what was asked before is done
            own.asked[other] = region.handled[self._worker]
            own.handled[other] = region.asked[self._worker]
        own.totals[Region.PRESENT] = 1
        return ListenerCensus(
            regions, self._worker, self._slot, self._wake, self._subscribers.append
        )

    def start(self) -> None:
        """Begin to do what other workers ask for; called in the event loop of a worker."""
        if self._worker is None:
            raise ValueError("the operator process serves no guests")
        asyncio.get_running_loop().add_reader(self._events[self._worker], self._woken)

    def stop(self) -> None:
        if self._worker is not None:
            asyncio.get_running_loop().remove_reader(self._events[self._worker])

    def clear(self, worker: int) -> None:
        """Clear the counters of a worker that has ended."""
        begin = self._offset(worker)
        self._map[begin : begin + _REGION_BYTES] = bytes(_REGION_BYTES)

    def connections(self, name: str) -> int:
        """Return the number of connections of a listener, of all workers together."""
        at = LISTENERS.index(name)
        fields = (Region.NEW, Region.EVIDENCE, Region.PLATFORMS)
        return sum(region[at].totals[field] for region in self._regions for field in fields)

    def states(self, name: str) -> dict[str, int]:
        """Return the numbers of connections of a listener, as `Shares.states` does for one process.

        They are those of all workers together.
        """
        at = LISTENERS.index(name)
        fields = {
            "new": Region.NEW,
            "evidence": Region.EVIDENCE,
            "attested": Region.PLATFORMS,
        }
        return {
            state: sum(region[at].totals[field] for region in self._regions)
            for state, field in fields.items()
        }

    def close(self) -> None:
        """Close the descriptors; the counters cannot be used any more."""
        for descriptor in self.descriptors:
            os.close(descriptor)

    def _wake(self, worker: int) -> None:
        os.eventfd_write(self._events[worker], 1)

    def _woken(self) -> None:
        assert self._worker is not None  # noqa: S101  # only `start` registers this function
        try:
            os.eventfd_read(self._events[self._worker])
        except BlockingIOError:
            return
        for subscriber in self._subscribers:
            subscriber()

    def _hashed(self, text: str) -> int:
        encoded = text.encode("utf-8", "replace")
        digest = hashlib.blake2b(encoded, digest_size=2, key=self._key).digest()
        return int.from_bytes(digest) % SLOTS

    @staticmethod
    def _offset(worker: int) -> int:
        return _PAGE + worker * _REGION_BYTES


def _offsets_of_listeners() -> range:
    return range(0, _REGION_BYTES, _LISTENER_BYTES)
