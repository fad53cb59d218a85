"""A database whose tables, types and rows are not those of the schema: refused, with a cause."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.postgres import TestDatabase, objects_of
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import StorageError
from verdictd_py.postgres.stores import PostgresKeyStore

ONE = KeyId.parse("one")

ENDLESS = (
    "CREATE VIEW verdictd.objects AS SELECT o.* FROM verdictd.others o, "
    "generate_series(1, 10000000000)"
)

LIES: dict[str, tuple[str, ...]] = {
    "a nonce that is missing": (
        "ALTER TABLE verdictd.objects ALTER nonce DROP NOT NULL",
        "UPDATE verdictd.objects SET nonce = NULL",
    ),
    "a nonce that is text": (
        "ALTER TABLE verdictd.objects ALTER nonce TYPE text USING encode(nonce, 'hex')",
    ),
    "a revision that is missing": (
        "ALTER TABLE verdictd.objects ALTER revision DROP NOT NULL",
        "UPDATE verdictd.objects SET revision = NULL",
    ),
    "a revision that is a fraction": (
        "ALTER TABLE verdictd.objects ALTER revision TYPE numeric USING revision + 0.5",
    ),
    "a revision that is no number": (
        "ALTER TABLE verdictd.objects ALTER revision TYPE double precision USING 'NaN'",
    ),
    "a size that is huge": (
        "ALTER TABLE verdictd.objects ALTER size TYPE numeric",
        "UPDATE verdictd.objects SET size = 1e300",
    ),
    "a kind that is missing": (
        "ALTER TABLE verdictd.objects ALTER kind DROP NOT NULL",
        "UPDATE verdictd.objects SET kind = NULL",
    ),
    "a path that is none": ("UPDATE verdictd.objects SET path = '../' || path",),
    "an envelope that is text": (
        "ALTER TABLE verdictd.objects ALTER sealed TYPE text USING encode(sealed, 'hex')",
    ),
    "a store without a tag": (
        "ALTER TABLE verdictd.store ALTER tag DROP NOT NULL",
        "UPDATE verdictd.store SET tag = NULL",
    ),
    "a store whose tag is text": (
        "ALTER TABLE verdictd.store ALTER tag TYPE text USING encode(tag, 'hex')",
    ),
    "a store without a change": (
        "ALTER TABLE verdictd.store ALTER change DROP NOT NULL",
        "UPDATE verdictd.store SET change = NULL",
    ),
    "a store whose change is text": (
        "ALTER TABLE verdictd.store DROP CONSTRAINT store_change_check",
        "ALTER TABLE verdictd.store ALTER change TYPE text USING 'many'",
    ),
    "a store without a key": (
        "ALTER TABLE verdictd.store ALTER ledger_key DROP NOT NULL",
        "UPDATE verdictd.store SET ledger_key = NULL",
    ),
    "a store whose id is no id": ("ALTER TABLE verdictd.store ALTER id TYPE text USING 'x'",),
    "a version of the schema that is text": (
        "ALTER TABLE verdictd.migrations ALTER version TYPE text USING 'x'",
    ),
    "a version of the schema that is huge": (
        "ALTER TABLE verdictd.migrations ALTER min_compatible TYPE numeric USING 1e300",
    ),
    "no table": ("ALTER TABLE verdictd.objects RENAME TO others",),
    "a view without an end": (
        "ALTER TABLE verdictd.objects RENAME TO others",
        ENDLESS,
        "GRANT ALL ON verdictd.objects TO PUBLIC",
    ),
}


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest.mark.parametrize("statements", LIES.values(), ids=LIES)
async def test_what_is_not_the_schema_is_refused_with_a_cause(
    database: TestDatabase, statements: tuple[str, ...]
) -> None:
    """Never by an internal error. A broker that runs may have verified everything before."""
    key = SecretBytes(os.urandom(KEY_BYTES))
    running = objects_of(database)
    starting = objects_of(database)
    try:
        await PostgresKeyStore(running).create(ONE, key)
        for statement in statements:
            database.execute(statement)
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            starting.confirm,
            lambda: PostgresKeyStore(starting).get(ONE),
            lambda: PostgresKeyStore(starting).create(KeyId.parse("two"), key),
            running.confirm,
            lambda: PostgresKeyStore(running).create(KeyId.parse("three"), key),
        )
        refused = [await refusal(call) for call in calls]
        assert any(refused[:3]), refused
        assert all(text.isprintable() for text in refused)
    finally:
        await running.close()
        await starting.close()
        postgres.drop_database()  # its schema is not that of the next test


async def refusal(call: Callable[[], Awaitable[object]]) -> str:
    """Return the text of the error, empty without one."""
    try:
        await call()
    except StorageError as error:
        return str(error)
    return ""
