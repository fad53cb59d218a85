"""A data directory for the attacks on what it contains."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tees import PROVING
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.layout import prepare


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    opened, _ = prepare(tmp_path / "data", PROVING)
    return opened
