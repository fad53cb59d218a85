"""`verdictd-py store new-token-key`: a new key of attestation tokens for all brokers of a site."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from verdictd_py.cli.commandtrail import CommandTrail
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, complain
from verdictd_py.cli.store.actions import PROGRAM, Actions, add_action
from verdictd_py.cli.store.database import add_protection_options, opened_objects, settings_of
from verdictd_py.cli.store.sealing import add_store_options
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports.sealing import SealUnavailable
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.tokenkeys import DirectoryTokenKeys

if TYPE_CHECKING:
    from verdictd_py.config import Settings, Unsafe
    from verdictd_py.ports.tokenkeys import TokenKeyStore

_AUDIT: Final = "audit"


def add(actions: Actions[Parser]) -> None:
    """Add the action."""
    action = add_action(
        actions,
        "new-token-key",
        "add a key of attestation tokens at once; brokers read it within 20 s",
        _run,
        details="It signs two minutes later, and the key before it is accepted for seven minutes\n"
        "after that, so that no guest notices. It is recorded in the audit trail of the data\n"
        "directory. Brokers with --kbs-token-key do not use the shared keys.",
    )
    action.add_argument(
        "--revoke",
        action="store_true",
        help="refuse all other keys at once, after a break-in: every guest attests again",
    )
    add_store_options(action)
    action.add_argument("--store", metavar="URL", help="database, in place of the data directory")
    add_protection_options(action)


def _run(options: argparse.Namespace) -> int:
    settings, unsafe = settings_of(options)
    if settings.kbs_token_key is not None:
        raise ConfigError(
            "these settings have --kbs-token-key, whose file has the key that signs; replace it, "
            "and restart the brokers"
        )
    if not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir} is not a directory; correct --data-dir")
    try:
        print(asyncio.run(_add(options, settings, unsafe)))
    except SealUnavailable:
        raise
    except StorageError as error:
        complain(f"{PROGRAM} {options.action}", str(error))
        return EXIT_REFUSED
    return EXIT_OK


async def _add(options: argparse.Namespace, settings: Settings, unsafe: Unsafe) -> str:
    from verdictd_py.daemon import utc_now  # noqa: PLC0415  # slow
    from verdictd_py.daemon.tokenkeys import add_key  # noqa: PLC0415
    from verdictd_py.protocols.rcar.tokenring import key_id  # noqa: PLC0415

    caller = Caller(f"uid {os.getuid()}, verdictd-py store", ROLES["admin"])
    directory = Directory.open(settings.data_dir)
    directory.make(_AUDIT)
    trail = CommandTrail(settings.data_dir / _AUDIT, settings.audit_key)
    try:
        async with _token_keys(settings, unsafe, directory) as store:
            key, revoked = await add_key(
                store, caller=caller, revoke=options.revoke, now=utc_now(), events=trail
            )
    finally:
        trail.close()
        directory.close()
    text = f"key {key_id(key)} signs from {key.signs_from.isoformat(timespec='seconds')}"
    return text if not options.revoke else f"{text}; keys that are refused from now on: {revoked}"


@asynccontextmanager
async def _token_keys(
    settings: Settings, unsafe: Unsafe, directory: Directory
) -> AsyncIterator[TokenKeyStore]:
    """Open the store of the keys that the settings name.

    Raises:
        ConfigError: it cannot be used; the message has the cause.
    """
    from verdictd_py.daemon.database import require_seal  # noqa: PLC0415  # slow
    from verdictd_py.daemon.sealing import sealer_of  # noqa: PLC0415

    require_seal(settings)
    sealer = sealer_of(settings)
    if sealer is None:
        yield DirectoryTokenKeys(directory)
        return
    try:
        if settings.store is None:
            yield DirectoryTokenKeys(
                directory, SealedObjects(directory, sealer, strict=settings.seal_strict)
            )
            return
        async with opened_objects(settings, unsafe, sealer) as objects:
            from verdictd_py.postgres.tokenkeys import PostgresTokenKeys  # noqa: PLC0415

            yield PostgresTokenKeys(objects)
    finally:
        await sealer.close()
