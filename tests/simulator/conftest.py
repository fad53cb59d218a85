"""One platform for the tests of the simulator, and dcap-qvl as the verifier of its quotes."""

from __future__ import annotations

import pytest

from tests.simulator.support import NOW
from verdictd_py.simulator import SimulatedPlatform


@pytest.fixture(scope="session")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=NOW)
