"""The key-encryption key of a database is rotated while brokers use it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support import postgres
from tests.support.postgres import TestDatabase, objects_of
from verdictd_py.cli.store.newkey import create
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.formats.sealed import parse_header
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.resealing import DatabaseResealing
from verdictd_py.postgres.stores import PostgresKeyStore
from verdictd_py.sealing.keyfile import KeyFile
from verdictd_py.sealing.sealer import EnvelopeSealer

COUNT = 60
REPOSITORY = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest_asyncio.fixture
async def broker(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Objects]:
    create(tmp_path / "kek")
    opened = objects_of(database, sealer=EnvelopeSealer(KeyFile(tmp_path / "kek")))
    yield opened
    await opened.close()


def key(number: int) -> SecretBytes:
    return SecretBytes(bytes([number]) * KEY_BYTES)


async def rotated(database: TestDatabase, kek: Path) -> int:
    sealer = EnvelopeSealer(KeyFile(kek))
    objects = objects_of(database, sealer=sealer)
    try:
        await sealer.check()
        report = await DatabaseResealing(objects, current=lambda: sealer.key.current).rotate()
    finally:
        await objects.close()
    assert not report.problems
    return report.changed


async def test_every_key_is_served_during_the_rotation_and_without_the_old_key_afterwards(
    database: TestDatabase, broker: Objects, tmp_path: Path
) -> None:
    keys = PostgresKeyStore(broker)
    for number in range(COUNT):
        await keys.create(KeyId.parse(f"k{number}"), key(number))
        assert await keys.get(KeyId.parse(f"k{number}")) == key(number)  # it is in the cache
    old = create(tmp_path / "kek")
    assert old is not None

    async def read() -> None:
        for _ in range(5):
            for number in range(COUNT):
                assert await keys.get(KeyId.parse(f"k{number}")) == key(number)

    async def write() -> None:
        for number in range(COUNT, COUNT + 20):
            await keys.create(KeyId.parse(f"k{number}"), key(number))

    changed, _, _ = await asyncio.gather(rotated(database, tmp_path / "kek"), read(), write())
    assert changed >= COUNT + 1  # and the key of the ledger
    assert await rotated(database, tmp_path / "kek") == 0
    sealed = database.execute("SELECT sealed FROM verdictd.objects")
    assert len({parse_header(bytes(row[0])).version for row in sealed}) == 1
    old.unlink()
    await broker.sealer.close()  # type: ignore[attr-defined]  # it forgets the old key
    for number in range(COUNT + 20):
        assert await keys.get(KeyId.parse(f"k{number}")) == key(number)


def test_a_kill_at_any_moment_loses_no_object(database: TestDatabase, tmp_path: Path) -> None:
    words = [
        *(sys.executable, "-m", "tests.postgres.rotating", database.url),
        *(str(database.password_file), str(tmp_path / "kek"), "50", "19"),
        *(("--unsafe-store-tls",) if database.unsafe_tls else ()),
    ]
    ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    assert json.loads(ended.stdout)["killed"] >= 50
