"""Memory of the broker does not grow with the number of guests that it appraised.

`./dev torture` is the long form. Caches and the history of guests fill during the warm-up.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.appraised import broker_process

WARM_UP = 600
"""Guests; the history has 500 of a kind."""

BATCH = 500
BATCHES = 8
GROWTH = 200
"""Bytes for each guest. The leak that this test is for had 12,300."""


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
