"""The database of `--store` in a process of the broker: its objects, its health, and its work."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.health import Check
from verdictd_py.daemon.sealing import sealer_of
from verdictd_py.daemon.stores import Stores
from verdictd_py.daemon.supervisor import Work
from verdictd_py.domain.events import AuditHead, SealRefused, WarningStorage
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.packaged import policy_text
from verdictd_py.ports import Events, Tees
from verdictd_py.ports.history import HistoryStore
from verdictd_py.ports.sealing import SealBroken
from verdictd_py.ports.tees import Documents
from verdictd_py.ports.tokenkeys import TokenKeyStore
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.layout import IMAGE_DEFAULTS, RELEASE_FILES

if TYPE_CHECKING:  # psycopg is an optional extra
    from verdictd_py.postgres.address import Address
    from verdictd_py.postgres.database import Database
    from verdictd_py.postgres.heads import StoredHeads
    from verdictd_py.postgres.objects import Objects

STATE: Final = "postgres"
"""Directory of the data directory with what this broker remembers of the database."""

REMEMBER_SECONDS: Final = 2.0
"""Pause between two writes of the mark, if anything has changed."""

LAST_SECONDS: Final = 0.35
"""Time limit for what a broker that stops still stores. All of its closing is limited
(`release.CLOSE_SECONDS`), and the connections are to be closed as well."""

MAX_NOTED: Final = 10_000
"""Heads of the audit trail that wait while the database does not answer; older ones are lost."""


class NotedHeads:
    """Receiver of events that notes the heads of the audit trail and passes all events on.

    Attributes:
        waiting: the heads that are not stored yet.
    """

    def __init__(self, log: Events) -> None:
        self._log = log
        self.waiting: deque[AuditHead] = deque(maxlen=MAX_NOTED)

    def record(self, event: Event) -> None:
        if isinstance(event, AuditHead):
            self.waiting.append(event)
        self._log.record(event)

    async def commit(self, *events: Event) -> None:
        self.waiting.extend(event for event in events if isinstance(event, AuditHead))
        await self._log.commit(*events)


@dataclass(frozen=True, slots=True)
class SharedStore:
    """The database, as one process of the broker uses it.

    Attributes:
        broker: id of this broker, the same in all of its processes and after a restart.
        remembers: whether this process writes the mark: one of the broker's processes does.
    """

    objects: Objects
    heads: StoredHeads
    sealer: EnvelopeSealer
    broker: str
    remembers: bool

    @classmethod
    def of(
        cls, settings: Settings, unsafe: Unsafe, noted: NotedHeads, *, worker: bool = False
    ) -> SharedStore | None:
        """Return the database that the settings name, not connected; None if they name none.

        Args:
            noted: the heads of the audit trail of this process.
            worker: whether this process serves guests for another one.

        Raises:
            ConfigError: the settings cannot be used; the message has the cause and the remedy.
        """
        refuse_password_without_effect(settings)
        require_seal(settings)
        sealer = sealer_of(settings)
        if settings.store is None or sealer is None:
            return None
        database = open_database(settings, unsafe)
        from verdictd_py.postgres.heads import StoredHeads  # noqa: PLC0415  # an optional extra
        from verdictd_py.postgres.mark import Mark  # noqa: PLC0415
        from verdictd_py.postgres.objects import Objects  # noqa: PLC0415

        state = settings.data_dir / STATE
        broker = _broker_id(state / "broker-id")
        objects = Objects(database, sealer, Mark(state / "mark.json"))
        return cls(
            objects, StoredHeads(database, broker, noted.waiting), sealer, broker, not worker
        )

    def stores(self, tees: Tees, events: Events) -> Stores:
        """Return the stores in the database."""
        from verdictd_py.postgres.documents import (  # noqa: PLC0415  # an optional extra
            PostgresDocumentStore,
        )
        from verdictd_py.postgres.stores import (  # noqa: PLC0415
            PostgresCollateralStore,
            PostgresKeyStore,
            PostgresResourceStore,
        )

        digests = DigestLog(events)
        self.objects.refused = partial(_record_refusal, events)
        return Stores(
            PostgresKeyStore(self.objects),
            PostgresResourceStore(self.objects, events=events, digests=digests),
            PostgresDocumentStore(self.objects, tees, digests=digests),
            PostgresCollateralStore(self.objects),
            digests,
        )

    def history(self, events: Events) -> HistoryStore:
        """Return the store of the history."""
        from verdictd_py.postgres.history import PostgresHistory  # noqa: PLC0415

        return PostgresHistory(self.objects, self.broker, events)

    def token_keys(self) -> TokenKeyStore:
        """Return the store of the keys of attestation tokens."""
        from verdictd_py.postgres.tokenkeys import PostgresTokenKeys  # noqa: PLC0415

        return PostgresTokenKeys(self.objects)

    def announce_to(self, announce: Callable[[], None], digests: DigestLog) -> None:
        """Have changes of documents by any broker announced in this process."""

        def changed(paths: Collection[str]) -> None:
            if any(path.startswith(f"{OPA}/") for path in paths):
                announce()
                digests.changed()

        self.objects.changed.append(changed)

    def write_defaults(self, documents: Iterable[Documents]) -> None:
        """Have the defaults that are missing stored when the database answers first."""
        defaults = {"/".join(segments): content for segments, content in IMAGE_DEFAULTS}
        for of_tee in documents:
            defaults |= {f"{OPA}/{name}": of_tee.packaged(name).encode() for name in of_tee.names}
        defaults |= {f"{OPA}/{name}": policy_text(name).encode() for name in RELEASE_FILES}
        self.objects.connected.append(partial(_store_missing, self.objects, defaults))

    async def start(self) -> None:
        """Connect. If the database does not answer, the broker starts and is not ready.

        Raises:
            ConfigError: the database answers and cannot be used; the message has the remedy.
        """
        from verdictd_py.postgres.database import SchemaUnusable  # noqa: PLC0415

        try:
            await self.objects.start()
        except (SchemaUnusable, SealBroken) as error:
            raise ConfigError(f"--store: {error}") from None
        except StorageError:
            return  # readiness reports it, and `follow` tries again
        if problem := self._remember():
            raise ConfigError(f"--store: {problem}; make it writable for this user")

    @property
    def background(self) -> tuple[Work, ...]:
        """Work that runs while the process runs."""
        works = [
            Work("follow the database", self.objects.follow),
            Work("receive notifications of the database", self.objects.listen),
            Work("store audit heads", self.heads.keep),
        ]
        if self.remembers:
            works.append(Work("remember the state of the database", self._keep_remembered))
        return tuple(works)

    def checks(self) -> dict[str, Check]:
        """Return the checks of the health."""
        return {"store": self.problem, "seal": partial(_seal_problem, self.sealer)}

    async def problem(self) -> str:
        """Return why the database cannot be used now; empty if it can. For the health."""
        return await self.objects.problem() or self._remember()

    async def _keep_remembered(self) -> None:
        while True:
            await asyncio.sleep(REMEMBER_SECONDS)
            self._remember()

    def _remember(self) -> str:
        return self.objects.remember() if self.remembers else ""

    async def close(self, *before: Callable[[], Awaitable[None]]) -> None:
        """Write the mark, store what is left if the database answers, and close all connections.

        Args:
            before: what stores the rest of other parts.
        """
        self._remember()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                for store in (*before, self.heads.flush):
                    await store()
        await self.objects.close()
        await self.sealer.close()


def refuse_password_without_effect(settings: Settings) -> None:
    """Refuse the password of a database without a database.

    Raises:
        ConfigError: there is one.
    """
    named = settings.store or settings.kbs_sessions_database
    if settings.store_password_file is not None and named is None:
        raise ConfigError(
            "--store-password-file has no effect without --store; add it, or remove it"
        )


def require_seal(settings: Settings) -> None:
    """Refuse a database without a seal.

    Raises:
        ConfigError: the seal is missing.
    """
    if settings.store is not None and settings.seal is None:
        raise ConfigError(
            "--store needs --seal, because a database has nothing but sealed objects; add "
            "--seal file:/path (docs/postgresql.md)"
        )


def open_database(settings: Settings, unsafe: Unsafe, url: str | None = None) -> Database:
    """Return the database of `--store`, or of another URL with the same password and protection.

    Raises:
        ConfigError: the settings cannot be used, or psycopg is not installed.
    """
    address = database_address(settings, unsafe, url or settings.store or "")
    require_password(address)
    from verdictd_py.postgres.database import Database  # noqa: PLC0415  # an optional extra

    return Database(address)


def database_address(settings: Settings, unsafe: Unsafe, url: str) -> Address:
    """Return the address of a database, checked; no file is read.

    Raises:
        ConfigError: the URL cannot be used, or psycopg is not installed.
    """
    require_psycopg()
    from verdictd_py.postgres.address import Address  # noqa: PLC0415  # an optional extra

    return Address.parse(
        url,
        option="--kbs-sessions" if url == settings.kbs_sessions_database else "--store",
        password_file=settings.store_password_file,
        unsafe_tls=unsafe.unsafe_store_tls,
    )


def require_password(address: Address) -> None:
    """Read the password, if the address has one.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        address.password()
    except StorageError as error:
        raise ConfigError(f"--store-password-file: {error}") from None


