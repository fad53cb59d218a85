"""Migrations, and what the role of the brokers may do."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.postgres import TestDatabase, objects_of
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.postgres import schema
from verdictd_py.postgres.database import Database, SchemaUnusable
from verdictd_py.postgres.schema import MIGRATIONS, VERSION, Migration, migrate
from verdictd_py.postgres.stores import PostgresKeyStore


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


async def migrated(database: TestDatabase) -> tuple[int, int]:
    connection = await Database(database.address(database.owner_url)).connect()
    try:
        return await migrate(connection, database.role)
    finally:
        await connection.close()


def reset(database: TestDatabase) -> None:
    database.execute("DROP SCHEMA verdictd CASCADE")
    database.execute(
        schema.roles_script(f"{database.name}_owner", database.role)  # the roles exist
    )


async def test_many_that_migrate_at_once_apply_each_migration_once(
    database: TestDatabase,
) -> None:
    reset(database)
    results = await asyncio.gather(*(migrated(database) for _ in range(5)))
    assert sorted(results) == [(0, VERSION), *[(VERSION, VERSION)] * 4]
    assert database.execute("SELECT version FROM verdictd.migrations") == [(VERSION,)]


async def test_a_migration_that_fails_leaves_everything_as_it_was(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(VERSION + 1, 1, ("CREATE TABLE verdictd.more ()", "SELECT nonsense"))
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(ConfigError, match="cannot migrate"):
        await migrated(database)
    assert database.execute("SELECT to_regclass('verdictd.more')") == [(None,)]
    assert database.execute("SELECT max(version) FROM verdictd.migrations") == [(VERSION,)]


async def test_this_release_uses_the_schema_of_the_next_one_if_that_is_compatible(
    database: TestDatabase,
) -> None:
    objects = objects_of(database)
    try:
        await PostgresKeyStore(objects).create(KeyId.parse("one"), SecretBytes(bytes(KEY_BYTES)))
        database.execute("INSERT INTO verdictd.migrations VALUES (%s, 1)", VERSION + 1)
        await objects.confirm()
        database.execute("INSERT INTO verdictd.migrations VALUES (%s, %s)", 99, VERSION + 1)
        with pytest.raises(SchemaUnusable, match="update this broker"):
            await objects.confirm()
    finally:
        database.execute("DELETE FROM verdictd.migrations WHERE version > %s", VERSION)
        await objects.close()


async def test_a_schema_that_is_too_old_is_refused(database: TestDatabase) -> None:
    database.execute("UPDATE verdictd.migrations SET version = %s", VERSION - 1)
    objects = objects_of(database)
    try:
        with pytest.raises(SchemaUnusable, match="verdictd-py store migrate"):
            await objects.confirm()
    finally:
        database.execute("UPDATE verdictd.migrations SET version = %s", VERSION)
        await objects.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE verdictd.other ()",
        "CREATE TABLE public.other ()",
        "ALTER TABLE verdictd.objects ADD COLUMN more text",
        "DROP TABLE verdictd.objects",
        "DELETE FROM verdictd.objects",
        "DELETE FROM verdictd.store",
        "TRUNCATE verdictd.objects",
        "DELETE FROM verdictd.audit_heads",
        "UPDATE verdictd.audit_heads SET records = 0",
        "INSERT INTO verdictd.migrations VALUES (2, 2)",
        "CREATE ROLE other",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
async def test_the_role_of_brokers_may_not(database: TestDatabase, statement: str) -> None:
    connection = await Database(database.address()).connect()
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement.encode())
    finally:
        await connection.close()


def test_names_of_roles_are_quoted() -> None:
    script = schema.roles_script('o"; DROP', "it's")
    assert '"o""; DROP"' in script
    assert "'it''s'" in script
