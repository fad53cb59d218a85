"""Shared by all tests: nothing of the caller's environment reaches the code under test."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VERDICTD_* variable of whoever runs the tests would change what is tested."""
    for name in tuple(os.environ):
        if name.startswith("VERDICTD_"):
            monkeypatch.delenv(name)
