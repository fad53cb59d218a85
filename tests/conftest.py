"""Settings of every test: no setting of the caller's environment, and Hypothesis profiles."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.support.clock import SteppedLoop
from tests.support.examples import load_profile

load_profile()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on a loop whose clock it can move."""
    return {"stepped": SteppedLoop}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every VERDICTD_* variable: it would change what is tested."""
    for name in tuple(os.environ):
        if name.startswith("VERDICTD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT ends programs that the test starts, also where this process was told to ignore it.

    Programs inherit an ignored signal (from nohup, from a shell's background job), and Python
    then raises no KeyboardInterrupt.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
