"""Cache and service client of collateral, with a real HTTP server that fails in many ways."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.support.clock import elapse_until, until
from tests.support.collateral import (
    CRL,
    LIFETIME,
    NOW,
    QE,
    REQUEST,
    ROOT,
    TCB,
    MemoryStore,
    Place,
    running_place,
)
from tests.support.pccs import running_pccs
from tests.support.verifiers import verified_by
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import CollateralUnavailable
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral import cache as collateral_cache
from verdictd_py.tees.intel.collateral.cache import MAX_FETCHES
from verdictd_py.tees.intel.collateral.check import Validity
from verdictd_py.tees.intel.collateral.forms import collateral_to_json
from verdictd_py.tees.intel.collateral.http import bounded_get
from verdictd_py.tees.intel.collateral.pauses import FIRST_BACK_OFF, LONGEST_BACK_OFF
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.tdx.verifier import TdxVerifier


def believe(collateral: Collateral) -> Validity:
    del collateral
    return Validity(NOW, NOW, 0)


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    async with running_place() as running:
        yield running


async def test_one_fetch_serves_a_thousand_guests(place: Place) -> None:
    """A thousand guests of one platform type cause one request of each type."""
    found = await asyncio.gather(*(place.get() for _ in range(1000)))
    assert place.pccs.asked == {CRL: 1, TCB: 1, QE: 1, ROOT: 1}
    assert {id(each[0]) for each in found} == {id(found[0][0])}
    assert found[0][0].tcb_info == place.pccs.platform.collateral(NOW).tcb_info


async def test_a_thousand_guests_of_one_platform_are_verified_by_one_fetch(place: Place) -> None:
    """Each guest has its own quote and key, and the service is slow."""
    platform = place.pccs.platform
    verifier = TdxVerifier(place.cache, root_ca_der=platform.root_ca_der)
    quotes = [platform.quote(number.to_bytes(64, "big")) for number in range(1000)]
    place.pccs.stalled = True
    guests = [
        asyncio.create_task(verified_by(verifier, Evidence("tdx", quote, None, "test"), now=NOW))
        for quote in quotes
    ]
    await until(lambda: place.pccs.asked)
    assert not any(guest.done() for guest in guests)
    place.pccs.go_on.set()
    found = await asyncio.gather(*guests)
    assert [int.from_bytes(each.report_data, "big") for each in found] == list(range(1000))
    assert place.pccs.asked == {CRL: 1, TCB: 1, QE: 1, ROOT: 1}


async def test_a_restart_causes_no_request(place: Place) -> None:
    before = await place.get()
    place.pccs.asked.clear()
    assert await place.restarted().get() == before
    assert not place.pccs.asked


async def test_an_overwritten_file_is_not_used(place: Place) -> None:
    (good,) = await place.get()
    (name,) = place.store.files
    for bad in (
        b"{",
        collateral_to_json(dataclasses.replace(good, tcb_info=good.tcb_info + " ")).encode(),
        collateral_to_json(SimulatedPlatform.create(now=NOW).collateral(NOW)).encode(),
    ):
        place.store.files[name] = bad
        place.pccs.asked.clear()
        place.events.events.clear()
        assert len(await place.restarted().get()) == 1
        assert place.pccs.asked[TCB] == 1
        assert place.events.named("collateral.unreadable")


async def test_it_is_renewed_early_while_guests_are_served_from_the_cache(place: Place) -> None:
    (first,) = await place.get()
    place.later(NOW + LIFETIME * 0.9)
    place.pccs.stalled = True
    (second,) = await place.get()  # at once, although the service does not answer
    assert second is first
    place.pccs.go_on.set()
    await place.cache.renew_due()
    (third,) = await place.get()
    assert third is not first
    assert place.pccs.asked[TCB] == 2


async def test_a_guest_starts_the_renewal_that_is_due(place: Place) -> None:
    """The guest does not wait for it, and the next guests do not start another one."""
    (first,) = await place.get()
    place.later(NOW + LIFETIME * 0.9)
    for _ in range(3):
        assert await place.get() == (first,)
    await asyncio.gather(*place.cache._fetches._tasks.values())
    assert place.pccs.asked[TCB] == 2
    assert await place.get() != (first,)


async def test_the_size_of_the_cache_is_limited(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.get()
    monkeypatch.setattr(collateral_cache, "MAX_PLATFORMS", 1)
    place.cache._cached[CollateralRequest("tdx", "0" * 12, "platform")] = place.cache._cached.pop(
        REQUEST
    )
    with pytest.raises(CollateralUnavailable, match="the cache has too many platform types"):
        await place.get()
    assert len(place.cache._cached) == 1


async def test_brokers_do_not_renew_at_the_same_time(place: Place) -> None:
    chance = random.Random(7)  # noqa: S311  # a test's choice
    moments = set()
    for _ in range(20):
        cache = place.restarted(chance=chance.uniform).cache
        await cache.candidates(REQUEST, None)
        moments.add(cache._cached[REQUEST].renew_at)
    assert len(moments) == 20
    assert min(moments) > NOW + LIFETIME * 0.4
    assert max(moments) < NOW + LIFETIME * 0.9


def flipped(body: bytes) -> bytes:
    """Return the body with another last byte."""
    return body[:-1] + bytes((body[-1] ^ 1,))


BROKEN: dict[str, Callable[[str, PcsAnswer], PcsAnswer]] = {
    "500": lambda path, answer: PcsAnswer(500),
    "429": lambda path, answer: PcsAnswer(429, {"retry-after": "60"}),
    "garbage": lambda path, answer: PcsAnswer(200, answer.headers, b"\xff\x00{"),
    "empty": lambda path, answer: PcsAnswer(200),
    "no headers": lambda path, answer: PcsAnswer(200, {}, answer.body),
    "redirect": lambda path, answer: PcsAnswer(302, {"location": "http://127.0.0.1:9/"}),
    "huge": lambda path, answer: PcsAnswer(200, answer.headers, bytes(3 * 1024 * 1024)),
    "padded": lambda path, answer: dataclasses.replace(
        answer, body=answer.body + b" " * (3 * 1024 * 1024 if path == TCB else 0)
    ),
    "changed text": lambda path, answer: dataclasses.replace(
        answer, body=answer.body.replace(b'"UpToDate"', b'"UpToDatE"')
    ),
    "changed signature": lambda path, answer: dataclasses.replace(
        answer, body=answer.body[:-4] + b'00"}' if path == TCB else answer.body
    ),
    "changed list": lambda path, answer: dataclasses.replace(
        answer, body=flipped(answer.body) if path == CRL else answer.body
    ),
    "another chain": lambda path, answer: dataclasses.replace(
        answer, headers=dict.fromkeys(answer.headers, "-----BEGIN CERTIFICATE-----")
    ),
}


@pytest.mark.parametrize("how", BROKEN)
class TestServiceThatFails:
    async def test_invalid_answers_are_not_cached_and_valid_collateral_is_served(
        self, place: Place, how: str
    ) -> None:
        (first,) = await place.get()
        stored = dict(place.store.files)
        place.pccs.change = BROKEN[how]
        place.later(NOW + LIFETIME * 0.9)
        await place.cache.renew_due()
        assert await place.get() == (first,)
        assert place.store.files == stored
        (event,) = place.events.named("collateral.not-renewed")
        expected = 60 if how == "429" else FIRST_BACK_OFF.total_seconds()
        assert event["again_after_seconds"] == expected

    async def test_with_an_empty_cache_the_guest_has_to_try_again(
        self, place: Place, how: str
    ) -> None:
        place.pccs.change = BROKEN[how]
        with pytest.raises(CollateralUnavailable):
            await place.get()
        brought = place.pccs.platform.collateral(NOW)
        assert await place.get(brought) == (brought,)
        assert not place.store.files


async def lying(place: Place, platform: SimulatedPlatform) -> None:
    """The answers are for another platform or another time, and are not cached."""
    stored = dict(place.store.files)
    (first,) = await place.get()
    place.pccs.platform = platform
    place.later(NOW + LIFETIME * 0.9)
    await place.cache.renew_due()
    assert await place.get() == (first,)
    assert place.events.named("collateral.not-renewed")
    assert place.store.files == stored


async def test_levels_older_than_the_cached_ones_are_refused(place: Place) -> None:
    """A service could send what Intel signed before the last TCB recovery."""
    await place.get()
    await lying(place, place.pccs.platform.with_options(PlatformOptions(tcb_evaluation_number=16)))


async def test_collateral_of_another_root_is_refused(place: Place) -> None:
    await place.get()
    await lying(place, SimulatedPlatform.create(now=NOW))


async def test_collateral_of_another_platform_type_is_refused(place: Place) -> None:
    other = CollateralRequest("tdx", "00906ea10000", "platform")

    def same_for_all(path: str, answer: PcsAnswer) -> PcsAnswer:
        good = place.pccs.platform.collateral(NOW)
        if path != TCB:
            return answer
        body = f'{{"tcbInfo":{good.tcb_info},"signature":"{good.tcb_info_signature.hex()}"}}'
        chain = "".join(
            line.replace("\n", "%0A")
            for line in good.tcb_info_issuer_chain.splitlines(keepends=True)
        )
        return PcsAnswer(200, {"TCB-Info-Issuer-Chain": chain}, body.encode())

    place.pccs.change = same_for_all
    with pytest.raises(CollateralUnavailable, match="another FMSPC"):
        await place.cache.candidates(other, None)


async def test_collateral_signed_with_a_revoked_certificate_is_refused(place: Place) -> None:
    place.pccs.platform = place.pccs.platform.with_options(PlatformOptions(pck_ca_revoked=True))
    with pytest.raises(CollateralUnavailable, match="revoked"):
        await place.get()


async def test_a_minimum_evaluation_number_can_be_required(place: Place) -> None:
    assert len(await place.restarted(minimum_evaluation=17).get()) == 1
    with pytest.raises(CollateralUnavailable, match="at least 18"):
        await place.restarted(minimum_evaluation=18).get()


async def test_a_failed_service_is_not_queried_again_at_once(place: Place) -> None:
    """Negative caching with back-off: 5 s, doubled up to 5 minutes."""
    place.pccs.change = BROKEN["500"]
    pauses = []
    for _ in range(9):
        with pytest.raises(CollateralUnavailable):
            await place.get()
        asked = place.pccs.asked.total()
        for _ in range(20):
            with pytest.raises(CollateralUnavailable):
                await place.get()
        assert place.pccs.asked.total() == asked
        pauses.append(place.events.named("collateral.not-renewed")[-1]["again_after_seconds"])
        place.monotonic.now += float(str(pauses[-1]))
    assert pauses[:3] == [5, 10, 20]
    assert pauses[-1] == LONGEST_BACK_OFF.total_seconds()
    place.pccs.change = lambda path, answer: answer
    assert len(await place.get()) == 1


async def test_slow_answers_are_aborted(place: Place) -> None:
    place.pccs.stalled = True
    waiting = asyncio.create_task(place.make().candidates(REQUEST, None))
    await until(lambda: place.pccs.asked)
    await elapse_until(waiting.done)
    with pytest.raises(CollateralUnavailable, match="within"):
        await waiting


async def test_endless_answers_are_aborted(place: Place) -> None:
    place.pccs.endless = True
    with pytest.raises(CollateralUnavailable, match="more than"):
        await place.make().candidates(REQUEST, None)


async def test_the_next_service_is_queried_if_one_fails(place: Place) -> None:
    async with running_pccs(place.pccs.platform) as second:
        second.clock = place.clock
        place.pccs.change = BROKEN["500"]
        cache = place.make(urls=("http://127.0.0.1:9", place.pccs.url, second.url + "/"))
        assert len(await cache.candidates(REQUEST, None)) == 1
        assert second.asked[TCB] == 1


@pytest.mark.parametrize("how", ["changed text", "another chain", "older levels", "another root"])
async def test_the_next_service_is_queried_if_an_answer_does_not_verify(
    place: Place, how: str
) -> None:
    """An answer that does not verify counts as none."""
    await place.get()
    async with running_pccs(place.pccs.platform) as second:
        second.clock = place.clock
        if how == "older levels":
            older = PlatformOptions(tcb_evaluation_number=16)
            place.pccs.platform = place.pccs.platform.with_options(older)
        elif how == "another root":
            place.pccs.platform = SimulatedPlatform.create(now=NOW)
        else:
            place.pccs.change = BROKEN[how]
        root = second.platform.root_ca_der
        cache = place.make(urls=(place.pccs.url, second.url), root_ca_der=root)
        place.later(NOW + LIFETIME * 0.9)
        (kept,) = await cache.candidates(REQUEST, None)
        await cache.renew_due()
        (found,) = await cache.candidates(REQUEST, None)
        assert found is not kept
        assert second.asked[TCB] == 1
        assert not place.events.named("collateral.not-renewed")


async def test_stored_collateral_is_renewed_before_a_guest_needs_it(place: Place) -> None:
    """After a restart without guests, the first guest must not get expired collateral."""
    await place.get()
    place.pccs.asked.clear()
    again = place.restarted()
    place.later(NOW + LIFETIME * 0.9)
    place.store.files["notes.txt"] = b"of somebody's"
    await again.cache.restore()
    await again.cache.renew_due()
    assert place.pccs.asked[TCB] == 1
    assert not place.events.named("collateral.unreadable")


async def test_expired_collateral_is_available_for_a_grace_period_after_a_restart(
    place: Place,
) -> None:
    (first,) = await place.get()
    place.later(NOW + LIFETIME + timedelta(hours=1))
    place.pccs.change = BROKEN["500"]
    assert await place.restarted().get() == (first,)
    (name,) = place.store.files
    changed = dataclasses.replace(first, tcb_info=first.tcb_info.replace("UpToDate", "Revoked"))
    place.store.files[name] = collateral_to_json(changed).encode()
    with pytest.raises(CollateralUnavailable):  # ended, and not what Intel signed either
        await place.restarted().get()


async def test_expired_collateral_is_returned_before_that_of_the_guest(place: Place) -> None:
    """The verifier refuses it with its own reason; the guest's collateral comes after it."""
    (first,) = await place.get()
    place.later(NOW + LIFETIME * 1.1)
    place.pccs.change = BROKEN["500"]
    assert await place.get() == (first,)
    brought = place.pccs.platform.collateral(place.clock.now)
    assert await place.get(brought) == (first, brought)


