"""Shared by the tests of whole brokers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kbs_admins import AdminTokens


@pytest.fixture
def tokens(tmp_path: Path) -> AdminTokens:
    """Those who may administer over HTTP, and some who may not."""
    return AdminTokens(tmp_path / "admins")
