"""Checks of the data directory: rights, content, free space, policies, collateral."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from verdictd_py.config import UNSAFE_ROOT_OPTION, Settings, Unsafe
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.diagnosis import paths
from verdictd_py.daemon.diagnosis.finding import Finding, Result, refusal, summary, validity
from verdictd_py.daemon.health import shortage
from verdictd_py.daemon.readiness import Readiness
from verdictd_py.daemon.sealing import Sealing, sealer_of
from verdictd_py.daemon.stores import Stores
from verdictd_py.daemon.usecases import use_cases
from verdictd_py.domain.events import WarningCollateral
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports import Tees
from verdictd_py.storage.access import problem_of_path
from verdictd_py.storage.directory import Directory, Segments
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.inspection import DIRECTORIES, Inspection
from verdictd_py.storage.layout import require_own
from verdictd_py.storage.stores import DirectoryCollateralStore
from verdictd_py.tees.intel.roots import read_root_ca
from verdictd_py.tees.registry import known_tees

MAX_EXAMINED: Final = 100_000
"""Files of the data directory that are examined."""

_LOCAL_SEALS: Final = frozenset({"file", "credential", "pkcs11"})
"""Providers of the seal's key that need no network."""

_COLLATERAL_SOON: Final = timedelta(days=7)
"""Intel's collateral is valid for 30 days."""


class _Unchanged(Directory):
    """Directory in which an inspection removes nothing."""

    def remove_leftover(self, segments: Segments) -> None:
        del segments


class _Collected:
    """Port `Events` that stores the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    async def commit(self, *events: Event) -> None:
        self.events += events


def directory(settings: Settings, unsafe: Unsafe) -> Iterator[Finding]:
    """Check the data directory, its rights and its content."""
    path = settings.data_dir.absolute()
    if (closed := paths.barrier(path)) is not None:
        text = f"this user cannot reach it, because it may not search {closed}; change its mode"
        yield Finding("data", str(path), Result.FAILURE, text)
        return
    if path.is_symlink() and not paths.exists(path):
        text = f"it is a link to {path.readlink()}, which does not exist; mount or create that"
        yield Finding("data", str(path), Result.FAILURE, text)
        return
    if not paths.exists(path):
        yield from _absent(path, unsafe)
        return
    owner = path.stat().st_uid
    if os.geteuid() == 0 != owner:
        name = _name(owner)
        text = f"it belongs to the user {name}, and root checks it; add --user {name}"
        yield Finding("data", str(path), Result.FAILURE, text)
        return

    def problems() -> Iterator[Finding]:
        if not paths.is_directory(path):
            text = f"{path} is not a directory; choose another --data-dir"
            yield Finding("data", str(path), Result.FAILURE, text)
            return
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            text = f"the file system of {path} is mounted read-only; mount it with write access"
            yield Finding("data", str(path), Result.FAILURE, text)
            return
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            text = f"this user cannot read and write {path}; change its owner, or run as its owner"
            yield Finding("data", str(path), Result.FAILURE, text)
            return
        opened = _Unchanged(path, unsafe_writable=unsafe.unsafe_writable_files)
        present = [name for name in DIRECTORIES if paths.exists(path / name)]
        if problem := opened.fault(*present):
            yield Finding("data", str(path), Result.FAILURE, f"cannot use {problem}")
            return
        yield from refusal("data", str(path), lambda: require_own(opened, path))
        yield from _content(opened, path)

    yield from summary("data", str(path), problems(), "only this user and root change it")


def _name(user: int) -> str:
    """Return the name of a user; its number if it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _absent(path: Path, unsafe: Unsafe) -> Iterator[Finding]:
    """Check that the start can create the data directory."""
    above = paths.first_existing(path.parents)
    if not paths.is_directory(above) or not os.access(above, os.W_OK | os.X_OK):
        text = f"it does not exist, and this user cannot create it in {above}; create it"
        yield Finding("data", str(path), Result.FAILURE, text)
        return
    problem = None if unsafe.unsafe_writable_files else problem_of_path(path)
    if problem is not None:
        yield Finding("data", str(path), Result.FAILURE, f"cannot use {problem}")
        return
    text = "the first start creates it, with the default policies"
    yield Finding("data", str(path), Result.OK, text)