async def test_guests_of_too_many_platform_types_have_to_try_again(place: Place) -> None:
    place.pccs.stalled = True
    requests = [CollateralRequest("tdx", f"{n:012x}", "platform") for n in range(MAX_FETCHES)]
    waiting = [asyncio.create_task(place.cache.candidates(each, None)) for each in requests]
    while len(place.cache._fetches) < MAX_FETCHES:  # noqa: ASYNC110  # no event says so
        await asyncio.sleep(0)
    with pytest.raises(CollateralUnavailable, match="too many"):
        await place.get()
    place.pccs.go_on.set()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_guest_that_disconnects_does_not_cancel_the_fetch_of_others(place: Place) -> None:
    place.pccs.stalled = True
    leaving, staying = (asyncio.create_task(place.get()) for _ in range(2))
    await until(lambda: place.pccs.asked)
    leaving.cancel()
    place.pccs.go_on.set()
    assert len(await staying) == 1
    assert place.pccs.asked[CRL] == 1


class Gate:
    """Store whose reads wait until the test opens it."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.reading, self.open = asyncio.Event(), asyncio.Event()
        self.reads = 0

    async def names(self) -> tuple[str, ...]:
        return await self._store.names()

    async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
        return await self._store.states(names)

    async def load(self, name: str) -> bytes | None:
        self.reads += 1
        self.reading.set()
        await self.open.wait()
        return await self._store.load(name)

    async def save(self, name: str, content: bytes) -> None:
        await self._store.save(name, content)

    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        await self._store.update(name, change)


class TestGuestsTogetherAfterARestart:
    """The collateral is on disk, and the service does not answer."""

    @pytest_asyncio.fixture
    async def gate(self, place: Place) -> Gate:
        await place.get()
        place.pccs.change = BROKEN["500"]
        place.pccs.asked.clear()
        gate = Gate(place.store)
        place.store = gate  # type: ignore[assignment]  # the same port
        place.cache = place.make()
        return gate

    async def test_all_guests_are_served_by_one_read_of_the_file(
        self, place: Place, gate: Gate
    ) -> None:
        guests = [asyncio.create_task(place.get()) for _ in range(5)]
        await gate.reading.wait()
        gate.open.set()
        found = await asyncio.gather(*guests)
        assert len({id(collateral) for (collateral,) in found}) == 1
        assert gate.reads == 1
        assert not place.pccs.asked

    async def test_the_first_that_disconnects_does_not_fail_the_others(
        self, place: Place, gate: Gate
    ) -> None:
        first, *others = (asyncio.create_task(place.get()) for _ in range(5))
        await gate.reading.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open.set()
        found = await asyncio.gather(*others)
        assert len({id(collateral) for (collateral,) in found}) == 1
        assert gate.reads == 1
        assert not place.pccs.asked

    async def test_the_renewal_does_not_hide_the_file_from_guests(
        self, place: Place, gate: Gate
    ) -> None:
        """`restore` reads the same file at the same time."""
        restoring = asyncio.create_task(place.cache.restore())
        await gate.reading.wait()
        guest = asyncio.create_task(place.get())
        await asyncio.sleep(0)  # the guest has looked into the memory
        gate.open.set()
        assert len(await guest) == 1
        await restoring
        assert not place.pccs.asked

    async def test_guests_that_wait_when_the_broker_stops_get_an_error(
        self, place: Place, gate: Gate
    ) -> None:
        """If they were cancelled, the log would not have the reason."""
        guest = asyncio.create_task(place.get())
        await gate.reading.wait()
        await place.cache.stop()
        with pytest.raises(CollateralUnavailable, match="stopping"):
            await guest


async def test_an_internal_error_of_a_renewal_is_recorded_and_not_repeated_at_once(
    place: Place,
) -> None:
    """No guest waits for a renewal, so nothing else would ever report it."""
    asked = 0

    async def broken(request: CollateralRequest, check: Any) -> Any:
        nonlocal asked
        asked += 1
        raise KeyError("secret text")

    (first,) = await place.get()
    place.later(NOW + LIFETIME * 0.9)
    place.cache._fetch = broken
    for _ in range(3):
        await place.cache.renew_due()
        assert await place.get() == (first,)
    assert asked == 1
    (event,) = place.events.named("collateral.not-renewed")
    assert event["problem"] == "internal error: KeyError"


async def test_the_root_crl_of_intels_service_is_at_the_address_in_the_root(place: Place) -> None:
    """Intel's service has no `rootcacrl`."""
    urls = []

    def without(path: str, answer: PcsAnswer) -> PcsAnswer:
        return PcsAnswer(404) if path == ROOT else answer

    place.pccs.change = without
    get = bounded_get(place.client)

    async def redirected(url: str) -> Any:
        urls.append(url)
        return await get(url.replace("https://pcs.simulated.invalid", place.pccs.url))

    root_key = root_key_digest(place.pccs.platform.root_ca_der)
    service = Pcs(redirected, (place.pccs.url,), root_key=root_key)
    found, _ = await service.fetch(REQUEST, believe)
    assert urls[-1] == place.pccs.platform.options.root_crl_url
    assert json.loads(found.tcb_info)["fmspc"].lower() == REQUEST.fmspc


