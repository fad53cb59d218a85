"""A cache of collateral over a PCCS on loopback, with clocks that only the test moves."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from tests.support.events import RecordedEvents
from tests.support.pccs import Pccs, running_pccs
from verdictd_py import daemon as app
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.cache import CollateralCache
from verdictd_py.tees.intel.collateral.http import SubscriptionKey, bounded_get
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.port import CollateralRequest

NOW = app.utc_now()
LIFETIME = timedelta(days=30)  # of the simulator's collateral, from the moment of its issue
REQUEST = CollateralRequest("tdx", "50806f000000", "platform")
TCB = "/tdx/certification/v4/tcb"
CRL = "/sgx/certification/v4/pckcrl"
QE = "/tdx/certification/v4/qe/identity"
ROOT = "/sgx/certification/v4/rootcacrl"


@dataclass
class Clock:
    """Clock that only the test moves."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Monotonic:
    """Monotonic clock that only the test moves."""

    now: float = 1000

    def __call__(self) -> float:
        return self.now


@dataclass
class MemoryStore:
    """Port `CollateralStore` that several caches use, like a store after a restart."""

    files: dict[str, bytes] = field(default_factory=dict)

    async def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    async def load(self, name: str) -> bytes | None:
        return self.files.get(name)

    async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
        return tuple(self.files.get(name) for name in names)

    async def save(self, name: str, content: bytes) -> None:
        self.files[name] = content

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        content = change(self.files.get(name))
        if content is not None:
            self.files[name] = content


@dataclass
class Place:
    """A service, a cache over it, and the recorded events."""

    pccs: Pccs
    client: httpx.AsyncClient
    clock: Clock
    store: MemoryStore
    events: RecordedEvents
    cache: CollateralCache
    monotonic: Monotonic = field(default_factory=Monotonic)

    def later(self, moment: datetime) -> None:
        """Move both clocks to a moment."""
        self.monotonic.now += (moment - self.clock.now).total_seconds()
        self.clock.now = moment

    async def get(self, endorsements: Collateral | None = None) -> tuple[Collateral, ...]:
        return await self.cache.candidates(REQUEST, endorsements)

    def restarted(self, **more: Any) -> Place:
        """Return the cache of another broker on the same store."""
        return dataclasses.replace(self, cache=self.make(**more))

    def make(
        self,
        *,
        seconds: float = 60,
        urls: tuple[str, ...] = (),
        key: SubscriptionKey | None = None,
        **more: Any,
    ) -> CollateralCache:
        root = self.pccs.platform.root_ca_der
        service = Pcs(
            bounded_get(self.client, key=key, seconds=seconds),
            urls or (self.pccs.url,),
            root_key=root_key_digest(root),
            monotonic=self.monotonic,
        )
        return CollateralCache(
            service.fetch,
            self.store,
            **{
                "clock": self.clock,
                "monotonic": self.monotonic,
                "events": self.events,
                "root_ca_der": root,
                **more,
            },
        )


@asynccontextmanager
async def running_place() -> AsyncIterator[Place]:
    """Run a PCCS with a cache over it."""
    platform = SimulatedPlatform.create(now=NOW)
    async with (
        running_pccs(platform) as pccs,
        httpx.AsyncClient(trust_env=False, timeout=3600) as client,
    ):
        clock = Clock()
        pccs.clock = clock
        made = Place(pccs, client, clock, MemoryStore(), RecordedEvents(), None)  # type: ignore[arg-type]  # made below
        made.cache = made.make()
        yield made
        await made.cache.stop()
