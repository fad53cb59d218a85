"""Limit of the bytes that the connections of a listener hold together, divided among owners.

A connection that may hold no more is not read until others have released bytes. No connection is
closed for its bytes. The time limits of requests end connections that send slowly on purpose.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from verdictd_py.listeners.census import ListenerCensus, Region

MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Maximum number of bytes that all connections of a listener hold, without the allowance below."""

READ_BYTES: Final = 16 * 1024
"""Largest read from a socket."""

ALLOWANCE_BYTES: Final = 2 * READ_BYTES
"""Number of bytes that a connection may always hold. Most requests are shorter, and are never
delayed."""

_UNPROVEN_PART: Final = 4
"""Connections without evidence or a valid session hold at most a quarter of the bytes."""


class Buffers:
    """Counter of held bytes by owner.

    An owner may hold as many bytes as are free (the "dynamic threshold" of switches with shared
    memory, Choudhury and Hahne 1998). So one owner has at most half of all bytes, two a third
    each, and there are always free bytes for another one.

    Attributes:
        total: number of held bytes.
    """

    def __init__(self, most: int = MEMORY_BYTES) -> None:
        self._most = most
        self._owners: Counter[str] = Counter()
        self._unproven = 0
        self._waiting: dict[Callable[[], None], tuple[Held, int]] = {}
        self._scheduled = False
        self.total = 0

    def fits(self, held: Held, size: int) -> bool:
        """Return whether a connection may hold `size` bytes more."""
        if held.size + size <= ALLOWANCE_BYTES:
            return True
        if not held.proven and self._unproven_bytes() + size > self._most // _UNPROVEN_PART:
            return False
        return self._bytes_of(held.owner) + size <= self._most - self._all_bytes()

    def change(self, held: Held, size: int) -> None:
        """Count `size` more bytes, or fewer, of a connection."""
        held.size += size
        self.total += size
        self._owners[held.owner] += size
        if not self._owners[held.owner]:
            del self._owners[held.owner]
        if not held.proven:
            self._unproven += size
        if size < 0 and self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def wait(self, held: Held, size: int, wake: Callable[[], None]) -> None:
        """Call `wake` once, when a connection may hold `size` bytes more."""
        self._waiting[wake] = (held, size)

    def forget(self, wake: Callable[[], None]) -> None:
        self._waiting.pop(wake, None)

    def _wake(self) -> None:
        """Wake the connections that may hold more: those with evidence first, then by age."""
        self._scheduled = False
        order = sorted(self._waiting.items(), key=lambda item: not item[1][0].proven)
        granted: Counter[str] = Counter()
        free = self._most - self._all_bytes()
        for wake, (held, size) in order:
            if size > free:
                return
            if self.fits(held, size + granted[held.owner]):
                granted[held.owner] += size
                free -= size
                del self._waiting[wake]
                wake()

    def _all_bytes(self) -> int:
        return self.total

    def _unproven_bytes(self) -> int:
        return self._unproven

    def _bytes_of(self, owner: str) -> int:
        return self._owners[owner]


class SharedBuffers(Buffers):
    """Counter of the bytes that the connections of all workers hold together.

    A worker in which a connection waits is woken when another worker releases bytes.

    Attributes:
        total: number of bytes that this worker holds.
    """

    def __init__(self, census: ListenerCensus, most: int = MEMORY_BYTES) -> None:
        super().__init__(most)
        self._census = census
        self._region = census.own
        self._announced = False
        census.subscribe(self._wake)

    def change(self, held: Held, size: int) -> None:
        super().change(held, size)
        totals = self._region.totals
        totals[Region.BYTES] = self.total
        totals[Region.UNPROVEN_BYTES] = self._unproven
        self._region.bytes[self._census.slot(held.owner)] += size
        if size < 0 and not self._announced and self._census.total(Region.WAITING):
            self._announced = True
            asyncio.get_running_loop().call_soon(self._announce)

    def wait(self, held: Held, size: int, wake: Callable[[], None]) -> None:
        super().wait(held, size, wake)
        self._region.totals[Region.WAITING] = 1
        if self.fits(held, size):  # another worker has released bytes since the caller's check
            asyncio.get_running_loop().call_soon(self._wake)

    def forget(self, wake: Callable[[], None]) -> None:
        super().forget(wake)
        self._region.totals[Region.WAITING] = int(bool(self._waiting))

    def _wake(self) -> None:
        super()._wake()
        self._region.totals[Region.WAITING] = int(bool(self._waiting))

    def _announce(self) -> None:
        """Wake the other workers in which connections wait, once for a round of the loop."""
        self._announced = False
        for worker, region in enumerate(self._census.regions):
            if worker != self._census.worker and region.totals[Region.WAITING]:
                self._census.wake(worker)

    def _all_bytes(self) -> int:
        return self._census.total(Region.BYTES)

    def _unproven_bytes(self) -> int:
        return self._census.total(Region.UNPROVEN_BYTES)

    def _bytes_of(self, owner: str) -> int:
        slot = self._census.slot(owner)
        return sum([region.bytes[slot] for region in self._census.regions])


class Held:
    """Bytes that one connection holds.

    Attributes:
        size: their number.
        owner: address or platform by which they are counted.
        proven: whether the connection has sent evidence or a valid session.
    """

    __slots__ = ("_buffers", "owner", "proven", "size")

    def __init__(self, buffers: Buffers, owner: str) -> None:
        self._buffers = buffers
        self.owner = owner
        self.proven = False
        self.size = 0

    def count(self, owner: str, *, proven: bool) -> None:
        """Count the bytes under another owner from now on."""
        size = self.size
        self.set(0)
        self.owner, self.proven = owner, proven
        self.set(size)

    def add(self, size: int) -> None:
        self._buffers.change(self, size)

    def set(self, size: int) -> None:
        if size != self.size:
            self._buffers.change(self, size - self.size)

    def fits(self) -> bool:
        """Return whether the connection may be read once more."""
        return self._buffers.fits(self, READ_BYTES)

    def wait(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, when the connection may be read once more."""
        self._buffers.wait(self, READ_BYTES, wake)

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call `wake` any more."""
        self._buffers.forget(wake)

    async def room(self) -> None:
        """Wait until the connection may be read once more. The caller sets a time limit."""
        while not self.fits():
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(ready: asyncio.Future[None] = ready) -> None:
                if not ready.done():
                    ready.set_result(None)

            self.wait(wake)
            try:
                await ready
            finally:
                self.forget(wake)
