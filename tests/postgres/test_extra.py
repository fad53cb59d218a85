"""Without psycopg, which is an optional extra, everything else works."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.database import open_database
from verdictd_py.errors import ConfigError


def test_without_psycopg_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    settings = Settings(store="postgresql://broker@db.example/site", data_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"pip install \"verdictd-py\[postgres\]\""):
        open_database(settings, Unsafe())
