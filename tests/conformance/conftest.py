"""A data directory and a database for the suites of the stores on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.tees import PROVING
from verdictd_py.postgres.objects import Objects
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.layout import prepare


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    opened, _ = prepare(tmp_path / "data", PROVING)
    return opened


@pytest_asyncio.fixture
async def objects() -> AsyncIterator[Objects]:
    """The objects of an empty database; skips without a server."""
    opened = postgres.objects_of(await postgres.empty_database())
    yield opened
    await opened.close()


@pytest.fixture(scope="session", autouse=True)
def _database_is_dropped() -> Iterator[None]:
    yield
    postgres.drop_database()
