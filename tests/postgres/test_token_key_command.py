"""`verdictd-py store new-token-key --store`: the keys of all brokers of a database."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.events import RecordedEvents
from tests.support.postgres import TestDatabase, objects_of
from tests.support.tees import PROVING
from verdictd_py import daemon as app
from verdictd_py.cli.main import main
from verdictd_py.daemon.tokenkeys import SharedTokenKeys
from verdictd_py.postgres.tokenkeys import PostgresTokenKeys
from verdictd_py.protocols.rcar.tokenring import TokenRing
from verdictd_py.storage.layout import prepare


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest.mark.parametrize("revoke", [False, True])
async def test_brokers_use_the_key_of_the_command(
    database: TestDatabase, tmp_path: Path, revoke: bool
) -> None:
    """There is no file to remove after a break-in: `--revoke` is the only way."""
    prepare(tmp_path / "data", PROVING)
    objects, ring = objects_of(database), TokenRing()
    keys = SharedTokenKeys(
        PostgresTokenKeys(objects),
        ring,
        lifetime=timedelta(days=30),
        clock=app.utc_now,
        events=RecordedEvents(),
    )
    try:
        await keys.refresh()
        (first,) = [key["kid"] for key in ring.jwks()["keys"]]
        command = [
            *("store", "new-token-key", "--data-dir", str(tmp_path / "data")),
            *("--store", database.url, "--store-password-file", str(database.password_file)),
            *("--seal", f"file:{postgres.key_file()}"),
            *(["--unsafe-store-tls"] if database.unsafe_tls else []),
            *(["--revoke"] if revoke else []),
        ]
        assert await asyncio.to_thread(main, command) == 0
        await objects.confirm()
        await keys.refresh()
        ids = [key["kid"] for key in ring.jwks()["keys"]]
    finally:
        await objects.close()
    assert (first in ids) != revoke
    assert len(ids) == (1 if revoke else 2)
    (trail,) = (tmp_path / "data" / "audit").glob("*.jsonl")
    events = [json.loads(line) for line in trail.read_text().splitlines()]
    (added,) = [event for event in events if event["event"] == "kbs.token-key-added"]
    assert added["fields"]["key"] == ids[-1]
