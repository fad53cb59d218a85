"""A guest that cannot be judged when it connects, and attackers that use the same outage.

The real eaa_kbc connects once in its lifetime: it must not be disconnected because the PCCS does
not respond for some minutes. The same outage must not be a way to fill the broker.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.attack.test_internal_errors import limited
from tests.support.broker import IDLE_SECONDS, KEY, KID, REQUEST_SECONDS, RunningBroker
from tests.support.broker import running_broker as running
from tests.support.channel import (
    answer,
    answer_to_silence,
    encoded,
    nothing_stays,
    rest,
    send_records,
    store,
)
from tests.support.clock import elapse, elapse_until, until
from tests.support.pccs import Pccs, running_pccs
from tests.support.verdict import verdict
from verdictd_py.broker.connected import CHECK_SECONDS, RETRY_SECONDS
from verdictd_py.daemon import collateral as collateral_service
from verdictd_py.formats.collateral import Collateral
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.listeners.buffers import READ_BYTES
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.tees.intel.collateral.cache import CollateralCache

POLICY = "opa/tdxPolicy.rego"
DENY_ALL = b"package policy\n\ndefault allow = false\n"
CONNECTIONS = 8
DAY = 86_400.0


async def served(guest: GuestConnection) -> None:
    assert (await guest.keks([KID]))[KID].reveal() == KEY


async def not_judged(guest: GuestConnection, code: str = "policy-unavailable") -> None:
    with pytest.raises(BrokerRefused, match=f"not judged: {code}; try again later"):
        await guest.keks([KID])


class Outage:
    """A broker whose policy was removed; `end` restores it, or stores another one."""

    def __init__(self, broker: RunningBroker) -> None:
        self._broker = broker
        self._policy = (broker.data / POLICY).read_bytes()
        (broker.data / POLICY).unlink()

    async def end(self, policy: bytes = b"", *, noticed: bool = True) -> None:
        """End the outage. By default the broker notices that at once, without any request."""
        store(self._broker, POLICY, policy or self._policy)
        if noticed:
            await self._broker.daemon.reload()


@asynccontextmanager
async def pending(broker: RunningBroker, **more: Any) -> AsyncIterator[GuestConnection]:
    """A guest that was not judged when it connected, and has sent no request."""
    before = len(broker.events.named("guest.not-judged"))
    async with broker.guest(**more) as guest:
        await until(lambda: len(broker.events.named("guest.not-judged")) > before)
        await elapse(0)
        yield guest


class TestOutages:
    async def test_a_guest_waits_for_a_service_that_does_not_respond(
        self, tmp_path: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()
        timed = partial(CollateralCache, monotonic=loop.time)
        monkeypatch.setattr(collateral_service, "CollateralCache", timed)
        async with running_pccs(platform) as pccs:
            pccs.change = lambda path, answer: PcsAnswer(500)
            settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
            async with running(tmp_path, platform, **settings) as broker, broker.guest() as guest:
                for _ in range(2):
                    await not_judged(guest, "collateral-unavailable")
                await ended(pccs, broker)
                await served(guest)
                assert not broker.events.named("guest.refused", "guest.disconnected")

    async def test_a_guest_waits_for_a_policy_that_cannot_be_read(
        self, broker: RunningBroker
    ) -> None:
        outage = Outage(broker)
        async with broker.guest() as guest:
            for _ in range(2):
                await not_judged(guest)
            await outage.end(noticed=False)
            await served(guest)

    async def test_a_guest_waits_for_the_audit_trail(self, broker: RunningBroker) -> None:
        async with broker.guest() as guest:
            with limited(resource.RLIMIT_FSIZE, 0):
                await not_judged(guest, "audit-unavailable")
            await elapse(RETRY_SECONDS)
            await served(guest)

    async def test_the_guest_cannot_cause_an_appraisal_with_each_request(
        self, broker: RunningBroker
    ) -> None:
        Outage(broker)
        async with broker.guest() as guest:
            for _ in range(5):
                await not_judged(guest)
            (one,) = broker.attested._guests._guests.values()
            began = one.began
            await not_judged(guest)
            assert one.began == began
        assert len(broker.events.named("guest.not-judged")) == 1

    async def test_a_silent_guest_waits_for_a_day(self, broker: RunningBroker) -> None:
        outage = Outage(broker)
        async with pending(broker) as guest:
            for _ in range(24):
                await elapse(DAY / 24)
            await outage.end()
            await served(guest)
        assert not broker.events.named("connection.timeout", "guest.disconnected")

    async def test_an_operator_sees_and_disconnects_it(self, broker: RunningBroker) -> None:
        Outage(broker)
        async with pending(broker) as guest:
            listed = await verdict(broker, "guest", "list", "connected", "--json")
            (one,) = listed.items
            assert (one["standing"], one["code"]) == ("not appraised", "policy-unavailable")
            assert (await verdict(broker, "guest", "disconnect", one["id"])).status == 0
            assert await rest(guest) == b""
        assert [event["guest"] for event in broker.events.named("guest.disconnected")] == [
            one["id"]
        ]

    async def test_a_drain_does_not_wait_for_it(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        async with running(tmp_path, platform) as broker:
            Outage(broker)
            async with pending(broker) as guest:
                await broker.daemon.stop()
                assert await rest(guest) == b""


async def ended(pccs: Pccs, broker: RunningBroker) -> None:
    """The service responds again, and the broker has noticed that by itself."""
    pccs.change = lambda path, answer: answer
    await elapse_until(lambda: broker.events.named("guest.accepted"), step=CHECK_SECONDS)


class TestVerdicts:
    async def test_it_is_refused_at_its_next_request(self, broker: RunningBroker) -> None:
        outage = Outage(broker)
        async with broker.guest() as guest:
            await not_judged(guest)
            await outage.end(DENY_ALL, noticed=False)
            with pytest.raises(BrokerRefused, match="refused: policy-refused; ask the operator"):
                await guest.keks([KID])
            assert await rest(guest) == b""
        await nothing_stays(broker)
        (event,) = broker.events.named("guest.disconnected")
        assert event["reason"] == "refused: policy-refused"
        assert not broker.events.named("guest.accepted", "secret.released")

    async def test_it_is_disconnected_as_soon_as_it_is_refused(self, broker: RunningBroker) -> None:
        """It sends nothing: otherwise an attacker would occupy a connection for ever."""
        outage = Outage(broker)
        async with pending(broker) as guest:
            await outage.end(DENY_ALL)
            found = await answer(guest)
            assert found["status"] == "Fail"
            assert "refused: policy-refused" in str(found)
            assert await rest(guest) == b""
        await nothing_stays(broker)
        assert len(broker.events.named("guest.disconnected")) == 1

    async def test_of_requests_in_one_record_none_is_answered_after_the_refusal(
        self, broker: RunningBroker
    ) -> None:
        outage = Outage(broker)
        async with pending(broker) as guest:
            await outage.end(DENY_ALL, noticed=False)
            await send_records(guest, encoded({"command": "Get KEK", "kids": [KID]}) * 3)
            assert json.loads(await rest(guest))["status"] == "Fail"

    async def test_an_accepted_guest_is_refused_at_its_next_request_as_any_other(
        self, broker: RunningBroker
    ) -> None:
        outage = Outage(broker)
        async with pending(broker) as guest:
            await outage.end()
            await until(lambda: broker.events.named("guest.accepted"))
            await outage.end(DENY_ALL)
            await until(lambda: broker.events.named("guest.refused"))
            await elapse(0)
            assert broker.attested._tasks  # as its answer must have the form of its request
            await outage.end()
            await served(guest)


class OfAnotherGuest:
    """Genuine evidence, of a guest with another key."""

    def __init__(self, platform: SimulatedPlatform) -> None:
        self._platform = platform

    def quote(self, report_data: bytes) -> bytes:
        del report_data
        return self._platform.quote(b"\x01" * 64)

    def endorsements(self, now: datetime) -> Collateral | None:
        del now
        return None


class TestAttackers:
    async def test_evidence_of_another_guest_does_not_stay(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        """The binding is checked although nothing can be verified."""
        async with running_pccs(platform) as pccs:
            pccs.change = lambda path, answer: PcsAnswer(500)
            settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
            async with running(tmp_path, platform, **settings) as broker:
                async with broker.guest(OfAnotherGuest(platform)) as guest:
                    refused = await answer_to_silence(guest)
                    assert "not judged: collateral-unavailable" in str(refused)
                    assert await rest(guest) == b""
                await nothing_stays(broker)
                assert not broker.attested._guests._guests

    async def test_a_certificate_without_evidence_does_not_stay(
        self, broker: RunningBroker
    ) -> None:
        Outage(broker)
        context = broker.context(None)
        with pytest.raises(BrokerRefused):
            async with GuestConnection.open(*broker.address, context) as guest:
                await guest.version()
        await nothing_stays(broker)

    @pytest.mark.broker(max_connections=CONNECTIONS)
    async def test_the_oldest_is_closed_when_there_are_too_many(
        self, broker: RunningBroker
    ) -> None:
        async with broker.guest() as accepted, AsyncExitStack() as stack:
            await served(accepted)
            outage = Outage(broker)
            guests = [
                await stack.enter_async_context(pending(broker)) for _ in range(CONNECTIONS - 1)
            ]
            assert len(broker.attested._tasks) == CONNECTIONS
            last = await stack.enter_async_context(pending(broker))
            assert await rest(guests[0]) == b""
            (event,) = broker.events.named("connection.refused")
            assert "this was the oldest without evidence" in str(event["reason"])
            await outage.end()
            for guest in (accepted, last):
                await served(guest)

    @pytest.mark.broker(max_connections=200, max_unattested_per_address=2)
    async def test_limits_of_an_address_hold_until_it_is_accepted(
        self, broker: RunningBroker
    ) -> None:
        outage = Outage(broker)
        async with pending(broker) as first, pending(broker) as second, pending(broker) as third:
            assert await rest(first) == b""
            await outage.end()
            await until(lambda: broker.attested.shares._platforms.total == 2)
            async with broker.guest() as fourth, broker.guest() as fifth:
                for guest in (second, third, fourth, fifth):
                    await served(guest)

    @pytest.mark.broker(max_connections_per_platform=2)
    async def test_guests_over_the_limit_of_their_platform_wait_on(
        self, broker: RunningBroker
    ) -> None:
        outage = Outage(broker)
        async with pending(broker) as first, pending(broker) as second, pending(broker) as third:
            await outage.end()
            await until(lambda: broker.attested.shares._platforms.total == 2)
            for guest in (first, second):
                await served(guest)
            await not_judged(third, "no-capacity")
            first._close()
            await until(lambda: broker.attested.shares._platforms.total == 1)
            await elapse(RETRY_SECONDS)
            await served(third)

    async def test_its_evidence_counts_as_held_until_it_is_accepted(
        self, broker: RunningBroker
    ) -> None:
        """As bytes without evidence: all of them together hold a quarter of the memory."""
        outage = Outage(broker)
        buffers = broker.attested.shares.buffers
        async with pending(broker) as guest:
            assert buffers.total == buffers._unproven > 4000
            await not_judged(guest)
            await elapse(0)
            assert buffers.total == buffers._unproven > 4000
            await outage.end()
            await served(guest)
            await elapse(0)
            assert buffers.total == buffers._unproven == 0

    async def test_requests_of_pending_guests_hold_a_bounded_number_of_bytes(
        self, broker: RunningBroker
    ) -> None:
        """They begin requests of 600 KB and end none."""
        most = 800_000
        buffers = broker.attested.shares.buffers
        buffers._most = most
        Outage(broker)
        async with AsyncExitStack() as stack:
            guests = [await stack.enter_async_context(pending(broker)) for _ in range(4)]
            for guest in guests:
                guest._session.write(b'{"command":"version","x":"' + b"x" * 600_000)
                guest._writer.write(guest._session.outgoing())
            await until(lambda: buffers.total >= most // 4 - 2 * READ_BYTES)
            await elapse(0)
            assert buffers.total <= most // 4 + 5 * 2 * READ_BYTES
            await elapse(REQUEST_SECONDS)
            await until(lambda: len(broker.events.named("connection.timeout")) == len(guests))
        assert IDLE_SECONDS > REQUEST_SECONDS
        assert buffers.total == 0
