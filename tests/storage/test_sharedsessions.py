"""Session store in shared memory: several workers, and those that replace others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from tests.conformance.sessions import END, NOW, name
from tests.support.workers import Worker, worker
from verdictd_py.errors import StorageError
from verdictd_py.ports.sessions import DEFAULT_LIMITS, SessionLimits
from verdictd_py.storage import sharedrecords, sharedsessions
from verdictd_py.storage.sharedsessions import SharedSessionStore

WORKERS = 2

Open = Callable[..., SharedSessionStore]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open the store of a worker, by its number and limits, in the memory of this test."""
    memory: dict[SessionLimits, int] = {}
    stores: list[SharedSessionStore] = []

    def open_store(number: int, limits: SessionLimits = DEFAULT_LIMITS) -> SharedSessionStore:
        if limits not in memory:
            memory[limits] = sharedsessions.create(WORKERS, limits)
        stores.append(SharedSessionStore(os.dup(memory[limits]), number, limits))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
    for descriptor in memory.values():
        os.close(descriptor)


async def test_every_worker_answers_every_session(opened: Open) -> None:
    one, two = opened(0), opened(1)
    long = "k" * 3_000_000
    await one.add_challenge(name(1), "c", now=NOW, expires=END)
    await one.add_token(name(2), "t" * 6000, now=NOW, expires=END)
    await two.add_claims(name(3), long, now=NOW, expires=END)
    for store in (one, two):
        assert await store.token(name(2), now=NOW) == "t" * 6000
        assert await store.claims(name(3), now=NOW) == long
    assert await two.take_challenge(name(1), now=NOW) == "c"
    assert await one.take_challenge(name(1), now=NOW) is None
    assert await two.take_challenge(name(1), now=NOW) is None


async def test_a_challenge_that_another_worker_took_is_removed_when_it_expires(
    opened: Open,
) -> None:
    one, two = opened(0), opened(1)
    await one.add_challenge(name(1), "c", now=NOW, expires=END)
    assert await two.take_challenge(name(1), now=NOW) == "c"
    one.release(END)
    assert one._totals(sharedsessions._Kind.CHALLENGE) == (0, 0)


async def test_the_mark_of_a_former_record_does_not_take_the_next_one(opened: Open) -> None:
    """A worker may be about to mark a record whose block is used again at that moment."""
    one, two = opened(0), opened(1)
    await one.add_challenge(name(1), "c", now=NOW, expires=END)
    place = two._find(
        sharedsessions._Kind.CHALLENGE, two._identity(sharedsessions._Kind.CHALLENGE, name(1))
    )
    assert place is not None
    assert await one.take_challenge(name(1), now=NOW) == "c"
    await one.add_challenge(name(2), "d", now=NOW, expires=END)  # in the same block
    assert place.region.read(place) is None
    place.region.mark_taken(place)
    assert await two.take_challenge(name(2), now=NOW) == "d"


async def test_limits_apply_to_all_workers_together(opened: Open) -> None:
    limits = SessionLimits(challenges=6, sessions=8, token_bytes=1000, claims_bytes=1000)
    stores = opened(0, limits), opened(1, limits)
    for number in range(20):
        expires = END + timedelta(seconds=number)
        await stores[number % 2].add_challenge(name(number), "c", now=NOW, expires=expires)
        await stores[number % 2].add_token(name(number), "t" * 100, now=NOW, expires=expires)
        await stores[number % 2].add_claims(name(number), "k" * 200, now=NOW, expires=expires)
    for kind, rows, size in ((0, 0, 0), (1, 8, 800), (2, 5, 1000)):
        assert stores[0]._totals(sharedsessions._Kind(kind)) == (rows, size)


async def test_a_worker_with_many_entries_evicts_none_of_the_others(opened: Open) -> None:
    limits = SessionLimits(challenges=6, sessions=100)
    one, two = opened(0, limits), opened(1, limits)
    for number in range(3):
        await one.add_challenge(name(number), "c", now=NOW, expires=END)
    for number in range(10, 40):
        await two.add_challenge(name(number), "c", now=NOW, expires=END)
    assert one._totals(sharedsessions._Kind.CHALLENGE)[0] == 6
    for number in range(3):
        assert await two.take_challenge(name(number), now=NOW) == "c"


async def test_a_worker_whose_part_became_too_large_evicts_when_it_releases(
    opened: Open,
) -> None:
    limits = SessionLimits(challenges=6, sessions=100)
    one, two = opened(0, limits), opened(1, limits)
    for number in range(6):
        await one.add_challenge(name(number), "c", now=NOW, expires=END)
    for number in range(10, 13):
        await two.add_challenge(name(number), "c", now=NOW, expires=END)
    one.release(NOW)
    assert one._totals(sharedsessions._Kind.CHALLENGE)[0] == 6
    assert await two.take_challenge(name(0), now=NOW) is None
    assert await two.take_challenge(name(5), now=NOW) == "c"


async def test_a_replacement_takes_over_what_its_predecessor_stored(opened: Open) -> None:
    one, two = opened(0), opened(1)
    for number in range(50):
        await one.add_challenge(name(number), f"c{number}", now=NOW, expires=END)
        await one.add_token(name(number), f"t{number}" * 1000, now=NOW, expires=END)
    await one.take_challenge(name(0), now=NOW)
    await two.take_challenge(name(1), now=NOW)
    await one.add_claims(name(3), "k", now=NOW, expires=END - timedelta(minutes=1))
    replacement = opened(0)
    for number in range(2):
        assert await replacement.take_challenge(name(number), now=NOW) is None
    for number in range(100, 150):
        await replacement.add_token(name(number), f"t{number}" * 1000, now=NOW, expires=END)
    for number in (*range(50), *range(100, 150)):
        assert await two.token(name(number), now=NOW) == f"t{number}" * 1000
        if 2 <= number < 50:
            assert await two.take_challenge(name(number), now=NOW) == f"c{number}"
    replacement.release(END)
    assert replacement._totals(sharedsessions._Kind.TOKEN) == (0, 0)
    assert replacement._own._unused == 0