def _content(opened: Directory, path: Path) -> Iterator[Finding]:
    try:
        inspection = Inspection(opened)
        inspection.advance(MAX_EXAMINED)
    except StorageError as error:
        yield Finding("data", str(path), Result.FAILURE, f"{error}; check its permissions")
        return
    for warning in inspection.warnings:
        yield Finding("data", str(path), Result.WARNING, warning)


def space(settings: Settings) -> Iterator[Finding]:
    """Check that the file systems that the broker writes have space."""

    def problems() -> Iterator[Finding]:
        file_systems: set[int] = set()
        for where in dict.fromkeys(_written(settings)):
            try:
                device, status = where.stat().st_dev, os.statvfs(where)
            except OSError:
                continue  # another check reports it
            if device in file_systems:
                continue
            file_systems.add(device)
            free = status.f_bavail * status.f_frsize
            if problem := shortage(status):
                text = f"{problem}; remove files there or enlarge the file system"
                yield Finding("disk", str(where), Result.FAILURE, text)
            elif free < 2 * settings.audit_reserve_bytes:
                text = (
                    f"{free // 2**20} MiB are free, and --audit-reserve-bytes takes "
                    f"{settings.audit_reserve_bytes // 2**20} MiB; remove files there or enlarge "
                    "the file system"
                )
                yield Finding("disk", str(where), Result.WARNING, text)

    yield from summary("disk", "", problems(), "there is free space")


def _written(settings: Settings) -> Iterator[Path]:
    """Yield directories that exist, one for each directory that the broker writes."""
    wanted = [settings.data_dir, *(settings.data_dir / name for name in DIRECTORIES)]
    if (sessions := settings.kbs_sessions_file) is not None:
        wanted.append(sessions.parent)
    for path in wanted:
        yield paths.first_existing((path, *path.absolute().parents))


async def decisions(settings: Settings, unsafe: Unsafe, now: datetime) -> list[Finding]:
    """Check the policies and the reference data in force, and the collateral.

    Without a data directory only the collateral is checked: there are no documents yet. With a
    database nothing is checked that it stores, because it is not contacted.
    """
    path = settings.data_dir.absolute()
    exists = settings.store is None and paths.is_directory(path)
    exists = exists and os.access(path, os.R_OK | os.X_OK)
    opened = _Unchanged(path, unsafe_writable=True)  # who may write it is checked elsewhere
    collected = _Collected()
    try:
        root = unsafe.root_ca
        root_ca = None if root is None else read_root_ca(root, option=UNSAFE_ROOT_OPTION)
        tees = known_tees(settings.verifier)
        service = CollateralService(
            settings,
            DirectoryCollateralStore(opened),
            clock=lambda: now,
            events=collected,
            root_ca_der=root_ca,
        )
    except ConfigError as error:
        return [Finding("collateral", "", Result.FAILURE, str(error))]
    try:
        found = await _collateral(settings, service, collected, now, exists=exists)
        documents = path / OPA
        closed = paths.exists(documents) and not os.access(documents, os.R_OK | os.X_OK)
        if exists and not closed:  # `directory` reports one that this user cannot read
            found += await _policies(settings, unsafe, opened, tees, service, root_ca, now)
        if settings.store is not None:
            text = "they are in the database, which was not contacted"
            found.append(Finding("policies", "", Result.OK, text))
        return found
    finally:
        await service.close()


