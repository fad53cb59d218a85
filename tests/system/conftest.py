"""Fixtures of the tests of whole brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kbs_admins import AdminTokens


@pytest.fixture
def tokens(tmp_path: Path) -> AdminTokens:
    """Return tokens of administrators over HTTP, and tokens that are not accepted."""
    return AdminTokens(tmp_path / "admins")
