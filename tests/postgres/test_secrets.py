"""Neither the database nor the wire to it contains a secret."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.postgres import TestDatabase, objects_of, resources_of
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Database
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.stores import PostgresKeyStore
from verdictd_py.postgres.tokenkeys import PostgresTokenKeys

SECRETS = [os.urandom(KEY_BYTES) for _ in range(3)]
KEY, RESOURCE, TOKEN = SECRETS


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


def forms(secret: bytes) -> list[bytes]:
    """Return a secret in raw, hex and base64, at every offset of base64."""
    encoded = [base64.b64encode(bytes(n) + secret)[4:-4] for n in range(3)]
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), *encoded]


def require_none(haystack: bytes) -> None:
    for secret in [*SECRETS, postgres.key_file().read_bytes()]:
        assert not any(form in haystack for form in forms(secret))


async def store_all(objects: Objects) -> None:
    """Store and read each secret."""
    keys, resources, tokens = (
        PostgresKeyStore(objects),
        resources_of(objects),
        PostgresTokenKeys(objects),
    )
    await keys.create(KeyId.parse("one"), SecretBytes(KEY))
    await resources.put(ResourcePath.parse("team/secret/1"), SecretBytes(RESOURCE))
    await tokens.replace(TOKEN, before=None)
    assert await keys.get(KeyId.parse("one")) == SecretBytes(KEY)
    assert (await resources.get(ResourcePath.parse("team/secret/1"))).content.reveal() == RESOURCE


def program(name: str) -> str:
    for place in (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),):
        if (place / name).exists():
            return str(place / name)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def test_a_dump_of_the_database_has_no_secret(database: TestDatabase) -> None:
    objects = objects_of(database)
    try:
        await store_all(objects)
        assert objects.ledger is not None
        ledger_key = objects.ledger._key.reveal()
    finally:
        await objects.close()
    parameters = {**database.superuser, "dbname": database.name}
    conninfo = " ".join(f"{key}={value}" for key, value in parameters.items())
    process = await asyncio.create_subprocess_exec(
        program("pg_dump"), "-d", conninfo, stdout=subprocess.PIPE
    )
    dump, _ = await process.communicate()
    assert b"keys/one" in dump
    require_none(dump)
    assert not any(form in dump for form in forms(ledger_key))


@asynccontextmanager
async def recorded(database: TestDatabase) -> AsyncIterator[tuple[int, bytearray]]:
    """Yield the port of a relay to the server, and the bytes in both directions."""
    host, port = str(database.superuser["host"]), int(database.superuser.get("port", 5432))
    wire = bytearray()
    ended: list[asyncio.Task[None]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                wire.extend(chunk)
                writer.write(chunk)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.append(task)
        if host.startswith("/"):
            there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there = await asyncio.open_connection(host, port)
        await asyncio.gather(relay(reader, there[1]), relay(there[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], wire
    finally:
        server.close()
        await asyncio.gather(*ended)


async def test_the_wire_has_no_secret_even_without_tls(database: TestDatabase) -> None:
    user = urlsplit(database.url).username
    async with recorded(database) as (port, wire):
        url = f"postgresql://{user}@127.0.0.1:{port}/{database.name}?sslmode=disable"
        address = Address.parse(url, password_file=database.password_file, unsafe_tls=True)
        objects = Objects(Database(address), postgres.sealer_of())
        try:
            await store_all(objects)
        finally:
            await objects.close()
    assert b"keys/one" in wire  # it is the wire
    require_none(bytes(wire))