def require_psycopg() -> None:
    """Import what the package of the database needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import psycopg  # noqa: F401, PLC0415  # an optional extra
        import psycopg_pool  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigError(
            "PostgreSQL needs psycopg, which is not installed; run "
            "'pip install \"verdictd-py[postgres]\"'"
        ) from None


async def _store_missing(objects: Objects, defaults: dict[str, bytes]) -> None:
    from verdictd_py.postgres.objects import State, Write  # noqa: PLC0415  # an optional extra
    from verdictd_py.postgres.stores import kind_of  # noqa: PLC0415

    async def plan(state: State) -> Sequence[Write]:
        return [
            Write(path, kind_of(path), content)
            for path, content in defaults.items()
            if path not in state.entries or state.entries[path].is_deleted
        ]

    await objects.change(plan)


async def _seal_problem(sealer: EnvelopeSealer) -> str:
    try:
        await sealer.check()
    except StorageError as error:
        return str(error)
    return ""


def _record_refusal(events: Events, path: str, error: StorageError) -> None:
    if isinstance(error, SealBroken):
        events.record(SealRefused(path=path, reason=str(error)))
    else:
        events.record(WarningStorage(reason=str(error)))


def _broker_id(file: Path) -> str:
    """Return the id in a file, which is created if it is missing.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, str(uuid.uuid4()).encode())
            finally:
                os.close(descriptor)
        return str(uuid.UUID(file.read_text()))
    except OSError as error:
        raise ConfigError(f"cannot use {file}: {error.strerror}; check its owner") from None
    except ValueError:
        raise ConfigError(f"{file} is damaged; remove it, and start again") from None
