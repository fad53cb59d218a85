"""Schema of the database: its migrations, and the roles that use it.

Migrations only go forward. Each names the oldest version whose brokers can still use the result
(`min_compatible`), so that a rolling update can migrate while brokers of the release before run. A
migration that would break them is divided: the first release adds, and the next one removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from verdictd_py.errors import ConfigError
from verdictd_py.postgres import sessionschema
from verdictd_py.postgres.database import Connection, SchemaUnusable, described

VERSION: Final = 1
"""Version of the schema that this release writes, and the lowest that it can use."""

CHANNEL: Final = "verdictd_changes"
"""Channel of the notifications; their payload, the number of the change, decides nothing."""

_LOCK: Final = 0x76657264696374
"""Key of the advisory lock of migrations."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A step of the schema.

    Attributes:
        min_compatible: oldest version for which the schema still works afterwards.
    """

    version: int
    min_compatible: int
    statements: tuple[LiteralString, ...]


MIGRATIONS: Final = (
    Migration(
        1,
        1,
        (
            """
            CREATE TABLE verdictd.store (
                one boolean PRIMARY KEY DEFAULT true CHECK (one),
                id uuid NOT NULL,
                change bigint NOT NULL CHECK (change >= 0),
                tag bytea NOT NULL,
                ledger_key bytea NOT NULL
            )""",
            """
            CREATE TABLE verdictd.objects (
                path text COLLATE "C" PRIMARY KEY,
                kind text NOT NULL,
                revision bigint NOT NULL UNIQUE,
                size bigint NOT NULL,
                changed bigint NOT NULL,
                sealed bytea,
                nonce bytea NOT NULL,
                CHECK ((sealed IS NULL) = (size < 0))
            )""",
            # Envelopes do not compress, and PostgreSQL need not try.
            "ALTER TABLE verdictd.objects ALTER COLUMN sealed SET STORAGE EXTERNAL",
            """
            CREATE TABLE verdictd.judgements (
                id text PRIMARY KEY,
                kind text NOT NULL,
                at double precision NOT NULL,
                body text NOT NULL,
                tag bytea NOT NULL
            )""",
            "CREATE INDEX judgements_by_time ON verdictd.judgements (kind, at DESC)",
            """
            CREATE TABLE verdictd.counts (
                writer uuid NOT NULL,
                interval_number bigint NOT NULL,
                kind text NOT NULL,
                code text NOT NULL,
                number bigint NOT NULL,
                PRIMARY KEY (writer, interval_number, kind, code)
            )""",
            """
            CREATE TABLE verdictd.audit_heads (
                broker text NOT NULL,
                file text NOT NULL,
                records bigint NOT NULL,
                digest text NOT NULL,
                signature text,
                stored timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (broker, file, records, digest)
            )""",
            *sessionschema.STATEMENTS,
        ),
    ),
)

_RIGHTS: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("migrations", "SELECT"),
    ("store", "SELECT, INSERT, UPDATE"),
    ("objects", "SELECT, INSERT, UPDATE"),
    ("judgements", "SELECT, INSERT, UPDATE, DELETE"),
    ("counts", "SELECT, INSERT, UPDATE, DELETE"),
    ("audit_heads", "SELECT, INSERT"),
    *sessionschema.RIGHTS,
)
"""What brokers may do with each table. Objects are never deleted: a deleted one leaves a row."""


def roles_script(owner: str, role: str) -> str:
    """Return the SQL that a superuser runs once in the database: two roles and the schema."""
    who, to = _quoted(owner), _quoted(role)
    return f"""\
-- Roles of verdictd-py. Run it once in the database of the brokers, as a superuser:
--   verdictd-py store schema | psql -d DATABASE
-- Give both roles a way to log in afterwards (\\password, a certificate, or pg_hba.conf).
BEGIN;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(owner)}) THEN
    CREATE ROLE {who} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(role)}) THEN
    CREATE ROLE {to} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
  END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS verdictd AUTHORIZATION {who};
REVOKE ALL ON SCHEMA verdictd FROM PUBLIC;
GRANT USAGE ON SCHEMA verdictd TO {to};
COMMIT;
-- Then, as {owner}, before the first broker and before each update:
--   verdictd-py store migrate --store postgresql://{owner}@HOST/DATABASE --role {role}
"""  # noqa: S608  # names are quoted


async def migrate(connection: Connection, role: str) -> tuple[int, int]:
    """Apply the missing migrations, and give a role the rights of brokers.

    One transaction and an advisory lock: several callers apply each migration once, and a failure
    leaves the schema as it was.

    Args:
        connection: one of the schema's owner, in autocommit mode.
        role: the role of the brokers.

    Returns:
        The version before (0 for an empty schema), and the version now.

    Raises:
        ConfigError: the database refuses it, or has a newer schema; the message has the remedy.
    """
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            before, compatible = await _prepared(connection)
            if compatible > VERSION:
                raise ConfigError(
                    f"the schema has version {before}, and this release can use no later one than "
                    f"{VERSION}; update this program"
                )
            await _apply(connection, MIGRATIONS, before)
            await _grant(connection, role)
    except psycopg.Error as error:
        raise ConfigError(
            f"cannot migrate: {described(error)}; run the output of 'verdictd-py store schema' as "
            "a superuser first, and connect as its owner"
        ) from None
    return before, max(before, VERSION)


async def _prepared(connection: Connection) -> tuple[int, int]:
    """Create the table of migrations if it is missing; return version and min_compatible."""
    await connection.execute(
        """
        CREATE TABLE IF NOT EXISTS verdictd.migrations (
            version integer PRIMARY KEY,
            min_compatible integer NOT NULL,
            applied timestamptz NOT NULL DEFAULT now()
        )"""
    )
    cursor = await connection.execute(
        "SELECT coalesce(max(version), 0), coalesce(max(min_compatible), 0)"
        " FROM verdictd.migrations"
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # an aggregate has one row
    return int(row[0]), int(row[1])


async def _apply(connection: Connection, migrations: Sequence[Migration], before: int) -> None:
    for migration in migrations:
        if migration.version <= before:
            continue
        for statement in migration.statements:
            await connection.execute(statement)
        await connection.execute(
            "INSERT INTO verdictd.migrations (version, min_compatible) VALUES (%s, %s)",
            (migration.version, migration.min_compatible),
        )


async def _grant(connection: Connection, role: str) -> None:
    to = sql.Identifier(role)
    for table, rights in _RIGHTS:
        name = sql.Identifier("verdictd", table)
        await connection.execute(sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(rights), name, to))


def require_compatible(version: int, min_compatible: int) -> None:
    """Refuse a schema that this release cannot use.

    Raises:
        SchemaUnusable: the message has the remedy.
    """
    if version < VERSION:
        raise SchemaUnusable(
            f"the schema has version {version}, and this release needs {VERSION}; run "
            "'verdictd-py store migrate' as the schema's owner"
        )
    if min_compatible > VERSION:
        raise SchemaUnusable(
            f"the schema can only be used by releases that know version {min_compatible}, and this "
            f"one knows {VERSION}; update this broker"
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
