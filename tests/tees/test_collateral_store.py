"""The stored sets of the cache: a store that fails, and what the operator learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from tests.support.clock import elapse, until
from tests.support.collateral import (
    LIFETIME,
    NOW,
    REQUEST,
    TCB,
    MemoryStore,
    Place,
    running_place,
)
from verdictd_py.domain.events import (
    CollateralNotRenewed,
    CollateralNotStored,
    CollateralRenewed,
    CollateralUnreadable,
)
from verdictd_py.errors import CollateralUnavailable, StorageError
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.tees.intel.collateral.forms import collateral_from_json


@dataclass
class Failing(MemoryStore):
    """Store whose operations can be made to fail."""

    is_readable: bool = True
    is_writable: bool = True
    is_listed: bool = True
    loads: int = 0

    async def names(self) -> tuple[str, ...]:
        if not self.is_listed:
            raise StorageError("the directory is gone")
        return await super().names()

    async def load(self, name: str) -> bytes | None:
        self.loads += 1
        if not self.is_readable:
            raise StorageError("the disk is broken")
        return await super().load(name)

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        if not self.is_writable:
            raise StorageError("the disk is full")
        await super().update(name, change)


@pytest_asyncio.fixture
async def store() -> Failing:
    return Failing()


@pytest_asyncio.fixture
async def place(store: Failing) -> AsyncIterator[Place]:
    async with running_place() as running:
        running.store = store
        yield running.restarted()


async def test_a_store_that_cannot_be_read(place: Place, store: Failing) -> None:
    store.is_readable = False
    assert len(await place.get()) == 1
    problems = {event.problem for event in place.events.of(CollateralUnreadable)}
    assert problems == {"the disk is broken"}


async def test_a_store_that_cannot_be_written(place: Place, store: Failing) -> None:
    store.is_writable = False
    assert len(await place.get()) == 1
    problems = [event.problem for event in place.events.of(CollateralNotStored)]
    assert problems == ["the disk is full"]


async def test_a_stored_set_is_read_again_only_after_it_was_replaced(
    place: Place, store: Failing
) -> None:
    for _ in range(2):
        await place.get()
    before = store.loads
    await place.get()
    assert store.loads == before


async def test_a_stored_set_that_is_not_used_is_named(place: Place, store: Failing) -> None:
    await place.get()
    (name,) = store.files
    store.files[name] = b"{"
    place.events.events.clear()
    await place.restarted().get()
    problem = place.events.of(CollateralUnreadable)[0].problem
    set_of = "the collateral stored for TDX FMSPC 50806f000000 (platform CA)"
    assert problem.startswith(f"{set_of} is not used: ")


async def test_a_stored_set_below_the_required_evaluation_number_is_replaced(
    place: Place, store: Failing
) -> None:
    await place.get()
    platform: SimulatedPlatform = place.pccs.platform
    place.pccs.platform = platform.with_options(replace(platform.options, tcb_evaluation_number=18))
    (found,) = await place.restarted(minimum_evaluation=18).get()
    (text,) = store.files.values()
    assert collateral_from_json(text) == found


async def test_a_renewal_is_recorded(place: Place) -> None:
    await place.get()
    until_when = (NOW + LIFETIME).replace(microsecond=0).isoformat()
    (event,) = place.events.of(CollateralRenewed)
    assert event == CollateralRenewed(
        tee=REQUEST.tee,
        fmspc=REQUEST.fmspc,
        ca=REQUEST.ca,
        until=until_when,
        evaluation=17,
    )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (PcsAnswer(500, {}), "500"),
        (PcsAnswer(429, {}), "429"),
        (PcsAnswer(429, {"Retry-After": "90"}), "requests a pause of 90 s"),
    ],
)
async def test_a_failure_is_recorded_with_what_the_guest_is_told(
    place: Place, answer: PcsAnswer, says: str
) -> None:
    place.pccs.change = lambda path, good: answer
    with pytest.raises(CollateralUnavailable, match=says) as caught:
        await place.get()
    (event,) = place.events.of(CollateralNotRenewed)
    assert event.problem == str(caught.value)
    assert (event.tee, event.fmspc, event.ca) == (REQUEST.tee, REQUEST.fmspc, REQUEST.ca)


async def test_sets_are_renewed_every_minute_even_if_the_store_is_listed_late(
    place: Place, store: Failing
) -> None:
    """A broker without guests would otherwise have expired collateral for the first one."""
    await place.get()
    place.later(NOW + LIFETIME * 0.9)
    place.pccs.asked.clear()
    store.is_listed = False
    again = place.restarted()
    task = asyncio.create_task(again.cache.keep_renewed())
    await elapse(0)
    store.is_listed = True
    await elapse(20)
    assert not place.pccs.asked[TCB]
    await elapse(40)
    await until(lambda: place.pccs.asked[TCB] or task.done())
    assert place.pccs.asked[TCB] == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await again.cache.stop()
