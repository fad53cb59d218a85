"""Memory of the broker does not grow with the number of guests that it appraised.

`./dev torture` is the long form. Caches and the history of guests fill during the warm-up.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.support.appraised import broker_process
from tests.support.broker import RunningBroker
from tests.support.rcar import attested
from verdictd_py.broker.handshakes import Handshakes
from verdictd_py.storage.sessions import MemorySessionStore

WARM_UP = 600
"""Guests; the history has 500 of a kind."""

BATCH = 500
BATCHES = 8
GROWTH = 200
"""Bytes for each guest. The leak that this test is for had 12,300."""


@pytest.mark.broker(kbs=True)
async def test_expired_sessions_are_released_although_no_guest_follows(
    broker: RunningBroker,
) -> None:
    """The check of the sessions, which the broker repeats, releases them."""
    check = broker.daemon._parts.health._checks["sessions"]
    assert isinstance(check, partial)
    store: MemorySessionStore = check.args[0].store
    begin, end = broker.now - timedelta(minutes=6), broker.now - timedelta(minutes=1)
    await store.add_challenge("1", "challenge", now=begin, expires=end)
    await store.add_token("2", "token", now=begin, expires=end)
    await store.add_claims("3", "claims", now=begin, expires=end)
    texts = (store._challenges, store._tokens, store._claims)
    assert [len(each) for each in texts] == [1, 1, 1]
    await broker.daemon._parts.health.examine()
    assert [len(each) for each in texts] == [0, 0, 0]
    assert store._tokens._size == 0


@pytest.mark.broker(kbs=True)
async def test_expired_tokens_are_released_although_no_guest_follows(
    broker: RunningBroker,
) -> None:
    check = broker.daemon._parts.health._checks["sessions"]
    assert isinstance(check, partial)
    handshakes: Handshakes = check.args[1]
    guest, then = attested(), broker.now - timedelta(minutes=6)
    handshakes._tokens.issue(guest, now=then, policy="tdxPolicy.rego")
    assert len(handshakes._tokens._known) == 1
    await broker.daemon._parts.health.examine()
    assert not handshakes._tokens._known


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", ["rats_tls", "rcar"])
async def test_no_memory_is_lost_for_a_guest(tmp_path: Path, protocol: str) -> None:
    """A leak shows in each batch. Caches and heaps are full after some 2,300 guests."""
    with broker_process(tmp_path) as broker:
        reader = broker.daemon.process.stderr
        assert reader is not None
        threading.Thread(target=reader.read, daemon=True).start()
        await broker.guests(protocol, WARM_UP)
        growth: list[float] = []
        while len(growth) < BATCHES and min(growth, default=GROWTH) >= GROWTH:
            before = broker.resident_bytes
            await broker.guests(protocol, BATCH)
            growth.append((broker.resident_bytes - before) / BATCH)
    assert min(growth) < GROWTH, growth
