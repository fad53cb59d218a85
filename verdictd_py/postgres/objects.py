"""Objects in the database: sealed, versioned, and followed by every process.

Theory of operation
-------------------

Each process has all entries of the ledger in memory (`ledger.Entry`: path, kind, revision), without
any content. *Confirmed* means: at that time, the database had no later change, and its tag was that
of these entries. A task confirms again after every notification, and at least each `POLL_SECONDS`.
Names, lists and revisions are answered from memory. A sealed object that was read once is answered
from memory as long as the ledger has the same revision; it is unsealed for each use.

Every use first requires a confirmation that is at most `BOUND_SECONDS` old, and waits for another
one if it is older. Therefore no object is used longer than that after it was replaced or withdrawn,
whatever happens to notifications, connections, or the database. Without a confirmation everything
is refused.

A change is computed from a confirmed state, sealed under the next numbers, and stored by one
serialisable transaction, which requires that the state is still the same. Otherwise it is computed
again. Nothing calls the key-encryption key's provider within a transaction.

What is detected: an altered or swapped row, a row of another path, or one of a change that failed
(the seal); an older row put back, a deleted row put back, a row removed (the ledger); the whole
database put back (each process never accepts a lower number than it has seen, and `mark` remembers
it across restarts).
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError
from verdictd_py.formats.sealed import parse_header
from verdictd_py.offload import LARGE, offload
from verdictd_py.ports.sealing import SealBroken, SealedName, Sealer
from verdictd_py.postgres.database import (
    Database,
    DatabaseUnavailable,
    Raced,
)
from verdictd_py.postgres.envelopes import Envelopes
from verdictd_py.postgres.ledger import DELETED, NONCE_BYTES, Entry, Ledger
from verdictd_py.postgres.mark import Mark
from verdictd_py.postgres.rows import (
    StateRow,
    advance,
    changed_since,
    create_store,
    read_sealed,
    read_state,
    replace_envelope,
    replace_ledger_key,
    upsert,
)
from verdictd_py.postgres.schema import CHANNEL

BOUND_SECONDS: Final = 10.0
"""Longest time for which an object is used after it was replaced or withdrawn at another broker."""

ABSENT_SECONDS: Final = 1.0
"""Longest time for which an object is reported as absent after another broker has stored it."""

POLL_SECONDS: Final = 3.0
"""Pause between two confirmations, unless a notification arrives."""

_ATTEMPTS: Final = 50
"""Attempts of a change that collides with those of other brokers; each time, one of them
succeeds."""

_MAX_REPORTED: Final = 1000

_BACKOFF_SECONDS: Final = 0.02
_MAX_BACKOFF_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Write:
    """An object to store.

    Attributes:
        content: None to delete it.
    """

    path: str
    kind: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class State:
    """A confirmed state of the store. `entries` is never changed.

    Attributes:
        change: number of the last change.
        total: sum of the ledger's terms.
        entries: by path, in no order.
        confirmed: when the confirmation began, by the clock of the event loop.
    """

    change: int
    total: int
    tag: bytes
    entries: Mapping[str, Entry]
    confirmed: float


class StoreAltered(SealBroken):
    """The database is not in a state that brokers have made; the message says which row, if
    known."""

    code = "store-altered"


class Objects:
    """All objects of a database, for one process.

    Args:
        sealer: seals and unseals.
        mark: remembers the last change across restarts; None if another process does.

    Attributes:
        changed: called with the paths of objects that have changed, in this process or another one.
        connected: called after the first confirmation, and after each failure that has ended.
        flipped: called when a confirmation has failed after one that succeeded, and the reverse.
        refused: called with the path and the error of each object that is refused.
    """

    def __init__(self, database: Database, sealer: Sealer, mark: Mark | None = None) -> None:
        self.database = database
        self.sealer = sealer
        self.changed: list[Callable[[Collection[str]], None]] = []
        self.connected: list[Callable[[], Awaitable[None]]] = []
        self.flipped: list[Callable[[], object]] = []
        self.refused: Callable[[str, StorageError], None] = lambda path, error: None  # noqa: ARG005
        self._mark = mark
        self._state: State | None = None
        self._ledger: Ledger | None = None
        self._sorted: tuple[int, list[str]] = (-1, [])
        self._refreshing = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._envelopes = Envelopes()
        self._notified = asyncio.Event()
        self._greeted = False
        self._refusals: set[str] = set()
        self._failed: tuple[float, StorageError] | None = None
        self._failing = False

    # Reading

    async def state(self) -> State:
        """Return a state that is confirmed within the bound.

        Raises:
            StorageError: it cannot be confirmed; the message has the cause.
        """
        state = self._state
        if state is not None and _now() - state.confirmed <= BOUND_SECONDS:
            return state
        return await self.confirm()

    async def read(self, path: str) -> bytes | None:
        """Return the content of an object, None if there is none.

        Raises:
            SealBroken: the row is not the one that the ledger has; the message names the object.
            StorageError: it cannot be read now.
        """
        try:
            return await self._read(path)
        except SealBroken as error:
            self._refuse(path, error)
            raise

    def _refuse(self, path: str, error: StorageError) -> None:
        """Report a refusal once; guests may cause the same one any number of times."""
        text = str(error)
        if text not in self._refusals:
            if len(self._refusals) >= _MAX_REPORTED:
                self._refusals.clear()
            self._refusals.add(text)
            self.refused(path, error)

    async def _read(self, path: str) -> bytes | None:
        state = await self.state()
        for _ in range(_ATTEMPTS):
            entry = state.entries.get(path)
            if entry is None or entry.is_deleted:
                if _now() - state.confirmed <= ABSENT_SECONDS:
                    return None
                state = await self.confirm()
                continue
            sealed = self._envelopes.get(entry)
            if sealed is not None:
                with suppress(SealBroken):  # its key-encryption key may have been rotated
                    return await self._unsealed(entry, sealed)
                self._envelopes.discard(path)
            revision, sealed = await self._row(path)
            if revision == entry.revision and sealed is not None:
                content = await self._unsealed(entry, sealed)
                self._envelopes.add(entry, sealed)
                return content
            state = await self.confirm()
            if state.entries.get(path) == entry:
                stored = "no row" if revision is None else f"a row of revision {revision}"
                raise StoreAltered(
                    f"{path} has {stored} in the database, and its last revision is "
                    f"{entry.revision}: the row was replaced or removed; restore it from a backup"
                )
        raise StorageError(f"{path} changes too fast to be read; try again")

    async def paths(self, prefix: str) -> list[str]:
        """Return the paths of all objects below a prefix, sorted.

        Raises:
            StorageError: see `state`.
        """
        state = await self.state()
        if self._sorted[0] != state.change:

            def names() -> list[str]:
                return sorted(p for p, entry in state.entries.items() if not entry.is_deleted)

            size = LARGE if len(state.entries) > 10_000 else 0
            self._sorted = state.change, await offload(size, names)
        return [path for path in self._sorted[1] if path.startswith(prefix)]

    @property
    def known(self) -> Mapping[str, Entry]:
        """The entries of the last confirmed state, however old it is."""
        return {} if self._state is None else self._state.entries

    @property
    def ledger(self) -> Ledger | None:
        """The ledger; None before the first confirmation."""
        return self._ledger

    async def problem(self) -> str:
        """Return why the store cannot be used, for readiness; empty if it can.

        It is not usable as soon as it cannot be confirmed, although it is used until the bound.
        """
        if self._failed is not None:
            return self.database.problem or str(self._failed[1])
        try:
            await self.state()
        except StorageError as error:
            return self.database.problem or str(error)
        return ""

    # Changing

    async def change(self, plan: Callable[[State], Awaitable[Sequence[Write]]]) -> State:
        """Store what a function plans for a state; it is called again if the state has changed.

        Args:
            plan: returns the objects to store. It reads with `read`, and raises what its caller
                is to receive.

        Raises:
            CommitUnknown: it is not known whether it is stored.
            StorageError: nothing is stored.
        """
        async with self._writing:
            backoff = _BACKOFF_SECONDS
            for _ in range(_ATTEMPTS):
                state = await self.confirm()
                writes = await plan(state)
                if not writes:
                    return state
                if self._state is state or self._is_same(state):
                    with suppress(Raced):
                        return await self._store(state, writes)
                await asyncio.sleep(backoff * (0.5 + secrets.randbelow(1000) / 1000))
                backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)
        raise StorageError("other brokers change the store too fast; try again")

    async def put(self, write: Write) -> State:
        """Store one object unconditionally."""

        async def plan(state: State) -> Sequence[Write]:
            del state
            return (write,)

        return await self.change(plan)

    def _is_same(self, state: State) -> bool:
        return self._state is not None and self._state.change == state.change

    async def _store(self, state: State, writes: Sequence[Write]) -> State:
        """Seal and store objects as the next changes.

        Raises:
            Raced: the state has changed.
        """
        ledger = self._ledger
        assert ledger is not None  # noqa: S101  # a state was confirmed with it
        at = time.time_ns() // 1000
        rows: list[tuple[Entry, bytes | None]] = []
        total = state.total
        entries: dict[str, Entry] = {}
        for number, write in enumerate(writes, state.change + 1):
            size = DELETED if write.content is None else len(write.content)
            nonce = secrets.token_bytes(NONCE_BYTES)
            entry = Entry(write.path, write.kind, number, size, at, nonce)
            sealed = None
            if write.content is not None:
                sealed = await self.sealer.seal(self._name(entry), write.content)
            old = entries.get(write.path) or state.entries.get(write.path)
            total = ledger.replaced(total, old, entry)
            entries[write.path] = entry
            rows.append((entry, sealed))
        change, begun = state.change + len(rows), _now()
        tag = ledger.tag(change, total)
        async with self.database.writing() as connection:
            await advance(connection, (state.change, state.tag), (change, tag))
            await upsert(connection, rows)
        new = State(change, total, tag, {**state.entries, **entries}, begun)
        self._apply(new, entries)
        return new

    # Confirmation

    async def confirm(self) -> State:
        """Read what has changed, and return a state that is confirmed after this call began.

        Raises:
            DatabaseUnavailable: the database does not answer.
            SealUnavailable: the ledger's key cannot be unsealed now.
            StoreAltered: the database was changed by another program than a broker.
        """
        asked = _now()
        async with self._refreshing:
            state = self._state
            if state is not None and state.confirmed >= asked:
                return state  # another caller has waited for the same
            if self._failed is not None and self._failed[0] >= asked:
                raise type(self._failed[1])(str(self._failed[1]))
            begun = _now()
            try:
                state = await self._confirmed()
            except StorageError as error:
                if not isinstance(error, DatabaseUnavailable):
                    self.database.problem = str(error)
                self._failed = begun, error
                self._note_failure()
                raise
            self.database.problem = ""
            self._failed = None
            self._note_failure()
            newest = self._state
            return newest if newest is not None and newest.change > state.change else state

    def _note_failure(self) -> None:
        failing = self._failed is not None
        if failing != self._failing:
            self._failing = failing
            for listener in self.flipped:
                listener()

    async def _confirmed(self) -> State:
        begun = _now()
        known = self._state
        since = 0 if known is None else known.change
        # Before the database is read: this process may store a change before it is verified.
        seen = since if self._mark is None else max(since, self._mark.change)
        async with self.database.reading() as connection:
            row = await read_state(connection)
            rows: list[Entry] = []
            if row is not None and (known is None or row.change != since):
                rows = await changed_since(connection, since)
        if row is None:
            if known is not None or (self._mark is not None and self._mark.store):
                raise StoreAltered(
                    "the database is empty, and this broker has used it before; restore it from a "
                    "backup"
                )
            await self._create()
            return await self._confirmed()
        ledger = await self._opened(row.store, row.key)
        if row.change < seen:
            raise self._rolled_back(row.change, seen)
        state = await self._verified(ledger, known, rows, row, begun)
        self._apply(state, {entry.path: entry for entry in rows})
        return state

    async def _verified(  # what was read, and when
        self,
        ledger: Ledger,
        known: State | None,
        rows: Sequence[Entry],
        row: StateRow,
        begun: float,
    ) -> State:
        """Return the state after these changed entries.

        Raises:
            StoreAltered: the tag is not that of the entries.
        """
        change, tag = row.change, row.tag
        entries = {} if known is None else known.entries
        if rows:
            entries = {**entries, **{entry.path: entry for entry in rows}}

        def total() -> int:
            if known is None:
                return ledger.sum(entries.values())
            result = known.total
            for entry in rows:
                result = ledger.replaced(result, known.entries.get(entry.path), entry)
            return result

        computed = await offload(LARGE if len(rows) > 500 else 0, total)
        if not hmac.compare_digest(ledger.tag(change, computed), tag):
            raise StoreAltered(
                f"the database was altered: {await _altered(ledger, known, entries, change, tag)}; "
                "restore it from a backup"
            )
        return State(change, computed, tag, entries, begun)

    def _rolled_back(self, change: int, seen: int) -> StoreAltered:
        remedy = "restore the newer state"
        if self._mark is not None:
            remedy += f"; if an older backup was restored on purpose, remove {self._mark.file}"
        return StoreAltered(
            f"the database was rolled back: its last change is {change}, and this broker has "
            f"seen {seen}; {remedy}"
        )

    def _apply(self, state: State, changed: Mapping[str, Entry]) -> None:
        before = self._state
        if before is not None and state.change < before.change:
            return  # a change of this process was stored meanwhile
        self._state = state
        if self._mark is not None and self._ledger is not None:
            self._mark.note(self._ledger.store, state.change)
        paths = [
            path
            for path, entry in changed.items()
            if before is None or before.entries.get(path) != entry
        ]
        for path in paths:
            self._envelopes.discard(path)
        if paths and before is not None:
            for listener in self.changed:
                listener(paths)

    async def _opened(self, store: str, sealed_key: bytes) -> Ledger:
        """Return the ledger, whose key is unsealed once."""
        if self._ledger is not None:
            if self._ledger.store != store:
                raise StoreAltered(
                    "the database was replaced by another one; restore it from a backup"
                )
            return self._ledger
        if self._mark is not None and self._mark.store not in ("", store):
            raise StoreAltered(
                "the database is not the one that this broker has used; correct --store, or remove "
                f"{self._mark.file} if it was replaced on purpose"
            )
        key = await self.sealer.unseal(_key_name(store), sealed_key)
        self._ledger = Ledger(store, SecretBytes(key))
        return self._ledger

    async def _create(self) -> None:
        """Make an empty store; another broker may do the same at this moment."""
        store = str(uuid.uuid4())
        key = secrets.token_bytes(32)
        sealed = await self.sealer.seal(_key_name(store), key)
        tag = Ledger(store, SecretBytes(key)).tag(0, 0)
        with suppress(Raced):
            async with self.database.writing() as connection:
                await create_store(connection, StateRow(store, 0, tag, sealed))

    # Following

    async def start(self) -> None:
        """Confirm for the first time.

        Raises:
            StorageError: see `confirm`.
        """
        await self.confirm()
        await self._greet()

    async def follow(self) -> None:
        """Confirm after each notification, and at least each `POLL_SECONDS`, until cancelled."""
        while True:
            self._notified.clear()
            try:
                await self.confirm()
                await self._greet()
            except SealBroken as error:
                self._greeted = False
                self._refuse("the database", error)
            except (StorageError, Raced):
                self._greeted = False  # the problem is reported by `problem`
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._notified.wait()

    async def _greet(self) -> None:
        if not self._greeted:
            for greet in self.connected:
                await greet()
            self._greeted = True

    async def listen(self) -> None:
        """Receive notifications, until cancelled; connect again after a pause, longer each time."""
        pause = _BACKOFF_SECONDS
        while True:
            with suppress(DatabaseUnavailable, OSError):
                connection = await self.database.connect()
                try:
                    pause = _BACKOFF_SECONDS
                    await self.database.listen(connection, CHANNEL, self._notified.set)
                finally:
                    await connection.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)

    # Sealed rows

    async def _row(self, path: str) -> tuple[int | None, bytes | None]:
        async with self.database.reading() as connection:
            return await read_sealed(connection, path)

    def _name(self, entry: Entry) -> SealedName:
        assert self._ledger is not None  # noqa: S101  # an entry was read with it
        return object_name(self._ledger.store, entry)

    async def _unsealed(self, entry: Entry, sealed: bytes) -> bytes:
        return await self.sealer.unseal(self._name(entry), sealed)

    # Rotation of the key-encryption key

    async def row_of(self, path: str) -> tuple[Entry | None, bytes | None]:
        """Return the entry of an object and its sealed row; None for what does not exist.

        Raises:
            SealBroken: the row is not the one that the ledger has.
            StorageError: it cannot be read now.
        """
        await self.read(path)
        entry = self.known.get(path)
        revision, sealed = await self._row(path)
        if entry is None or revision != entry.revision:
            return None, None  # it has just been changed, under the newest key
        return entry, sealed

    async def reseal(self, entry: Entry, sealed: bytes) -> bool:
        """Seal an object again under the newest key, unless its row has changed.

        Raises:
            Raced: another transaction changes the same row.
            StorageError: it cannot be done now.
        """
        name = self._name(entry)
        new = await self.sealer.seal(name, await self.sealer.unseal(name, sealed))
        async with self.database.writing() as connection:
            replaced = await replace_envelope(connection, entry, sealed, new)
        self._envelopes.discard(entry.path)
        return replaced

    async def reseal_ledger_key(self, version: str) -> bool:
        """Seal the ledger's key again, unless this version of the key has sealed it.

        Raises:
            StorageError: it cannot be done now.
        """
        async with self.database.reading() as connection:
            row = await read_state(connection)
        if row is None or parse_header(row.key).version == version:
            return False
        name = _key_name(row.store)
        new = await self.sealer.seal(name, await self.sealer.unseal(name, row.key))
        async with self.database.appending() as connection:
            return await replace_ledger_key(connection, row.key, new)

    def remember(self) -> str:
        """Write the mark; return a problem, empty if there is none."""
        return "" if self._mark is None else self._mark.write()

    async def close(self) -> None:
        """Close all connections."""
        await self.database.close()


def object_name(store: str, entry: Entry) -> SealedName:
    """Return the name that an object is sealed under.

    It has the store, because several may share a KEK, and the nonce of the attempt that stored it.
    """
    kind = f"{entry.kind} of store {store}, attempt {entry.nonce.hex()}"
    return SealedName(kind, entry.path, entry.revision)


def _key_name(store: str) -> SealedName:
    return SealedName(f"ledger-key of store {store}", "the ledger of the database", 1)


async def _altered(
    ledger: Ledger, known: State | None, entries: Mapping[str, Entry], change: int, tag: bytes
) -> str:
    """Describe the entry that does not have the tag, as far as it can be found."""
    path = ""
    if known is None:
        path = await offload(LARGE, partial(ledger.blame, entries, change, tag))
    if path:
        return f"{path} has an older row than its last one"
    return "a row is missing, older, or of a change that failed"


def _now() -> float:
    return asyncio.get_running_loop().time()
