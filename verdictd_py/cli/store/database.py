"""`verdictd-py store schema|migrate|heads`: the database of `--store`, without a broker."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from verdictd_py.cli.parsing import EXIT_OK, Parser, printable
from verdictd_py.cli.store.actions import Actions, add_action
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports.sealing import SealUnavailable

if TYPE_CHECKING:  # psycopg is an optional extra
    from verdictd_py.config import Settings, Unsafe
    from verdictd_py.ports.sealing import Sealer
    from verdictd_py.postgres.database import Database
    from verdictd_py.postgres.objects import Objects

_STATUS = "0 done, 2 an option or the database cannot be used"


def add(actions: Actions[Parser]) -> None:
    """Add the actions."""
    schema = add_action(
        actions,
        "schema",
        "print the SQL that creates the roles and the schema of the database",
        _schema,
        status="0 printed, 2 wrong command line",
        details="A superuser runs it once: verdictd-py store schema | psql -d DATABASE",
    )
    _add_roles(schema)
    schema.add_argument(
        "--owner", metavar="ROLE", default="verdictd_owner", help="owner (verdictd_owner)"
    )
    migrate = add_action(
        actions,
        "migrate",
        "create the tables in the database, or bring them to this release",
        _migrate,
        status=_STATUS,
        details="Run it as the schema's owner before the first broker, and before each update.\n"
        "Brokers of the release before can run meanwhile, and afterwards.",
    )
    add_database_options(migrate)
    _add_roles(migrate)
    heads = add_action(
        actions,
        "heads",
        "print the audit heads of all brokers, as lines of a log",
        _heads,
        status=_STATUS,
        details="'verdictd-py audit verify --log FILE' compares them with a trail: it finds\n"
        "records that were cut off, also if the whole host of that broker was replaced.",
    )
    add_database_options(heads)
    heads.add_argument(
        "--broker", metavar="ID", help="only of this one: postgres/broker-id in its data directory"
    )


def add_database_options(action: Parser) -> None:
    """Add the options that name a database; they are those of the daemon."""
    action.add_argument("--config", metavar="FILE", type=Path, help="settings of the daemon, TOML")
    action.add_argument("--store", metavar="URL", help="postgresql://USER@HOST/DATABASE")
    add_protection_options(action)


def add_protection_options(action: Parser) -> None:
    """Add the options of the connection to a database."""
    action.add_argument(
        "--store-password-file", metavar="FILE", type=Path, help="the password of that user"
    )
    action.add_argument(
        "--unsafe-store-tls",
        action="store_true",
        help="also with an sslmode that verifies no server",
    )


def _add_roles(action: Parser) -> None:
    action.add_argument(
        "--role", metavar="ROLE", default="verdictd", help="role of the brokers (verdictd)"
    )


def _schema(options: argparse.Namespace) -> int:
    from verdictd_py.daemon.database import require_psycopg  # noqa: PLC0415  # slow

    require_psycopg()
    from verdictd_py.postgres.schema import roles_script  # noqa: PLC0415  # an optional extra

    for name in (options.owner, options.role):
        if not name or not name.isprintable() or len(name) > 63:
            raise ConfigError("the name of a role has 1 to 63 printable characters")
    print(roles_script(options.owner, options.role), end="")
    return EXIT_OK


def _migrate(options: argparse.Namespace) -> int:
    async def work(database: Database) -> int:
        from verdictd_py.postgres.schema import migrate  # noqa: PLC0415  # an optional extra

        connection = await database.connect()
        try:
            before, now = await migrate(connection, options.role)
        finally:
            await connection.close()
        text = f"the schema has version {now}"
        print(f"{text} already" if before == now else f"{text}; it had {before or 'none'}")
        return EXIT_OK

    return _run(options, work)


def _heads(options: argparse.Namespace) -> int:
    async def work(database: Database) -> int:
        from verdictd_py.postgres.heads import logged_heads  # noqa: PLC0415  # an optional extra

        for line in await logged_heads(database, options.broker):
            print(printable(line))
        return EXIT_OK

    return _run(options, work)


def _run(options: argparse.Namespace, work: Callable[[Database], Awaitable[int]]) -> int:
    settings, unsafe = settings_of(options)
    if settings.store is None:
        raise ConfigError("no database is named; add --store postgresql://..., or --config FILE")

    async def run() -> int:
        from verdictd_py.daemon.database import open_database  # noqa: PLC0415  # slow

        database = open_database(settings, unsafe)
        try:
            return await work(database)
        except StorageError as error:
            raise ConfigError(f"--store: {database.problem or error}") from None
        finally:
            await database.close()

    return asyncio.run(run())


@asynccontextmanager
async def opened_objects(
    settings: Settings, unsafe: Unsafe, sealer: Sealer, url: str | None = None
) -> AsyncIterator[Objects]:
    """Open the objects of the database of `--store`, or of another URL.

    Raises:
        ConfigError: it cannot be used; the message has the cause.
    """
    from verdictd_py.daemon.database import open_database  # noqa: PLC0415  # slow

    database = open_database(settings, unsafe, url)
    from verdictd_py.postgres.objects import Objects  # noqa: PLC0415  # an optional extra

    objects = Objects(database, sealer)
    try:
        await objects.confirm()
        yield objects
    except SealUnavailable:
        raise
    except StorageError as error:
        raise ConfigError(f"the database cannot be used: {database.problem or error}") from None
    finally:
        await objects.close()


def settings_of(options: argparse.Namespace) -> tuple[Settings, Unsafe]:
    """Return the settings of the daemon that the options name.

    Raises:
        ConfigError: a setting cannot be used.
    """
    from verdictd_py import config  # noqa: PLC0415  # slow

    names = ("data_dir", "seal", "store", "store_password_file")
    flags = {key: value for key in names if (value := getattr(options, key, None)) is not None}
    unsafe = config.Unsafe(unsafe_store_tls=options.unsafe_store_tls)
    return config.load(flags, file=options.config), unsafe
