"""Services and clocks that make the broker fetch too much, too slowly, or never again."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from tests.support.collateral import LIFETIME, NOW, REQUEST, ROOT, TCB, Place, running_place
from tests.support.pccs import running_pccs
from verdictd_py.errors import CollateralUnavailable
from verdictd_py.ports.tees import HttpAnswer
from verdictd_py.simulator import SimulatedPlatform, pcs_answer
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.http import SubscriptionKey, bounded_get
from verdictd_py.tees.intel.collateral.pauses import FIRST_BACK_OFF, RENEWAL_PAUSE
from verdictd_py.tees.intel.collateral.pcs import MAX_RETRY_AFTER_SECONDS, Pcs, retry_after

KEY = "0123456789abcdef"


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    async with running_place() as running:
        yield running


async def test_a_clock_that_is_ahead_for_a_moment_does_not_stop_fetches(place: Place) -> None:
    """60 days ahead, every answer is expired. The back-off ended on that day."""
    place.pccs.clock = lambda: NOW
    place.clock.now = NOW + timedelta(days=60)
    with pytest.raises(CollateralUnavailable):
        await place.get()
    place.clock.now = NOW
    place.monotonic.now += FIRST_BACK_OFF.total_seconds()
    assert len(await place.get()) == 1


async def test_a_set_that_is_due_is_not_fetched_again_for_each_guest(place: Place) -> None:
    """A PCCS returns the set of its own cache, which is past half of its validity."""
    place.pccs.clock = lambda: NOW
    place.later(NOW + LIFETIME * 0.9)
    for _ in range(100):
        await place.get()
        await place.cache.renew_due()
    assert place.pccs.asked[TCB] == 1
    place.monotonic.now += RENEWAL_PAUSE.total_seconds()
    await place.cache.renew_due()
    assert place.pccs.asked[TCB] == 2


async def test_the_pause_after_a_success_ends_before_the_collateral(place: Place) -> None:
    place.pccs.clock = lambda: NOW
    place.later(NOW + LIFETIME - timedelta(minutes=10))
    await place.get()
    for seconds, fetches in ((299, 1), (2, 2)):  # half of the remaining time is paused
        place.monotonic.now += seconds
        await place.cache.renew_due()
        assert place.pccs.asked[TCB] == fetches


async def test_the_four_parts_are_fetched_at_the_same_time() -> None:
    """Four slow answers must not add up: a guest waits for them."""
    platform = SimulatedPlatform.create(now=NOW)
    together = asyncio.Barrier(4)

    async def get(url: str) -> HttpAnswer:
        await together.wait()
        answer = pcs_answer(platform, url.removeprefix("https://pccs.test"), NOW)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return HttpAnswer(answer.status, headers, answer.body)

    service = Pcs(get, ("https://pccs.test",), root_key=root_key_digest(platform.root_ca_der))
    async with asyncio.timeout(10):
        collateral, _ = await service.fetch(REQUEST, lambda collateral: None)  # type: ignore[arg-type,return-value]  # not used
    assert collateral.pck_crl


class TestRetryAfter:
    """A service that requests a pause, with status 429 or 503."""

    def busy(self, place: Place, status: int, value: str) -> None:
        date = "Tue, 24 Nov 2026 12:00:00 GMT"
        place.pccs.change = lambda path, answer: PcsAnswer(
            status, {"Retry-After": value, "Date": date}
        )

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize("value", ["90", "Tue, 24 Nov 2026 12:01:30 GMT"])
    async def test_it_is_respected(self, place: Place, status: int, value: str) -> None:
        self.busy(place, status, value)
        with pytest.raises(CollateralUnavailable, match="requests a pause of 90 s"):
            await place.get()
        asked = place.pccs.asked.total()
        place.pccs.change = lambda path, answer: answer
        place.monotonic.now += 89
        with pytest.raises(CollateralUnavailable):
            await place.get()
        assert place.pccs.asked.total() == asked
        assert place.events.named("collateral.not-renewed")[-1]["again_after_seconds"] == 90
        place.monotonic.now += 1
        assert len(await place.get()) == 1

    async def test_it_is_respected_for_every_platform_type(self, place: Place) -> None:
        self.busy(place, 429, "90")
        for fmspc in ("50806f000000", "00906ed10000"):
            request = dataclasses.replace(REQUEST, fmspc=fmspc)
            asked = place.pccs.asked.total()
            with pytest.raises(CollateralUnavailable):
                await place.cache.candidates(request, None)
        assert place.pccs.asked.total() == asked

    async def test_another_service_is_queried_meanwhile(self, place: Place) -> None:
        self.busy(place, 429, "90")
        async with running_pccs(place.pccs.platform) as second:
            second.clock = place.clock
            cache = place.make(urls=(place.pccs.url, second.url))
            assert len(await cache.candidates(REQUEST, None)) == 1

    async def test_it_is_bounded(self, place: Place) -> None:
        """A malicious service could otherwise stop fetches for ever."""
        self.busy(place, 429, "99999999999999999999")
        with pytest.raises(CollateralUnavailable):
            await place.get()
        place.pccs.change = lambda path, answer: answer
        place.monotonic.now += MAX_RETRY_AFTER_SECONDS
        assert len(await place.get()) == 1

    @pytest.mark.parametrize("value", ["", "-1", "soon", "1.5", "²", "0", "Tue, 24 Nov 2026"])
    def test_values_that_request_no_pause(self, value: str) -> None:
        assert retry_after({"retry-after": value, "date": "Tue, 24 Nov 2026 12:00:00 GMT"}) == 0


class TestSubscriptionKey:
    """The key is a secret between the operator and one service."""

    def sent(self, headers: list[str]) -> list[bool]:
        return [KEY in head for head in headers]

    async def test_it_is_sent_to_its_own_service(self, place: Place) -> None:
        cache = place.make(key=SubscriptionKey(place.pccs.url, KEY))
        await cache.candidates(REQUEST, None)
        assert self.sent(place.pccs.headers) == [True] * 4

    async def test_it_is_not_sent_to_the_next_service(self, place: Place) -> None:
        async with running_pccs(place.pccs.platform) as second:
            second.clock = place.clock
            place.pccs.change = lambda path, answer: PcsAnswer(500)
            key = SubscriptionKey(place.pccs.url, KEY)
            cache = place.make(urls=(place.pccs.url, second.url), key=key)
            await cache.candidates(REQUEST, None)
            assert self.sent(second.headers) == [False] * 4

    async def test_it_does_not_follow_a_redirect(self, place: Place) -> None:
        async with running_pccs(place.pccs.platform) as other:
            place.pccs.change = lambda path, answer: PcsAnswer(302, {"Location": other.url + path})
            async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
                place.client = client
                cache = place.make(key=SubscriptionKey(place.pccs.url, KEY))
                with pytest.raises(CollateralUnavailable, match="status 302"):
                    await cache.candidates(REQUEST, None)
            assert other.headers == []

    async def test_it_is_not_sent_to_the_address_in_the_root_certificate(
        self, place: Place
    ) -> None:
        """The root CRL of Intel's service is on another host."""
        get = bounded_get(place.client, key=SubscriptionKey("https://api.test", KEY))
        await get(place.pccs.url + ROOT)
        assert self.sent(place.pccs.headers) == [False]

    @pytest.mark.parametrize(
        ("url", "same"),
        [
            ("https://pccs.test/other?x=1", True),
            ("https://PCCS.test:443/", True),
            ("http://pccs.test/", False),
            ("https://pccs.test:8443/", False),
            ("https://pccs.test.evil.test/", False),
            ("https://pccs.test@evil.test/", False),
        ],
    )
    def test_scheme_host_and_port_make_the_origin(self, url: str, same: bool) -> None:
        assert bool(SubscriptionKey("https://pccs.test/sgx", KEY).headers(url)) is same

    def test_it_is_not_in_a_repr(self) -> None:
        assert KEY not in repr(SubscriptionKey("https://pccs.test", KEY))


class TestCompression:
    """Nested gzip expanded 2.6 KB to 3 GB, and stalled the broker for 35 s."""

    @pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br", "IDENTITY, gzip"])
    async def test_a_compressed_answer_is_refused(self, place: Place, encoding: str) -> None:
        body = gzip.compress(gzip.compress(bytes(3_000_000)))
        place.pccs.change = lambda path, answer: PcsAnswer(
            200, {**answer.headers, "Content-Encoding": encoding}, body
        )
        with pytest.raises(CollateralUnavailable, match="the answer is compressed"):
            await place.get()

    async def test_only_identity_is_requested(self, place: Place) -> None:
        await place.get()
        assert all("accept-encoding: identity\r\n" in head.lower() for head in place.pccs.headers)

    async def test_bytes_on_the_wire_are_counted(self, place: Place) -> None:
        place.pccs.change = lambda path, answer: dataclasses.replace(
            answer, body=answer.body + b" " * 1024 * 1024
        )
        with pytest.raises(CollateralUnavailable, match="more than 1048576 bytes"):
            await place.get()
