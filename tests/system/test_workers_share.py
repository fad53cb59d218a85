"""A broker with two workers: one history, one list of guests, one set of sessions and limits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.broker import KEY, RunningBroker
from tests.support.kbs import PATH, SECRET, running_kbs
from tests.support.rcar_guests import attest, connected, tdx_guest
from tests.support.verdict import verdict
from tests.system.test_workers import (
    DENY,
    count,
    guests_of_every_worker,
    happening,
    kek,
    pids,
    records,
)
from verdictd_py.daemon.guestside import SeparateGuests
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import SimulatedPlatform

pytestmark = pytest.mark.broker(workers=2)

Objects = list[dict[str, Any]]


async def listed(broker: RunningBroker, *words: str) -> Objects:
    ended = await verdict(broker, "guest", "list", *words, "--json")
    assert ended.status == 0, ended
    return ended.items


def appraisals(data: Path, event: str) -> dict[str, str]:
    """Return the writer of each record of an event, by the id of its appraisal."""
    return {
        record["fields"]["appraisal"]: writer
        for writer, written in records(data).items()
        for record in written
        if record["event"] == event
    }


async def test_guests_of_all_workers_are_in_one_history(broker: RunningBroker) -> None:
    async with guests_of_every_worker(broker) as guests:
        assert await kek(guests[0]) == KEY
    accepted, counted = appraisals(broker.data, "guest.accepted"), -1
    while counted != len(accepted):  # the last ones are under way
        status = json.loads((await verdict(broker, "status", "--json")).stdout)
        counted = int(status["guests_accepted"])
        accepted = appraisals(broker.data, "guest.accepted")
    assert set(accepted.values()) == {"worker1", "worker2"}
    assert {guest["id"] for guest in await listed(broker, "accepted")} == set(accepted)
    for appraisal in accepted:
        shown = await verdict(broker, "explain", appraisal, "--json")
        assert json.loads(shown.stdout)["id"] == appraisal


async def test_a_refused_guest_of_any_worker_is_explained(broker: RunningBroker) -> None:
    policy = broker.data.parent / "policy.rego"
    policy.write_text(DENY)
    assert (await verdict(broker, "policy", "set", "tdxPolicy.rego", str(policy))).status == 0
    refused: dict[str, str] = {}
    while len(set(refused.values())) < 2:
        with pytest.raises(BrokerRefused):
            async with broker.guest() as guest:
                await kek(guest)
        refused = appraisals(broker.data, "guest.refused")
    last = ""
    while last not in refused:
        shown = await verdict(broker, "explain", "--last", "--json")
        last = json.loads(shown.stdout).get("id", "") if shown.status == 0 else ""


async def test_operators_see_and_disconnect_guests_of_every_worker(broker: RunningBroker) -> None:
    async with guests_of_every_worker(broker) as guests:
        await asyncio.gather(*map(kek, guests))
        by_worker = appraisals(broker.data, "guest.accepted")
        assert {guest["id"] for guest in await listed(broker, "connected")} == set(by_worker)
        for worker in ("worker1", "worker2"):
            chosen = next(each for each, writer in by_worker.items() if writer == worker)
            ended = await verdict(broker, "guest", "disconnect", chosen)
            assert ended.status == 0, ended
        (first, second) = broker.events.named("guest.disconnected")
        assert {first["guest"], second["guest"]} <= set(by_worker)
        results = await asyncio.gather(*map(kek, guests), return_exceptions=True)
        assert sum(result != KEY for result in results) == 2
        assert len(await listed(broker, "connected")) == len(guests) - 2
    again = await verdict(broker, "guest", "disconnect", str(first["guest"]))
    assert "no guest with this id is connected" in again.stderr


def separate() -> httpx.AsyncHTTPTransport:
    """A connection for each request, so that several workers serve one session."""
    return httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))


async def test_every_worker_serves_every_session(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_kbs(tmp_path, platform, workers=2) as broker:
        url = broker.daemon.listener("kbs_http").endpoint
        crossed = False
        while not crossed:
            async with connected(url, tdx_guest(platform), transport=separate()) as session:
                await attest(session)
                assert (await session.resource(PATH)).reveal() == SECRET
            accepted = appraisals(broker.data, "guest.accepted")
            released = appraisals(broker.data, "secret.released")
            crossed = any(accepted[each] != released[each] for each in released)


async def test_sessions_outlast_the_worker_that_stored_them(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_kbs(tmp_path, platform, workers=2) as broker:
        url = broker.daemon.listener("kbs_http").endpoint
        async with AsyncExitStack() as stack:
            sessions = []
            while len(+count(broker.data, "guest.accepted")) < 2:
                session = await stack.enter_async_context(
                    connected(url, tdx_guest(platform), transport=separate())
                )
                await attest(session)
                sessions.append(session)
            os.kill(pids(broker)[1], signal.SIGKILL)
            await happening(lambda: len(broker.events.named("worker.started")) == 3)
            for session in sessions:
                assert (await session.resource(PATH)).reveal() == SECRET


@pytest.mark.broker(workers=2, max_connections=20)
async def test_a_flood_of_silent_connections_locks_no_guest_out(broker: RunningBroker) -> None:
    host, port = broker.address
    silent = [await asyncio.open_connection(host, port) for _ in range(100)]
    for _ in range(10):
        async with broker.guest() as guest:
            assert await kek(guest) == KEY
    for _, writer in silent:
        writer.close()


async def test_a_worker_that_ended_leaves_no_connections_in_the_counts(
    broker: RunningBroker,
) -> None:
    census = census_of(broker)
    async with guests_of_every_worker(broker) as guests:
        await asyncio.gather(*map(kek, guests))
        assert census.connections("listen") == len(guests)
        os.kill(pids(broker)[1], signal.SIGKILL)
        await happening(lambda: len(broker.events.named("worker.started")) == 3)
        results = await asyncio.gather(*map(kek, guests), return_exceptions=True)
        left = sum(result == KEY for result in results)
        assert 0 < left < len(guests)
        await happening(lambda: census.connections("listen") == left)
    await happening(lambda: census.connections("listen") == 0)


def census_of(broker: RunningBroker) -> Any:
    """Return the counters of the workers, as the operator process reads them."""
    found = [
        close.__self__  # type: ignore[attr-defined]
        for close in broker.daemon._parts.closing
        if isinstance(getattr(close, "__self__", None), SeparateGuests)
    ]
    return found[0].share._census
