"""One platform for the room's tests, and dcap-qvl as the judge of what it makes."""

from __future__ import annotations

import pytest

from tests.simulator.support import NOW
from verdictd_py.simulator import SimulatedPlatform


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=NOW)
