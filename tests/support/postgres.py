"""A real PostgreSQL for tests: one database per process of pytest, emptied for each test.

`./dev engines up` starts the server and prints `ENGINES_POSTGRES`, the URL of a superuser.
Without it, tests skip with a reason.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

import psycopg
import pytest
from psycopg import conninfo, sql

from tests.support.events import RecordedEvents
from tests.support.tees import TEES
from verdictd_py.ports import Events
from verdictd_py.ports.sealing import Sealer
from verdictd_py.postgres import schema
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Database
from verdictd_py.postgres.documents import PostgresDocumentStore
from verdictd_py.postgres.mark import Mark
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.stores import PostgresResourceStore
from verdictd_py.sealing.keyfile import KeyFile
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.digests import DigestLog

VARIABLE: Final = "ENGINES_POSTGRES"

# Read at the import: during a test, all variables of these programs are removed.
_URL: Final = os.environ.get(VARIABLE)
_REQUIRED: Final = bool(os.environ.get("REQUIRE_ENGINES"))

_TABLES: Final = (
    *("store", "objects", "judgements", "counts", "audit_heads", "sessions", "session_totals"),
)


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """A database with the schema, its owner, and the role of brokers.

    Attributes:
        superuser: parameters of a connection as superuser.
        url: URL for brokers, without a password.
        password_file: the password of both roles.
    """

    __test__ = False

    superuser: dict[str, Any]
    name: str
    url: str
    owner_url: str
    role: str
    password_file: Path
    unsafe_tls: bool

    def address(self, url: str = "") -> Address:
        """Return the address for brokers, or another one."""
        return Address.parse(
            url or self.url, password_file=self.password_file, unsafe_tls=self.unsafe_tls
        )

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as superuser: what an attacker who controls the database does."""
        with psycopg.connect(
            **{**self.superuser, "dbname": self.name}, autocommit=True
        ) as connection:
            cursor = connection.execute(statement, values)
            return [] if cursor.description is None else cursor.fetchall()

    def stop(self) -> None:
        """End all connections to the database, and refuse others, until `resume`."""
        with psycopg.connect(**self.superuser, autocommit=True) as connection:
            name = sql.Identifier(self.name)
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (self.name,),
            )

    def resume(self) -> None:
        """Accept connections again."""
        with psycopg.connect(**self.superuser, autocommit=True) as connection:
            name = sql.Identifier(self.name)
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def absent() -> NoReturn:
    """Skip the test, or fail it where all engines are required."""
    reason = f'{VARIABLE} is not set: ./dev engines up; eval "$(./dev engines env)"'
    if _REQUIRED:
        pytest.fail(f"REQUIRE_ENGINES is set, and {reason}")
    pytest.skip(reason)


@cache
def _made() -> TestDatabase:
    assert _URL is not None
    superuser: dict[str, Any] = dict(conninfo.conninfo_to_dict(_URL))
    name = f"verdictd_test_{secrets.token_hex(6)}"
    owner, role, password = f"{name}_owner", f"{name}_broker", secrets.token_hex(16)
    with psycopg.connect(**superuser, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(**{**superuser, "dbname": name}, autocommit=True) as connection:
        connection.execute(schema.roles_script(owner, role))
        for who in (owner, role):
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(who), sql.Literal(password)
                )
            )
    file = _directory() / "password"
    file.touch(mode=0o600)
    file.write_text(password + "\n")
    return TestDatabase(
        superuser,
        name,
        _url(superuser, role, name),
        _url(superuser, owner, name),
        role,
        file,
        superuser.get("sslmode", "") not in ("", "verify-full"),
    )


def _url(superuser: dict[str, Any], user: str, name: str) -> str:
    host, port = str(superuser["host"]), str(superuser.get("port", "5432"))
    names = [name for name in ("sslmode", "sslrootcert") if name in superuser]
    options: dict[str, str] = {name: str(superuser[name]) for name in names}
    if host.startswith("/"):
        options = {"host": host, "port": port}
        where = ""
    else:
        where = f"{host}:{port}"
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return f"postgresql://{user}@{where}/{name}" + (f"?{query}" if query else "")


async def empty_database() -> TestDatabase:
    """Return the database of this process, with the newest schema and without rows."""
    if _URL is None:
        absent()
    database = _made()
    connecting = Database(database.address(database.owner_url))
    connection = await connecting.connect()
    try:
        await schema.migrate(connection, database.role)
        await connection.execute(
            sql.SQL("TRUNCATE {}").format(
                sql.SQL(", ").join(sql.Identifier("verdictd", table) for table in _TABLES)
            )
        )
    finally:
        await connection.close()
    return database


def drop_database() -> None:
    """Remove the database of this process, if it was made."""
    if not _made.cache_info().currsize:
        return
    database = _made()
    with psycopg.connect(**database.superuser, autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name))
        )
        for role in (database.role, f"{database.name}_owner"):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
    _made.cache_clear()
    shutil.rmtree(_directory(), ignore_errors=True)
    _directory.cache_clear()


def key_file(number: int = 1) -> Path:
    """Return a key file, which is the same for the same number."""
    file = _directory() / f"kek-{number}"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(bytes([number]) * 32)
    return file


def sealer_of(number: int = 1) -> EnvelopeSealer:
    """Return a sealer with the key of `key_file`."""
    return EnvelopeSealer(KeyFile(key_file(number)))


@cache
def _directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="verdictd-py-postgres-test-"))


def objects_of(
    database: TestDatabase, *, mark: Path | None = None, sealer: Sealer | None = None
) -> Objects:
    """Return the objects as a broker of their own sees them."""
    return Objects(
        Database(database.address()), sealer or sealer_of(), None if mark is None else Mark(mark)
    )


def resources_of(objects: Objects, events: Events | None = None) -> PostgresResourceStore:
    """Return the resources among the objects."""
    receiver = events or RecordedEvents()
    return PostgresResourceStore(objects, events=receiver, digests=DigestLog(receiver))


def documents_of(objects: Objects, events: Events | None = None) -> PostgresDocumentStore:
    """Return the documents among the objects."""
    return PostgresDocumentStore(objects, TEES, digests=DigestLog(events or RecordedEvents()))
