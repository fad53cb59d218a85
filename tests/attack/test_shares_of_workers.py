"""Attack: peers take all connections of a broker with several workers (see `test_fair_shares`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.support.clock import until
from tests.support.workers import Worker, worker
from verdictd_py.errors import Overloaded
from verdictd_py.listeners import census as module
from verdictd_py.listeners.buffers import ALLOWANCE_BYTES, READ_BYTES, SharedBuffers
from verdictd_py.listeners.census import ASKS, Census
from verdictd_py.listeners.shares import Share, ShareLimits, Shares, Source, source_of

A, B = source_of("192.0.2.1"), source_of("192.0.2.2")


class Workers:
    """The listeners of two workers in one process, whose event loops the test runs."""

    def __init__(self, census: Census, limits: ShareLimits) -> None:
        self.limits = limits
        self.censuses = [Census(census.descriptors, number) for number in range(2)]
        self.shares = [
            Shares(lambda: self.limits, census=one.listener("listen")) for one in self.censuses
        ]
        self.closed: list[str] = []

    def enter(self, number: int, name: str, source: Source = A) -> Share:
        return self.shares[number].enter(source, lambda: self.closed.append(name))

    def round(self, number: int) -> None:
        """Have one worker do what the other one asked for."""
        self.censuses[number]._woken()


@pytest.fixture
def census() -> Iterator[Census]:
    census = Census.create(2)
    yield census
    census.close()


@pytest.fixture
def workers(census: Census) -> Workers:
    return Workers(census, ShareLimits(8, 4, 2))


class TestOneAddress:
    def test_the_oldest_connection_is_closed_whichever_worker_has_it(
        self, workers: Workers
    ) -> None:
        workers.enter(0, "old")
        for number in range(4):
            workers.enter(1, f"new{number}")
        assert workers.closed == []
        workers.round(0)
        assert workers.closed == ["old"]
        workers.enter(0, "last")
        workers.round(1)
        assert workers.closed == ["old", "new0"]

    def test_a_worker_without_connections_of_the_address_closes_none_of_others(
        self, workers: Workers
    ) -> None:
        workers.enter(1, "other", B)
        for number in range(5):
            workers.enter(number % 2, str(number))
        workers.round(0)
        assert workers.closed == ["0"]

    def test_a_connection_that_is_being_closed_counts_no_longer(self, workers: Workers) -> None:
        for number in range(4):
            workers.enter(0, f"old{number}")
        for number in range(3):
            workers.enter(1, f"new{number}")
        workers.round(0)
        assert workers.closed == ["old0", "old1", "old2"]
        assert workers.shares[1]._total == workers.shares[0]._total == 4

    def test_a_worker_that_does_not_answer_is_asked_for_a_limited_number(
        self, census: Census
    ) -> None:
        workers = Workers(census, ShareLimits(100, 2 * ASKS, 100))
        for number in range(2 * ASKS):
            workers.enter(0, f"silent{number}")
        for number in range(3 * ASKS):
            workers.enter(1, f"new{number}")
        assert workers.closed == [f"new{number}" for number in range(2 * ASKS)]
        assert workers.shares[1]._total == 2 * ASKS
        workers.round(0)
        assert workers.closed[2 * ASKS :] == [f"silent{number}" for number in range(ASKS)]
        assert workers.shares[0]._total == 2 * ASKS

    def test_a_connection_with_evidence_is_not_closed_for_another_worker(
        self, workers: Workers
    ) -> None:
        old = workers.enter(0, "old")
        for number in range(4):
            workers.enter(1, f"new{number}")
        old.prove()  # before the worker does what it was asked for
        workers.round(0)
        assert workers.closed == []


class TestAll:
    def test_a_full_listener_closes_the_oldest_of_the_address_with_the_most(
        self, workers: Workers
    ) -> None:
        workers.enter(0, "other", B)
        for number in range(9):
            workers.enter(number % 2, f"c{number}", source_of(f"192.0.2.{3 + number % 3}"))
        workers.round(0)
        workers.round(1)
        assert workers.closed == ["c0", "c1"]

    def test_a_flood_at_one_worker_closes_no_connection_of_another_address(
        self, census: Census
    ) -> None:
        workers = Workers(census, ShareLimits(8, 8, 2))
        workers.enter(0, "genuine", B)
        for number in range(50):
            workers.enter(1, str(number))
            workers.round(0)
        assert "genuine" not in workers.closed
        assert len(workers.closed) == 43

    def test_evidence_and_platforms_are_limited_together(self, workers: Workers) -> None:
        workers.enter(0, "first").attest("platform")
        workers.enter(1, "second").attest("platform")
        for number in range(2):
            third = workers.enter(number, "third")
            with pytest.raises(Overloaded, match="platform"):
                third.attest("platform")
            third.leave()
        for number in range(4):
            workers.enter(number % 2, f"slow{number}", B).prove()
        assert workers.shares[0]._evidence[B] == workers.shares[1]._evidence[B] == 3

    def test_requests_of_a_token_are_limited_together(
        self, workers: Workers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("verdictd_py.listeners.shares.REQUESTS_OF_TOKEN", 1)
        with workers.shares[0].request("token"):
            with (
                pytest.raises(Overloaded, match="token"),
                workers.shares[1].request("token"),
            ):
                pass
            with workers.shares[1].request("another"):
                pass
        with workers.shares[1].request("token"):
            pass

    def test_connections_that_left_count_no_longer(self, census: Census, workers: Workers) -> None:
        for number in range(60):
            share = workers.enter(number % 2, "a", source_of(f"198.51.100.{number}"))
            if number % 3:
                share.prove()
            if number % 3 == 2:
                share.attest(f"platform {number}")
            share.held.add(100)
            share.leave()
        assert workers.closed == []
        assert census.connections("listen") == 0
        assert not any(
            any(table)
            for region in workers.shares[0]._new._census.regions  # type: ignore[attr-defined]
            for table in (region.new, region.evidence, region.platforms, region.oldest)
        )


class TestCensus:
    def test_the_key_is_another_one_for_each_broker(self) -> None:
        slots = set()
        for _ in range(4):
            one = Census.create(1)
            slots.add(Census(one.descriptors, 0).listener("listen").slot("192.0.2.1"))
            one.close()
        assert len(slots) > 1

    def test_addresses_are_spread_over_the_slots(self, census: Census) -> None:
        slot = Census(census.descriptors, 0).listener("listen").slot
        used = {slot(f"198.51.{number // 256}.{number % 256}") for number in range(4096)}
        assert len(used) > 3700  # 3,853 are expected

    def test_the_listeners_are_counted_separately(self, census: Census) -> None:
        one = Census(census.descriptors, 0)
        limits = ShareLimits(8, 4, 2)
        shares = [Shares(lambda: limits, census=one.listener(name)) for name in module.LISTENERS]
        shares[0].enter(A, lambda: None)
        assert [each._total for each in shares] == [1, 0]
        assert [census.connections(name) for name in module.LISTENERS] == [1, 0]

    def test_a_replacement_begins_without_counts_and_is_asked_for_new_ones(
        self, census: Census, workers: Workers
    ) -> None:
        for number in range(4):
            workers.enter(0, f"old{number}")
        for number in range(2):
            workers.enter(1, f"new{number}")  # these ask the first worker, which now ends
        census.clear(0)
        assert workers.shares[1]._total == 2
        workers.censuses[0] = Census(census.descriptors, 0)
        replacement = workers.censuses[0].listener("listen")
        workers.shares[0] = Shares(lambda: workers.limits, census=replacement)
        for number in range(2):
            workers.enter(0, f"next{number}")
        workers.round(0)
        assert workers.closed == []
        workers.enter(0, "last")
        workers.round(1)
        assert workers.closed == ["new0"]


class TestBytes:
    def test_bytes_of_all_workers_are_limited_together(self, census: Census) -> None:
        workers = Workers(census, ShareLimits(100, 100, 100))
        for number, one in enumerate(workers.shares):
            one.buffers._most = 160 * READ_BYTES
            assert isinstance(one.buffers, SharedBuffers)
            share = workers.enter(number, "a")
            share.attest(f"platform {number}")
            while share.held.fits():
                share.held.add(READ_BYTES)
            assert share.held.size == (80, 40)[number] * READ_BYTES
        unproven = workers.enter(1, "b", B)
        unproven.held.add(ALLOWANCE_BYTES)
        assert unproven.held.fits()

    async def test_a_connection_that_waits_continues_when_another_worker_releases(
        self, census: Census
    ) -> None:
        workers = Workers(census, ShareLimits(100, 100, 100))
        for one in workers.shares:
            one.buffers._most = 6 * READ_BYTES
        for each in workers.censuses:
            each.start()
        full, waiting = workers.enter(0, "full"), workers.enter(1, "waiting", B)
        full.prove()
        waiting.prove()
        full.held.add(6 * READ_BYTES)
        waiting.held.add(2 * READ_BYTES)
        room = asyncio.create_task(waiting.held.room())
        await asyncio.sleep(0)
        assert not room.done()
        full.leave()
        await room
        for each in workers.censuses:
            each.stop()


@pytest.fixture
async def processes(census: Census) -> AsyncIterator[tuple[Worker, Worker]]:
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(worker("connections", census.descriptors, 0)),
            await stack.enter_async_context(worker("connections", census.descriptors, 1)),
        )


class TestProcesses:
    async def test_limits_apply_to_all_together(
        self, census: Census, processes: tuple[Worker, Worker]
    ) -> None:
        await processes[0]("enter", "old", "192.0.2.1")
        for number in range(40):
            process = processes[1 if number < 20 else number % 2]
            assert await process("enter", f"{number}", "192.0.2.1") == ""
        assert (await processes[0]("closed"))[0] == "old"
        # The last connection may have asked the other process, which closes it in its next round.
        await until(lambda: census.connections("listen") == 4)

    async def test_a_process_that_ended_leaves_no_counts(
        self, census: Census, processes: tuple[Worker, Worker]
    ) -> None:
        for number in range(2):
            await processes[0]("enter", f"{number}", "192.0.2.1")
            await processes[0]("attest", f"{number}", "platform")
        assert await processes[1]("enter", "third", "192.0.2.1") == ""
        assert "platform" in await processes[1]("attest", "third", "platform")
        await processes[0].kill()
        census.clear(0)
        assert await processes[1]("attest", "third", "platform") == ""
        assert await processes[1]("total") == 1
