"""Time limits that share one timer."""

from __future__ import annotations

import pytest

from tests.support.clock import elapse
from verdictd_py.listeners.deadlines import Deadlines

SECONDS = 60.0


@pytest.fixture
def expired() -> list[str]:
    return []


async def test_each_limit_expires_at_its_own_time(expired: list[str]) -> None:
    deadlines = Deadlines(SECONDS)
    deadlines.start("a", lambda: expired.append("a"))
    await elapse(SECONDS / 2)
    deadlines.start("b", lambda: expired.append("b"))
    await elapse(SECONDS / 2)
    assert expired == ["a"]
    await elapse(SECONDS / 2)
    assert expired == ["a", "b"]


async def test_a_limit_that_was_stopped_does_not_expire(expired: list[str]) -> None:
    deadlines = Deadlines(SECONDS)
    for name in "abc":
        deadlines.start(name, lambda name=name: expired.append(name))  # type: ignore[misc]
    deadlines.stop("a")
    deadlines.stop("a")
    await elapse(SECONDS)
    assert expired == ["b", "c"]


async def test_a_limit_can_be_started_after_all_have_expired(expired: list[str]) -> None:
    deadlines = Deadlines(SECONDS)
    for _ in range(2):
        deadlines.start("a", lambda: expired.append("a"))
        await elapse(SECONDS)
    assert expired == ["a", "a"]


async def test_one_that_expires_can_stop_and_start_others(expired: list[str]) -> None:
    deadlines = Deadlines(SECONDS)

    def expire() -> None:
        expired.append("a")
        deadlines.stop("b")
        deadlines.start("c", lambda: expired.append("c"))

    deadlines.start("a", expire)
    deadlines.start("b", lambda: expired.append("b"))
    await elapse(SECONDS)
    assert expired == ["a"]
    await elapse(SECONDS)
    assert expired == ["a", "c"]


async def test_none_expires_after_close(expired: list[str]) -> None:
    deadlines = Deadlines(SECONDS)
    deadlines.start("a", lambda: expired.append("a"))
    deadlines.close()
    await elapse(SECONDS)
    assert expired == []