async def test_a_password_in_a_url_is_redacted(place: Place) -> None:
    place.pccs.change = BROKEN["500"]
    url = place.pccs.url.replace("http://", "http://name:secret@")
    with pytest.raises(CollateralUnavailable) as caught:
        await place.make(urls=(url,)).candidates(REQUEST, None)
    assert "secret" not in str(caught.value) + place.events.text
    crl = f"PCK CRL from {place.pccs.url}{CRL}?ca=platform&encoding=der: HTTP status 500"
    assert crl in str(caught.value)


async def test_early_updates_are_requested(place: Place) -> None:
    asked: list[str] = []
    get = bounded_get(place.client)

    async def noted(url: str) -> Any:
        asked.append(url)
        return await get(url)

    root_key = root_key_digest(place.pccs.platform.root_ca_der)
    service = Pcs(noted, (place.pccs.url,), root_key=root_key, update="early")
    await service.fetch(REQUEST, believe)
    assert [("update=early" in url) for url in asked] == [False, True, True, False]


async def test_a_malicious_service_cannot_choose_the_address_of_the_root_crl(place: Place) -> None:
    """Its own root could name any address that the broker can reach."""
    asked: list[str] = []
    get = bounded_get(place.client)
    place.pccs.change = lambda path, answer: PcsAnswer(404) if path == ROOT else answer

    async def noted(url: str) -> Any:
        asked.append(url)
        return await get(url)

    trusted = root_key_digest(SimulatedPlatform.create(now=NOW).root_ca_der)
    with pytest.raises(CollateralUnavailable, match="trusted root"):
        await Pcs(noted, (place.pccs.url,), root_key=trusted).fetch(REQUEST, believe)
    assert all(url.startswith(place.pccs.url) for url in asked)


async def test_valid_collateral_is_served_while_too_many_fetches_run(place: Place) -> None:
    (first,) = await place.get()
    place.later(NOW + LIFETIME * 0.9)
    place.pccs.stalled = True
    requests = [CollateralRequest("tdx", f"{n:012x}", "platform") for n in range(MAX_FETCHES)]
    waiting = [asyncio.create_task(place.cache.candidates(each, None)) for each in requests]
    await until(lambda: len(place.cache._fetches) == MAX_FETCHES)
    assert await place.get() == (first,)
    renewal = asyncio.create_task(place.cache.renew_due())
    await elapse_until(renewal.done)
    await renewal
    place.pccs.go_on.set()
    await asyncio.gather(*waiting, return_exceptions=True)
