"""Conformance suite of the port `SessionStore`, for each implementation."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from verdictd_py.ports import SessionStore
from verdictd_py.ports.sessions import SessionLimits

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
END = NOW + timedelta(minutes=5)
JUST_BEFORE = END - timedelta(microseconds=1)
SMALL = SessionLimits(challenges=5, sessions=8, token_bytes=1000, claims_bytes=1000)


def name(number: int) -> str:
    return f"{number:064x}"


class SessionStoreConformance(ABC):
    """Suite whose subclasses open a store."""

    @abstractmethod
    async def opened(self, directory: Path, limits: SessionLimits) -> SessionStore:
        """Return a new, empty store, which is closed after the test."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> SessionStore:
        return await self.opened(tmp_path, SessionLimits())

    @pytest.fixture
    async def small(self, tmp_path: Path) -> SessionStore:
        return await self.opened(tmp_path, SMALL)

    async def test_a_challenge_is_taken_once(self, store: SessionStore) -> None:
        await store.add_challenge(name(1), "challenge é", now=NOW, expires=END)
        assert await store.take_challenge(name(1), now=NOW) == "challenge é"
        for _ in range(3):
            assert await store.take_challenge(name(1), now=NOW) is None

    async def test_only_one_of_a_hundred_callers_takes_a_challenge(
        self, store: SessionStore
    ) -> None:
        for number in range(5):
            await store.add_challenge(name(number), f"{number}", now=NOW, expires=END)
        taken = await asyncio.gather(
            *(store.take_challenge(name(number % 5), now=NOW) for number in range(500))
        )
        assert sorted(text for text in taken if text is not None) == ["0", "1", "2", "3", "4"]

    async def test_unknown_names_have_no_entries(self, store: SessionStore) -> None:
        await store.add_challenge(name(1), "challenge", now=NOW, expires=END)
        for unknown in ("", name(2), name(1)[:-1], name(1) + "0", "%", "'; DROP TABLE entries; --"):
            assert await store.take_challenge(unknown, now=NOW) is None
            assert await store.token(unknown, now=NOW) is None
            assert await store.claims(unknown, now=NOW) is None
        assert await store.take_challenge(name(1), now=NOW) == "challenge"

    async def test_challenges_and_tokens_are_not_confused(self, store: SessionStore) -> None:
        await store.add_challenge(name(1), "challenge", now=NOW, expires=END)
        assert await store.token(name(1), now=NOW) is None
        assert await store.claims(name(1), now=NOW) is None
        await store.add_token(name(2), "token", now=NOW, expires=END)
        assert await store.take_challenge(name(2), now=NOW) is None
        assert await store.token(name(2), now=NOW) == "token"
        await store.add_claims(name(3), "claims", now=NOW, expires=END)
        assert await store.token(name(3), now=NOW) is None
        assert await store.claims(name(3), now=NOW) == "claims"

    async def test_everything_expires(self, store: SessionStore) -> None:
        for when, there in ((NOW, True), (JUST_BEFORE, True), (END, False)):
            await store.add_challenge(name(1), "challenge", now=NOW, expires=END)
            await store.add_token(name(2), "token", now=NOW, expires=END)
            await store.add_claims(name(3), "claims", now=NOW, expires=END)
            assert (await store.take_challenge(name(1), now=when) is not None) is there
            assert (await store.token(name(2), now=when) is not None) is there
            assert (await store.claims(name(3), now=when) is not None) is there

    async def test_an_expired_challenge_is_removed_when_it_is_taken(
        self, store: SessionStore
    ) -> None:
        await store.add_challenge(name(1), "challenge", now=NOW, expires=END)
        assert await store.take_challenge(name(1), now=END) is None
        assert await store.take_challenge(name(1), now=NOW) is None

    async def test_a_token_is_read_many_times(self, store: SessionStore) -> None:
        await store.add_challenge(name(1), "challenge", now=NOW, expires=END)
        assert await store.take_challenge(name(1), now=NOW)
        await store.add_token(name(1), "a.b.c", now=NOW, expires=END)
        for _ in range(3):
            assert await store.token(name(1), now=NOW) == "a.b.c"
        assert await store.take_challenge(name(1), now=NOW) is None

    async def test_claims_are_stored_until_their_last_expiry(self, store: SessionStore) -> None:
        later = END + timedelta(minutes=4)
        await store.add_claims(name(1), "claims", now=NOW, expires=END)
        await store.add_claims(name(1), "claims", now=JUST_BEFORE, expires=later)
        assert await store.claims(name(1), now=END) == "claims"
        assert await store.claims(name(1), now=later) is None

    async def test_the_oldest_of_too_many_challenges_is_evicted(self, small: SessionStore) -> None:
        """The guest of the oldest challenge has had the most time to answer."""
        for number in range(7):
            after = timedelta(seconds=number)
            await small.add_challenge(name(number), "c", now=NOW, expires=END + after)
        taken = [await small.take_challenge(name(number), now=NOW) for number in range(7)]
        assert taken == [None, None, "c", "c", "c", "c", "c"]

    async def test_unanswered_challenges_never_displace_a_token(self, small: SessionStore) -> None:
        for number in range(6):
            await small.add_token(name(number), "token", now=NOW, expires=END)
        for number in range(100, 150):
            after = timedelta(seconds=number)
            await small.add_challenge(name(number), "c", now=NOW, expires=END + after)
        for number in range(6):
            assert await small.token(name(number), now=NOW) == "token"
        taken = [await small.take_challenge(name(number), now=NOW) for number in range(100, 150)]
        assert taken == [None] * 48 + ["c", "c"]

    async def test_tokens_displace_challenges_first_then_the_oldest_token(
        self, small: SessionStore
    ) -> None:
        for number in range(5):
            await small.add_challenge(name(number), "c", now=NOW, expires=END)
        for number in range(10, 20):
            after = timedelta(seconds=number)
            await small.add_token(name(number), "token", now=NOW, expires=END + after)
        for number in range(5):
            assert await small.take_challenge(name(number), now=NOW) is None
        result = [await small.token(name(number), now=NOW) for number in range(10, 20)]
        assert result == [None, None, *["token"] * 8]

    async def test_a_new_guest_is_served_although_tokens_fill_the_store(
        self, small: SessionStore
    ) -> None:
        """The guest may have to begin again, but no call fails."""
        for number in range(8):
            await small.add_token(name(number), "token", now=NOW, expires=END)
        await small.add_challenge(name(9), "c", now=NOW, expires=END)
        assert await small.take_challenge(name(9), now=NOW) is None
        await small.add_challenge(name(9), "c", now=END, expires=END + timedelta(minutes=5))
        assert await small.take_challenge(name(9), now=END) == "c"

    async def test_expired_entries_do_not_count(self, small: SessionStore) -> None:
        for number in range(5):
            await small.add_token(name(number), "t" * 200, now=NOW, expires=END)
            await small.add_claims(name(number), "k" * 200, now=NOW, expires=END)
        later = END + timedelta(minutes=5)
        for number in range(10, 15):
            await small.add_token(name(number), "t" * 200, now=END, expires=later)
            await small.add_claims(name(number), "k" * 200, now=END, expires=later)
        for number in range(10, 15):
            assert await small.token(name(number), now=END)
            assert await small.claims(name(number), now=END)

    async def test_entries_of_a_clock_that_was_ahead_are_discarded(
        self, small: SessionStore
    ) -> None:
        """Otherwise they would displace new guests until they expire."""
        ahead, tomorrow = NOW + timedelta(days=1), END + timedelta(days=1)
        for number in range(5):
            await small.add_challenge(name(number), "c", now=ahead, expires=tomorrow)
            await small.add_token(name(number), "t" * 200, now=ahead, expires=tomorrow)
            await small.add_claims(name(number), "k" * 200, now=ahead, expires=tomorrow)
        for number in range(10, 13):
            await small.add_challenge(name(number), "c", now=NOW, expires=END)
            await small.add_token(name(number), "t" * 200, now=NOW, expires=END)
            await small.add_claims(name(number), "k" * 200, now=NOW, expires=END)
        for number in range(10, 13):
            assert await small.take_challenge(name(number), now=NOW)
            assert await small.token(name(number), now=NOW)
            assert await small.claims(name(number), now=NOW)
        for number in range(5):
            assert await small.token(name(number), now=NOW) is None

    async def test_bytes_are_limited(self, small: SessionStore) -> None:
        for number in range(7):
            expires = END + timedelta(seconds=number)
            await small.add_token(name(number), f"{number}" * 300, now=NOW, expires=expires)
            await small.add_claims(name(number), f"{number}" * 300, now=NOW, expires=expires)
        for ask in (small.token, small.claims):
            result = [await ask(name(number), now=NOW) for number in range(7)]
            assert result == [None] * 4 + ["4" * 300, "5" * 300, "6" * 300]
        await small.add_claims(name(9), "k" * 1001, now=NOW, expires=END + timedelta(minutes=1))
        assert await small.claims(name(9), now=NOW) is None  # never more than the bound

    async def test_a_replaced_entry_counts_once(self, small: SessionStore) -> None:
        await small.add_claims(name(1), "k" * 400, now=NOW, expires=END)
        await small.add_token(name(1), "t" * 400, now=NOW, expires=END)
        for second in range(1, 30):
            expires = END + timedelta(seconds=second)
            await small.add_claims(name(2), "k" * 400, now=NOW, expires=expires)
            await small.add_token(name(2), "t" * (second % 400), now=NOW, expires=expires)
        assert await small.claims(name(1), now=NOW) == "k" * 400
        assert await small.token(name(1), now=NOW) == "t" * 400

    @pytest.mark.timing
    async def test_a_flood_of_unanswered_challenges(self, store: SessionStore) -> None:
        """One guest answers its challenge among 20,000 that are never answered."""
        await store.add_token(name(1), "token", now=NOW, expires=END)
        begins = time.process_time()
        for number in range(10, 20_010):
            await store.add_challenge(name(number), "c" * 200, now=NOW, expires=END)
        assert time.process_time() - begins < 40  # seconds of CPU, whatever else the machine does
        await store.add_challenge(name(2), "mine", now=NOW, expires=END + timedelta(seconds=1))
        assert await store.take_challenge(name(2), now=NOW) == "mine"
        assert await store.token(name(1), now=NOW) == "token"
