"""`verdictd-py store seal|rotate|unseal|verify`: seal a data directory while brokers use it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from verdictd_py.cli.parsing import Parser
from verdictd_py.cli.store.actions import Actions, add_action, print_report
from verdictd_py.cli.store.counting import counting
from verdictd_py.cli.store.database import add_protection_options, opened_objects, settings_of
from verdictd_py.errors import ConfigError
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.resealing import Report, Resealing


class Work(Protocol):
    """What can be done with the objects of a data directory or a database."""

    async def rotate(self) -> Report: ...
    async def verify(self, *, forget: bool = False) -> Report: ...


@dataclass(frozen=True, slots=True)
class _Store:
    """A sealed data directory.

    Attributes:
        current: returns the newest version of the key.
    """

    work: Work
    current: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Result:
    """Result of an action.

    Attributes:
        text: what was done.
        conclusion: what follows if there is no problem.
    """

    report: Report
    text: str
    conclusion: str


def add(actions: Actions[Parser]) -> None:
    """Add the actions."""
    seal = add_action(
        actions,
        "seal",
        "seal every plain object; from then on, plain objects are refused",
        _seal,
        details="Start the brokers with --seal before: they read plain and sealed objects then.\n"
        "It can be interrupted at any time, and continues when it is run again.",
    )
    seal.add_argument(
        "--accept-plain",
        action="store_true",
        help="also seal plain objects that appeared after all were sealed: you put them there",
    )
    seal.add_argument(
        "--rebuild-index",
        action="store_true",
        help="if seals/ was lost: trust the sealed objects that are there as the newest ones",
    )
    rotate = add_action(
        actions,
        "rotate",
        "seal again what older versions of the key have sealed",
        _rotate,
        details="Create the newer version first (verdictd-py store new-key FILE).\n"
        "It can be interrupted at any time, and continues when it is run again.",
    )
    unseal = add_action(
        actions,
        "unseal",
        "replace every sealed object by a plain one",
        _unseal,
        details="Start the brokers without --seal afterwards, and remove the directory seals/.",
    )
    verify = add_action(
        actions,
        "verify",
        "unseal every object, and compare all of them with the index; nothing is changed",
        _verify,
    )
    verify.add_argument(
        "--forget",
        action="store_true",
        help="remove what the index has about objects that do not exist: you removed them",
    )
    for action in (seal, rotate, unseal, verify):
        add_store_options(action)
        if action in (rotate, verify):
            action.add_argument("--store", metavar="URL", help="database, not a data directory")
        add_protection_options(action)
        action.add_argument("--json", action="store_true", help="output as JSON")


def add_store_options(action: Parser) -> None:
    """Add the options that name a sealed data directory; they are those of the daemon."""
    action.add_argument("--config", metavar="FILE", type=Path, help="settings of the daemon, TOML")
    action.add_argument("--data-dir", metavar="DIR", help="data directory (/opt/verdictd)")
    action.add_argument(
        "--seal", metavar="URI", help="key: file:/path, credential:NAME, pkcs11:..."
    )


def _seal(options: argparse.Namespace) -> int:
    async def work(store: _Store) -> _Result:
        directory, rebuilt = _directory_of(store), 0
        if options.rebuild_index:
            rebuilt = await directory.rebuild_index()
        report = await directory.seal(accept_plain=options.accept_plain)
        text = (
            f"{report.sealed} of {report.objects} objects are sealed, {report.changed} of them now"
        )
        if rebuilt:
            text = f"the index was built again from {rebuilt} objects; {text}"
        return _Result(report, text, "plain objects are refused from now on")

    return _run(options, "seal", work)


def _directory_of(store: _Store) -> Resealing:
    if not isinstance(store.work, Resealing):
        raise ConfigError("every object of a database is sealed, always; omit --store")
    return store.work


def _rotate(options: argparse.Namespace) -> int:
    async def work(store: _Store) -> _Result:
        report = await store.work.rotate()
        text = (
            f"{report.sealed} of {report.objects} objects are sealed under {store.current()}, "
            f"{report.changed} of them now"
        )
        return _Result(report, text, "older versions of the key can be removed")

    return _run(options, "rotate", work)


def _unseal(options: argparse.Namespace) -> int:
    async def work(store: _Store) -> _Result:
        report = await _directory_of(store).unseal()
        text = f"{report.changed} of {report.objects} objects were unsealed"
        return _Result(
            report, text, "start the brokers without --seal, then remove the directory seals/"
        )

    return _run(options, "unseal", work)


def _verify(options: argparse.Namespace) -> int:
    async def work(store: _Store) -> _Result:
        report = await store.work.verify(forget=options.forget)
        text = f"{report.objects} objects, {report.sealed} of them sealed"
        if report.missing and options.forget:
            text += f"; {report.missing} that do not exist were removed from the index"
        elif report.missing:
            report.add_problem(
                f"{report.missing} objects that the index names do not exist; restore them, or "
                "add --forget if you removed them"
            )
        return _Result(report, text, "every object is the one that was stored last")

    return _run(options, "verify", work)


def _run(
    options: argparse.Namespace, name: str, work: Callable[[_Store], Awaitable[_Result]]
) -> int:
    """Do the work on a sealed data directory, and print its result."""
    with counting(f"{name}: %d of %d objects") as progress:
        result = asyncio.run(_with_store(options, progress, work))
    report = result.report
    members = {
        "objects": report.objects,
        "sealed": report.sealed,
        "changed": report.changed,
        "missing": report.missing,
        "versions": report.versions,
        "problems": report.problems,
    }
    text = (result.text,) if report.problems else (result.text, result.conclusion)
    return print_report(name, "store-report", members, text, as_json=options.json)


async def _with_store(
    options: argparse.Namespace,
    progress: Callable[[int, int], None],
    work: Callable[[_Store], Awaitable[_Result]],
) -> _Result:
    # Late: `--help` and a wrong option need not load the whole broker.
    from verdictd_py.daemon.sealing import sealer_of  # noqa: PLC0415

    settings, unsafe = settings_of(options)
    sealer = sealer_of(settings)
    if sealer is None:
        raise ConfigError("no key is named; add --seal file:/path, or --config FILE")

    def current() -> str:
        return sealer.key.current

    try:
        if settings.store is not None:
            async with opened_objects(settings, unsafe, sealer) as shared:
                from verdictd_py.postgres.resealing import DatabaseResealing  # noqa: PLC0415

                await sealer.check()
                database = DatabaseResealing(shared, current=current, progress=progress)
                return await work(_Store(database, current))
        if not settings.data_dir.is_dir():
            raise ConfigError(f"{settings.data_dir} is not a directory; correct --data-dir")
        await sealer.check()
        directory = Directory.open(settings.data_dir)
        objects = SealedObjects(directory, sealer)
        resealing = Resealing(directory, objects, current=current, progress=progress)
        return await work(_Store(resealing, current))
    finally:
        await sealer.close()
