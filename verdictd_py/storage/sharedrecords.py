"""Records in memory that the workers of a broker share; each worker writes its own region only.

A region has an index of 16,384 sets of 8 entries, and blocks of 1 KiB in which the records are
chained. All workers read all regions. There are no locks for that: a record is complete before its
entry in the index is written, and the entry is removed before a block is used again. A reader
checks after reading that the record is still the same; a record that changed meanwhile is missing
for that reader. The contents are sealed, signed, or addressed by their digests anyway.

A reader knows the name of a record only from an answer that was sent after the record was written,
so that the system calls in between order the writes before the reads.

A worker that replaces another one takes over its region with all records.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

BLOCK_BYTES: Final = 1024
SETS: Final = 1 << 14
WAYS: Final = 8
KINDS: Final = 8
"""Maximum number of kinds of records."""

ID_BYTES: Final = 16
MAX_BLOCKS: Final = 1 << 23

_NUMBER: Final = struct.Struct("=I")
_HEADER: Final = struct.Struct(f"=I{ID_BYTES}sdIIB3x")  # the next block, then a `Record`
_FIRST_BYTES: Final = BLOCK_BYTES - _HEADER.size
_NEXT_BYTES: Final = BLOCK_BYTES - _NUMBER.size
_TOTALS_BYTES: Final = 2 * KINDS * 8
_INDEX_BYTES: Final = SETS * WAYS * 8
_BLOCK_BITS: Final = 24
_BLOCK_MASK: Final = (1 << _BLOCK_BITS) - 1
_END: Final = _BLOCK_MASK
"""No block: the end of a chain."""

_EMPTY_ID: Final = bytes(ID_BYTES)


class Record(NamedTuple):
    """Header of a record.

    Attributes:
        identity: keyed digest of the record's type and name.
        expires: seconds since the epoch.
        generation: number of the record among those of its region, from 1.
        size: bytes of the content.
        kind: its kind, from 0.
    """

    identity: bytes
    expires: float
    generation: int
    size: int
    kind: int


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a record: its region and first block."""

    region: Region
    block: int
    record: Record


