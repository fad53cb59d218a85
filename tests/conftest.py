"""Shared by all tests: nothing of the caller's environment reaches the code under test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VERDICTD_* variable of whoever runs the tests would change what is tested."""
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