async def _collateral(
    settings: Settings,
    service: CollateralService,
    collected: _Collected,
    now: datetime,
    *,
    exists: bool,
) -> list[Finding]:
    source = _source(settings)
    found: list[Finding] = []
    bad = Result.WARNING if settings.collateral_grace else Result.FAILURE
    for event in collected.events:
        if isinstance(event, WarningCollateral):
            text = f"{event.about}: {event.problem}; fetch it again"
            found.append(Finding("collateral", event.file, bad, text))
    if settings.collateral is not None:
        remedy = "fetch it again with 'verdictd-py collateral fetch'"
        soon = {end for _, end in service.validity if now < end <= now + _COLLATERAL_SOON}
        for end in () if found else sorted(soon):  # what does not verify is fetched again anyway
            start = datetime.fromtimestamp(0, end.tzinfo)
            found += validity("collateral", str(settings.collateral), start, end, now, remedy)
        if not service.validity:
            text = "it has no collateral, so that no guest of Intel's TEEs is accepted; fetch some"
            found.append(Finding("collateral", str(settings.collateral), bad, text))
    elif exists and settings.collateral_url:
        with suppress(StorageError):
            await service.sets()
        if problem := await service.problem():
            found.append(Finding("collateral", source, Result.WARNING, problem))
    return list(summary("collateral", source, found, "it can be used; nothing was fetched now"))


async def seal(settings: Settings) -> list[Finding]:
    """Check the key that seals the stored objects; one in a network is not contacted."""
    if settings.seal is None:
        return []
    scheme = settings.seal.partition(":")[0]
    found: list[Finding] = []
    try:
        sealer = sealer_of(settings)
        if sealer is not None and scheme in _LOCAL_SEALS:
            try:
                await sealer.check()
            finally:
                await sealer.close()
    except (ConfigError, StorageError) as error:
        found.append(Finding("seal", f"--seal {scheme}:", Result.FAILURE, str(error)))
    text = "it can be used" if scheme in _LOCAL_SEALS else "it is valid; nothing was contacted"
    return list(summary("seal", f"--seal {scheme}:", found, text))


def _source(settings: Settings) -> str:
    if settings.collateral is not None:
        return f"--collateral {settings.collateral}"
    if settings.collateral_url:
        return f"--collateral-url {', '.join(map(_without_user, settings.collateral_url))}"
    return "guests send it"


def _without_user(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


async def _policies(  # what the use cases are built from
    settings: Settings,
    unsafe: Unsafe,
    opened: Directory,
    tees: Tees,
    service: CollateralService,
    root_ca: bytes | None,
    now: datetime,
) -> list[Finding]:
    collected = _Collected()
    try:
        sealing = Sealing.of(settings, opened, collected)
    except ConfigError:
        sealing = None  # `seal` reports it
    objects = None if sealing is None else sealing.objects
    stores = Stores.on(opened, tees, collected, objects, read_only=True)
    try:
        cases = use_cases(
            settings,
            unsafe,
            opened,
            tees=tees,
            intel=service.intel,
            root_ca_der=root_ca,
            clock=lambda: now,
            events=collected,
            stores=stores,
        )
    except ConfigError as error:
        return [Finding("policies", "", Result.FAILURE, str(error))]
    if not paths.is_directory(settings.data_dir / OPA):
        return [Finding("policies", "", Result.OK, "the first start writes the default policies")]
    standing = await Readiness(cases, collected).refresh()
    found = [
        Finding("policies", who, Result.FAILURE, f"guests are refused: {text}")
        for who, text in standing.problems.items()
    ]
    found += [
        Finding("policies", name, Result.WARNING, text) for name, text in standing.unread.items()
    ]
    found += [
        Finding("policies", path, Result.WARNING, text) for path, text in standing.contents.items()
    ]
    if standing.open_measurements:
        text = (
            f"UNPINNED: guests are accepted whatever {', '.join(standing.open_measurements)} "
            "measure; pin a guest with 'verdict-py reference pin'"
        )
        found.append(Finding("policies", "", Result.WARNING, text))
    return list(summary("policies", "", found, "they can be used, and measurements are pinned"))
