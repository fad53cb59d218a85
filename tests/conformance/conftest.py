"""A data directory for the suites of the stores on it."""

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
