"""The database of this process is removed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import postgres


@pytest.fixture(scope="session", autouse=True)
def _database_is_dropped() -> Iterator[None]:
    yield
    postgres.drop_database()
