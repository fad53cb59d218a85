"""Settings of every test: no setting of the caller's environment, and Hypothesis profiles."""

from __future__ import annotations

import os

import pytest

from tests.support.examples import load_profile

load_profile()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every VERDICTD_* variable: it would change what is tested."""
    for name in tuple(os.environ):
        if name.startswith("VERDICTD_"):
            monkeypatch.delenv(name)