async def test_a_full_set_of_the_index_evicts_its_first_to_expire(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharedrecords, "SETS", 1)
    store = opened(0)
    for number in range(sharedrecords.WAYS + 2):
        expires = END + timedelta(seconds=number)
        await store.add_token(name(number), f"{number}", now=NOW, expires=expires)
    tokens = [await store.token(name(number), now=NOW) for number in range(sharedrecords.WAYS + 2)]
    assert tokens == [None, None, *(str(number) for number in range(2, sharedrecords.WAYS + 2))]


async def test_entries_that_fill_the_region_displace_challenges_first(opened: Open) -> None:
    limits = SessionLimits(challenges=4, sessions=10, token_bytes=100_000, claims_bytes=0)
    store = opened(0, limits)
    space = store._own.region.blocks * sharedrecords.BLOCK_BYTES
    await store.add_challenge(name(1), "c", now=NOW, expires=END)
    await store.add_token(name(2), "t" * 60_000, now=NOW, expires=END)
    await store.add_claims(name(3), "k" * (space - 70_000), now=NOW, expires=END)
    await store.add_token(name(4), "t" * 40_000, now=NOW, expires=END)
    assert await store.token(name(4), now=NOW) is not None
    await store.add_token(name(5), "t" * (space + 1), now=NOW, expires=END)
    assert await store.token(name(5), now=NOW) is None


def resident(descriptor: int) -> int:
    """Return the bytes of memory that a descriptor's file takes."""
    return os.fstat(descriptor).st_blocks * 512


async def test_memory_is_given_back_when_everything_has_expired(opened: Open) -> None:
    store = opened(0)
    before = resident(store._descriptor)
    for number in range(500):
        await store.add_token(name(number), "t" * 6000, now=NOW, expires=END)
    assert resident(store._descriptor) - before > 3_000_000
    store.release(END)
    assert resident(store._descriptor) - before < 2_000_000  # the index stays
    await store.add_token(name(1), "t" * 6000, now=END, expires=END + timedelta(minutes=5))
    assert await store.token(name(1), now=END) == "t" * 6000


async def test_many_sessions_take_as_much_memory_as_those_of_five_minutes(opened: Open) -> None:
    store = opened(0)
    sizes = []
    for minute in range(20):
        now = NOW + timedelta(minutes=minute)
        for number in range(100):
            each = name(1000 * minute + number)
            expires = now + timedelta(minutes=5)
            await store.add_challenge(each, "c" * 300, now=now, expires=expires)
            await store.take_challenge(each, now=now)
            await store.add_token(each, "t" * 6000, now=now, expires=expires)
        sizes.append(store._own._unused)
    assert len(set(sizes[5:])) == 1


async def test_a_closed_store_refuses_every_call(opened: Open) -> None:
    store = opened(0)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        await store.token(name(1), now=NOW)
    with pytest.raises(StorageError, match="closed"):
        await store.take_challenge(name(1), now=NOW)
    with pytest.raises(StorageError, match="closed"):
        await store.add_token(name(1), "t", now=NOW, expires=END)


@pytest.fixture
async def processes() -> AsyncIterator[tuple[Worker, Worker, int]]:
    memory = sharedsessions.create(WORKERS)
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(worker("sessions", (memory,), 0)),
            await stack.enter_async_context(worker("sessions", (memory,), 1)),
            memory,
        )
    os.close(memory)


Processes = tuple[Worker, Worker, int]


async def test_only_one_of_two_processes_takes_a_challenge(processes: Processes) -> None:
    one, two, _ = processes
    for number in range(400):
        await processes[number % 2]("add_challenge", number, str(number))  # type: ignore[operator]
    taken = await asyncio.gather(one("take_all", 400), two("take_all", 400))
    texts = [text for of_one in taken for text in of_one if text is not None]
    assert sorted(texts) == sorted(str(number) for number in range(400))


async def test_sessions_outlast_a_process_that_is_killed(processes: Processes) -> None:
    one, two, memory = processes
    await one("add_challenge", 1, "c")
    await one("add_token", 2, "t" * 6000)
    assert await two("take", 1) == "c"
    await one.kill()
    assert await two("token", 2) == "t" * 6000
    async with worker("sessions", (memory,), 0) as replacement:
        assert await replacement("take", 1) is None
        assert await replacement("token", 2) == "t" * 6000


async def test_a_lock_of_another_process_means_that_it_takes_the_challenge(
    processes: Processes,
) -> None:
    one, two, memory = processes
    await one("add_challenge", 1, "c")
    mine = SharedSessionStore(os.dup(memory), 0)
    with mine._locked(mine._identity(sharedsessions._Kind.CHALLENGE, name(1))) as locked:
        assert locked
        assert await two("take", 1) is None
    assert await two("take", 1) == "c"
    mine.close()


def test_the_memory_has_no_name_in_any_file_system(opened: Open) -> None:
    store = opened(0)
    target = Path(f"/proc/self/fd/{store._descriptor}").readlink()
    assert str(target).startswith("/memfd:")
