"""`verdictd-py store copy`: move a site from its data directory to a database, and back."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from verdictd_py.cli.parsing import Parser
from verdictd_py.cli.store.actions import Actions, add_action, print_report
from verdictd_py.cli.store.counting import counting
from verdictd_py.cli.store.database import add_protection_options, opened_objects, settings_of
from verdictd_py.errors import ConfigError, StorageError

if TYPE_CHECKING:  # psycopg is an optional extra
    from verdictd_py.config import Settings, Unsafe
    from verdictd_py.postgres.copying import Report, Side
    from verdictd_py.sealing.sealer import EnvelopeSealer


def add(actions: Actions[Parser]) -> None:
    """Add the action."""
    action = add_action(
        actions,
        "copy",
        "copy keys, resources, documents and collateral to a database, or back",
        _copy,
        details="It can be interrupted at any time, and continues when it is run again. It ends "
        "with a\ncomparison of both sides. Stop changes meanwhile: guests may be served. History, "
        "audit files\nand sessions stay where they are.",
    )
    where = "data directory, or postgresql://USER@HOST/DATABASE"
    action.add_argument("--from", dest="source", metavar="SITE", required=True, help=where)
    action.add_argument("--to", dest="target", metavar="SITE", required=True, help="the same")
    action.add_argument("--config", metavar="FILE", type=Path, help="settings of the daemon, TOML")
    action.add_argument("--seal", metavar="URI", help="key: file:/path, credential:NAME, ...")
    add_protection_options(action)
    action.add_argument(
        "--overwrite", action="store_true", help="replace objects that differ in the target"
    )
    action.add_argument(
        "--plain", action="store_true", help="write plain files to a data directory, not sealed"
    )
    action.add_argument("--json", action="store_true", help="output as JSON")


def _copy(options: argparse.Namespace) -> int:
    if options.source == options.target:
        raise ConfigError("--from and --to name the same site")
    settings, unsafe = settings_of(options)
    with counting("copy: %d of %d steps") as progress:
        report = asyncio.run(_copied(options, settings, unsafe, progress))
    members = {
        "objects": report.objects,
        "copied": report.copied,
        "extra": report.extra,
        "problems": [*report.problems, *([f"and {report.more} more"] if report.more else [])],
    }
    return print_report("copy", "store-copy", members, _text(report), as_json=options.json)


def _text(report: Report) -> Iterator[str]:
    yield f"{report.copied} of {report.objects} objects were copied now"
    if report.extra:
        yield f"{report.extra} objects are in the target only; they were not changed"
    if not report.problems:
        yield "both sides were compared: every object of the source is in the target"


async def _copied(
    options: argparse.Namespace,
    settings: Settings,
    unsafe: Unsafe,
    progress: Callable[[int, int], None],
) -> Report:
    from verdictd_py.daemon.database import require_psycopg  # noqa: PLC0415  # slow
    from verdictd_py.daemon.sealing import sealer_of  # noqa: PLC0415

    require_psycopg()
    async with AsyncExitStack() as stack:
        sealer = sealer_of(settings)
        if sealer is not None:
            stack.push_async_callback(sealer.close)
            await sealer.check()
        sides = [
            await stack.enter_async_context(
                _side(site, settings, unsafe, sealer, plain=options.plain if is_target else None)
            )
            for site, is_target in ((options.source, False), (options.target, True))
        ]
        from verdictd_py.postgres.copying import copy  # noqa: PLC0415  # an optional extra

        try:
            return await copy(*sides, overwrite=options.overwrite, progress=progress)
        except StorageError as error:
            raise ConfigError(f"the copy has stopped: {error}; run the command again") from None


@asynccontextmanager
async def _side(
    site: str,
    settings: Settings,
    unsafe: Unsafe,
    sealer: EnvelopeSealer | None,
    *,
    plain: bool | None,
) -> AsyncIterator[Side]:
    """Open a side of the copy.

    Args:
        plain: whether a target is to have plain files; None for a source.

    Raises:
        ConfigError: it cannot be used.
    """
    if "://" not in site:
        yield _directory_side(Path(site), sealer, plain=plain)
        return
    if sealer is None:
        raise ConfigError("a database has only sealed objects; add --seal file:/path")
    async with opened_objects(settings, unsafe, sealer, site) as objects:
        from verdictd_py.postgres.copying import DatabaseSide  # noqa: PLC0415  # an optional extra

        yield DatabaseSide(objects)


def _directory_side(path: Path, sealer: EnvelopeSealer | None, *, plain: bool | None) -> Side:
    from verdictd_py.postgres.copying import DirectorySide  # noqa: PLC0415  # an optional extra
    from verdictd_py.storage.directory import LOCK_FILE, Directory  # noqa: PLC0415  # slow
    from verdictd_py.storage.inspection import DIRECTORIES  # noqa: PLC0415
    from verdictd_py.storage.objects import Objects, PlainObjects, SealedObjects  # noqa: PLC0415
    from verdictd_py.storage.sealedindex import SEALS  # noqa: PLC0415

    if plain is None and not path.is_dir():
        raise ConfigError(f"{path} is not a directory; correct --from")
    directory = Directory.open(path)
    is_sealed = directory.exists((SEALS,))
    if plain is not None:
        for name in DIRECTORIES:
            directory.make(name)
        if not directory.exists((LOCK_FILE,)):
            directory.create((LOCK_FILE,), b"")
    if plain and is_sealed:
        raise ConfigError(f"{path} is sealed; remove --plain")
    files: Objects = PlainObjects(directory)
    if is_sealed or plain is False:
        if sealer is None:
            raise ConfigError(f"the objects of {path} are sealed; add --seal, or --plain to --to")
        files = SealedObjects(directory, sealer)
    return DirectorySide(directory, files)