class Region:
    """Region of one worker. Only that worker calls the methods that write, but `mark_taken`."""

    def __init__(self, memory: mmap.mmap, offset: int, blocks: int) -> None:
        def take(size: int, form: str) -> memoryview[int]:
            nonlocal offset
            taken = memoryview(memory)[offset : offset + size].cast(form)  # type: ignore[call-overload]
            offset += pages(size)
            return memoryview(taken)

        self._memory = memory
        self._totals = take(_TOTALS_BYTES, "Q")
        self._index = take(_INDEX_BYTES, "Q")
        self._taken = take(blocks * _NUMBER.size, "I")
        self._blocks_at = offset
        self.blocks = blocks

    @staticmethod
    def size(blocks: int) -> int:
        """Return the size of a region in bytes."""
        parts = (_TOTALS_BYTES, _INDEX_BYTES, blocks * _NUMBER.size, blocks * BLOCK_BYTES)
        return sum(map(pages, parts))

    def totals(self, kind: int) -> tuple[int, int]:
        """Return the number of records of a kind, and of their bytes."""
        return self._totals[2 * kind], self._totals[2 * kind + 1]

    def set_totals(self, kind: int, rows: int, size: int) -> None:
        self._totals[2 * kind], self._totals[2 * kind + 1] = rows, size

    def find(self, identity: bytes) -> Place | None:
        """Return the place of a record; None if there is none."""
        first, tag = _set_and_tag(identity)
        for entry in self._index[first : first + WAYS].tolist():
            if entry and entry >> _BLOCK_BITS == tag:
                place = self._place(entry & _BLOCK_MASK)
                if place is not None and place.record.identity == identity:
                    return place
        return None

    def read(self, place: Place) -> bytes | None:
        """Return the content of a record; None if the record is no longer the same."""
        content = bytearray()
        for block in self._chain(place):
            skip = _NUMBER.size if content else _HEADER.size
            left = place.record.size - len(content)
            begin = self._at(block) + skip
            content += self._memory[begin : begin + min(left, BLOCK_BYTES - skip)]
        again = self._place(place.block)
        if again != place or len(content) != place.record.size:
            return None
        return bytes(content)

    def is_taken(self, place: Place) -> bool:
        """Return whether a worker has marked the record."""
        return self._taken[place.block] == place.record.generation

    def mark_taken(self, place: Place) -> None:
        """Mark a record as taken; any worker may, while it has the lock of the record.

        If the block is used again by then, the mark has no effect, because it has the generation
        of the former record.
        """
        self._taken[place.block] = place.record.generation

    def free_way(self, identity: bytes) -> int | None:
        """Return the position in the index for a new record; None if its set is full."""
        first, _ = _set_and_tag(identity)
        entries = self._index[first : first + WAYS].tolist()
        return first + entries.index(0) if 0 in entries else None

    def of_set(self, identity: bytes) -> tuple[Place, ...]:
        """Return all records in the set of this identity."""
        first, _ = _set_and_tag(identity)
        return self._places(self._index[first : first + WAYS].tolist())

    def write(self, record: Record, content: bytes, blocks: list[int], way: int) -> None:
        """Write a record.

        Args:
            blocks: free blocks, `blocks_of` the content.
            way: see `free_way`.
        """
        at = 0
        for number, block in enumerate(blocks):
            following = blocks[number + 1] if number + 1 < len(blocks) else _END
            head = _NUMBER.pack(following) if number else _HEADER.pack(following, *record)
            part = head + content[at : at + BLOCK_BYTES - len(head)]
            at += BLOCK_BYTES - len(head)
            begin = self._at(block)
            self._memory[begin : begin + len(part)] = part
        _, tag = _set_and_tag(record.identity)
        self._index[way] = tag << _BLOCK_BITS | blocks[0]

    def remove(self, place: Place) -> list[int]:
        """Remove a record; return its blocks, which are free now."""
        first, tag = _set_and_tag(place.record.identity)
        entry = tag << _BLOCK_BITS | place.block
        entries = self._index[first : first + WAYS].tolist()
        if entry in entries:
            self._index[first + entries.index(entry)] = 0
        blocks = list(self._chain(place))
        _HEADER.pack_into(self._memory, self._at(place.block), _END, _EMPTY_ID, 0.0, 0, 0, 0)
        return blocks

    def all(self) -> tuple[Place, ...]:
        """Return all records."""
        return self._places(self._index.tolist())

    def chain(self, place: Place) -> list[int]:
        """Return the blocks of a record."""
        return list(self._chain(place))

    def release(self) -> None:
        """Give the memory of all blocks back to the kernel; there must be no record."""
        self._memory.madvise(mmap.MADV_REMOVE, self._blocks_at, pages(self.blocks * BLOCK_BYTES))

    def _places(self, entries: list[int]) -> tuple[Place, ...]:
        places = (self._place(entry & _BLOCK_MASK) for entry in entries if entry)
        return tuple(place for place in places if place is not None)

    def _place(self, block: int) -> Place | None:
        if block >= self.blocks:
            return None
        _, *fields = _HEADER.unpack_from(self._memory, self._at(block))
        record = Record(*fields)
        return Place(self, block, record) if record.generation else None

    def _chain(self, place: Place) -> Iterator[int]:
        """Yield the blocks of a record, and no more than its size needs, whatever is read."""
        block = place.block
        for _ in range(blocks_of(place.record.size)):
            if block >= self.blocks:
                return
            yield block
            (block,) = _NUMBER.unpack_from(self._memory, self._at(block))

    def _at(self, block: int) -> int:
        return self._blocks_at + block * BLOCK_BYTES


def blocks_of(size: int) -> int:
    """Return the number of blocks for a content of this size."""
    return 1 + max(-(-(size - _FIRST_BYTES) // _NEXT_BYTES), 0)


def pages(size: int) -> int:
    """Return a size rounded up to whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _set_and_tag(identity: bytes) -> tuple[int, int]:
    """Return the first position of a record's set in the index, and its tag there."""
    return int.from_bytes(identity[:4]) % SETS * WAYS, int.from_bytes(identity[4:9])
