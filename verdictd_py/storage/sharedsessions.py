"""Sessions of HTTP guests in memory that the workers of one broker share.

Any worker answers any request of a session, and a session outlasts the worker that stored it. A
challenge is taken once among all workers: the worker that takes it has a lock of the kernel for
that challenge (POSIX record locks, which end with their process), and leaves a mark.

A session of four calls takes 75 µs of CPU and no thread, in a SQLite file 530 µs. Memory is taken
for what is stored, and is given back when a worker has no sessions any more.

The limits apply to all workers together. Each worker evicts its own oldest entries while all have
more than the limit and it has more than its equal part. So a worker that stores many entries evicts
none of the others. A worker whose part has become too large evicts at its next call, or when
expired entries are released.

Source: port `SessionStore`; fcntl(2), "Advisory record locking".
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from typing import Final

from verdictd_py import sharedmemory
from verdictd_py.errors import StorageError
from verdictd_py.ports.sessions import DEFAULT_LIMITS, MAX_AHEAD, SessionLimits
from verdictd_py.storage.sharedrecords import (
    BLOCK_BYTES,
    ID_BYTES,
    MAX_BLOCKS,
    Place,
    Record,
    Region,
    blocks_of,
    pages,
)

_KEY_BYTES: Final = 32
_MEMORY: Final = struct.Struct(f"={_KEY_BYTES}sQQ")  # key, number of workers, blocks of each
_MEMORY_BYTES: Final = pages(_MEMORY.size)
_MAX_GENERATION: Final = 1 << 32
_PARTS: Final = 2
"""Capacity of a region, as a multiple of its equal part: workers have unequal numbers of guests."""


class _Kind(IntEnum):
    CHALLENGE = 0
    TOKEN = 1
    CLAIMS = 2


def create(workers: int, limits: SessionLimits = DEFAULT_LIMITS) -> int:
    """Create empty memory for the sessions of a number of workers; return its descriptor."""
    size = limits.token_bytes + limits.claims_bytes
    # Most entries fill their last block to one half.
    blocks = size // BLOCK_BYTES + 2 * limits.sessions + limits.challenges
    blocks = min(blocks, -(-_PARTS * blocks // workers), MAX_BLOCKS)
    memory = sharedmemory.create("sessions", _MEMORY_BYTES + workers * Region.size(blocks))
    os.pwrite(memory, _MEMORY.pack(os.urandom(_KEY_BYTES), workers, blocks), 0)
    return memory


class SharedSessionStore:
    """Port `SessionStore` of one worker in shared memory.

    Args:
        descriptor: see `create`; the store closes it.
        worker: number of this worker, from 0. It takes over the entries of its predecessor.
    """

    def __init__(
        self, descriptor: int, worker: int, limits: SessionLimits = DEFAULT_LIMITS
    ) -> None:
        self._descriptor = descriptor
        self._limits = limits
        self._memory = sharedmemory.attach(descriptor)
        self._key, workers, blocks = _MEMORY.unpack_from(self._memory)
        self._regions = tuple(
            Region(self._memory, _MEMORY_BYTES + number * Region.size(blocks), blocks)
            for number in range(workers)
        )
        own = self._regions[worker]
        self._others = tuple(region for region in self._regions if region is not own)
        self._own = _OwnEntries(own)
        self._closed = False

    async def add_challenge(
        self, name: str, challenge: str, *, now: datetime, expires: datetime
    ) -> None:
        self._put(_Kind.CHALLENGE, name, challenge, now, expires)
        self._evict(_Kind.CHALLENGE, rows=self._limits.challenges)
        self._evict_sessions(now)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        identity = self._identity(_Kind.CHALLENGE, name)
        with self._locked(identity) as locked:
            if not locked:  # another worker takes it at this moment
                return None
            place = self._find(_Kind.CHALLENGE, identity)
            if place is None:
                return None
            taken, content = place.region.is_taken(place), place.region.read(place)
            place.region.mark_taken(place)
            self._own.remove(_Kind.CHALLENGE, identity)
        if taken or content is None or place.record.expires <= now.timestamp():
            return None
        return content.decode("utf-8", "replace")

    async def add_token(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        self._put(_Kind.TOKEN, name, token, now, expires)
        self._evict(_Kind.TOKEN, size=self._limits.token_bytes)
        self._evict_sessions(now)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return self._get(_Kind.TOKEN, name, now)

    async def add_claims(
        self, digest: str, claims: str, *, now: datetime, expires: datetime
    ) -> None:
        self._put(_Kind.CLAIMS, digest, claims, now, expires)
        self._evict(_Kind.CLAIMS, size=self._limits.claims_bytes)

    async def claims(self, digest: str, *, now: datetime) -> str | None:
        return self._get(_Kind.CLAIMS, digest, now)

    def release(self, now: datetime) -> None:
        """Release the memory of what has expired, and of what is too much for all workers."""
        for kind in _Kind:
            self._own.discard_expired(kind, now.timestamp())
        self._evict(_Kind.CHALLENGE, rows=self._limits.challenges)
        self._evict(_Kind.TOKEN, size=self._limits.token_bytes)
        self._evict(_Kind.CLAIMS, size=self._limits.claims_bytes)
        self._evict_sessions(now)
        self._own.release_if_empty()

    def close(self) -> None:
        """Close the memory; later calls fail."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    def _put(self, kind: _Kind, name: str, text: str, now: datetime, expires: datetime) -> None:
        self._require_open()
        own = self._own
        own.discard_expired(kind, now.timestamp())
        own.discard_later(kind, (expires + MAX_AHEAD).timestamp())
        own.put(kind, self._identity(kind, name), text.encode(), expires.timestamp())

    def _get(self, kind: _Kind, name: str, now: datetime) -> str | None:
        self._require_open()
        identity = self._identity(kind, name)
        for region in self._regions:
            place = region.find(identity)
            if place is not None and place.record.expires > now.timestamp():
                content = region.read(place)
                if content is not None:
                    return content.decode("utf-8", "replace")
        return None

    def _find(self, kind: _Kind, identity: bytes) -> Place | None:
        own = self._own.find(kind, identity)
        if own is not None:
            return own
        found = (region.find(identity) for region in self._others)
        return next((place for place in found if place is not None), None)

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of unanswered challenges and of tokens, of all workers."""
        return self._totals(_Kind.CHALLENGE)[0], self._totals(_Kind.TOKEN)[0]

    def _totals(self, kind: _Kind) -> tuple[int, int]:
        totals = [region.totals(kind) for region in self._regions]
        return sum(rows for rows, _ in totals), sum(size for _, size in totals)

    def _evict(self, kind: _Kind, *, rows: int | None = None, size: int | None = None) -> None:
        """Evict own entries, the oldest first, until all workers have at most this many."""
        parts = len(self._regions)
        while True:
            all_rows, all_size = self._totals(kind)
            own_rows, own_size = self._own.region.totals(kind)
            too_many = rows is not None and all_rows > rows and own_rows * parts > rows
            if not too_many and (size is None or all_size <= size or own_size * parts <= size):
                return
            self._own.remove_oldest(kind)

    def _evict_sessions(self, now: datetime) -> None:
        """Enforce the limit of sessions; evict unanswered challenges before tokens."""
        self._own.discard_expired(_Kind.TOKEN, now.timestamp())
        tokens, _ = self._totals(_Kind.TOKEN)
        self._evict(_Kind.CHALLENGE, rows=max(self._limits.sessions - tokens, 0))
        challenges, _ = self._totals(_Kind.CHALLENGE)
        self._evict(_Kind.TOKEN, rows=self._limits.sessions - challenges)

    def _identity(self, kind: _Kind, name: str) -> bytes:
        text = f"{kind.value} {name}".encode("utf-8", "replace")
        return hashlib.blake2b(text, digest_size=ID_BYTES, key=self._key).digest()

    @contextmanager
    def _locked(self, identity: bytes) -> Iterator[bool]:
        """Lock a record among all workers; yield False if another worker has locked it.

        A record's lock is one byte of the file at an offset that follows from its identity; the
        file need not have that byte. 62 bits make it practically certain that no other record has
        the same one.
        """
        self._require_open()
        offset = int.from_bytes(identity[:8]) >> 2
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except BlockingIOError:
            yield False
            return
        except OSError as error:  # ENOLCK: too many locks
            raise StorageError(f"the sessions cannot be used: {error.strerror}") from error
        try:
            yield True
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)

    def _require_open(self) -> None:
        if self._closed:
            raise StorageError("the sessions cannot be used: their store is closed")


class _OwnEntries:
    """Entries of this worker's region, in the order of their expiry, and its free blocks.

    Everything but the region itself is private to this worker.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        self._entries = {kind: OrderedDict[bytes, Place]() for kind in _Kind}
        self._sizes = dict.fromkeys(_Kind, 0)
        self._generation = 0
        self._free: list[int] = []
        self._unused = 0
        """First block that was never used."""
        self._take_over()

    def find(self, kind: _Kind, identity: bytes) -> Place | None:
        return self._entries[kind].get(identity)

    def put(self, kind: _Kind, identity: bytes, content: bytes, expires: float) -> None:
        """Store an entry in place of that with the same identity, if any.

        If there is no space, the oldest challenges are evicted, then the oldest entries of its
        kind. An entry that is too large for the region is not stored.
        """
        self.remove(kind, identity)
        needed = blocks_of(len(content))
        while len(self._free) + self.region.blocks - self._unused < needed:
            evicted = _Kind.CHALLENGE if self._entries[_Kind.CHALLENGE] else kind
            if not self._entries[evicted]:
                return
            self.remove_oldest(evicted)
        way = self.region.free_way(identity)
        if way is None:
            first = min(self.region.of_set(identity), key=lambda place: place.record.expires)
            self.remove(_Kind(first.record.kind), first.record.identity)
            way = self.region.free_way(identity)
        if way is None:
            raise StorageError("the sessions cannot be used: their index is damaged")
        self._generation = self._generation % (_MAX_GENERATION - 1) + 1
        record = Record(identity, expires, self._generation, len(content), kind)
        blocks = [self._take_block() for _ in range(needed)]
        self.region.write(record, content, blocks, way)
        self._entries[kind][identity] = Place(self.region, blocks[0], record)
        self._count(kind, len(content))

    def remove(self, kind: _Kind, identity: bytes) -> None:
        place = self._entries[kind].pop(identity, None)
        if place is not None:
            for block in self.region.remove(place):
                heapq.heappush(self._free, block)
            self._count(kind, -place.record.size)

    def remove_oldest(self, kind: _Kind) -> None:
        self.remove(kind, next(iter(self._entries[kind])))

    def discard_expired(self, kind: _Kind, now: float) -> None:
        entries = self._entries[kind]
        while entries and next(iter(entries.values())).record.expires <= now:
            self.remove_oldest(kind)

    def discard_later(self, kind: _Kind, latest: float) -> None:
        """Discard entries that expire later than `latest`, which a wrong clock stored."""
        entries = self._entries[kind]
        while entries and next(iter(entries.values())).record.expires > latest:
            self.remove_oldest(kind)

    def release_if_empty(self) -> None:
        """Give the memory of the blocks back if there are no entries."""
        if self._unused and not any(self._entries.values()):
            self._free.clear()
            self._unused = 0
            self.region.release()

    def _take_block(self) -> int:
        """Return a free block, the lowest one, so that few pages of memory are used."""
        if self._free:
            return heapq.heappop(self._free)
        self._unused += 1
        return self._unused - 1

    def _count(self, kind: _Kind, size: int) -> None:
        self._sizes[kind] += size
        self.region.set_totals(kind, len(self._entries[kind]), self._sizes[kind])

    def _take_over(self) -> None:
        """Continue with the entries of the worker that had this region before."""
        used: set[int] = set()
        for place in sorted(self.region.all(), key=lambda place: place.record.expires):
            kind = _Kind(place.record.kind)
            if self.region.is_taken(place):
                self.region.remove(place)
                continue
            used.update(self.region.chain(place))
            self._entries[kind][place.record.identity] = place
            self._sizes[kind] += place.record.size
            self._generation = max(self._generation, place.record.generation)
        self._unused = max(used, default=-1) + 1
        self._free = sorted(set(range(self._unused)) - used)
        for kind in _Kind:
            self._count(kind, 0)
