"""How long an object is used, and what happens when two brokers change the same one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.clock import elapse, until
from tests.support.events import RecordedEvents
from tests.support.postgres import TestDatabase, documents_of, key_file, objects_of
from verdictd_py.domain.events import FileChanged
from verdictd_py.domain.names import KeyId, Name
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import AlreadyExists, Conflict, NotFound, StorageError
from verdictd_py.ports import ABSENT, ANY
from verdictd_py.ports.sealing import SealedName, SealUnavailable
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Connection, Database, DatabaseUnavailable
from verdictd_py.postgres.objects import ABSENT_SECONDS, BOUND_SECONDS, Objects, Write
from verdictd_py.postgres.rows import StateRow, read_state
from verdictd_py.postgres.stores import PostgresKeyStore
from verdictd_py.postgres.tokenkeys import PostgresTokenKeys

POLICY = Name.parse("mine.rego")
ONE = KeyId.parse("one")
KEY = SecretBytes(b"1" * KEY_BYTES)


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest_asyncio.fixture
async def brokers(database: TestDatabase) -> AsyncIterator[tuple[Objects, Objects]]:
    """The objects as two brokers see them; nothing follows the changes."""
    one, two = objects_of(database), objects_of(database)
    yield one, two
    await one.close()
    await two.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return the number of transactions that read."""
    count = 0
    reading = Database.reading

    def counted(self: Database) -> object:
        nonlocal count
        count += 1
        return reading(self)

    monkeypatch.setattr(Database, "reading", counted)
    return lambda: count


async def test_without_notifications_a_withdrawn_document_is_used_within_the_bound_only(
    brokers: tuple[Objects, Objects],
) -> None:
    one, two = brokers
    events = RecordedEvents()
    mine, other = documents_of(one), documents_of(two, events)
    await mine.put(POLICY, "allows", expected=ANY)
    assert (await other.get(POLICY)).text == "allows"
    await mine.put(POLICY, "refuses", expected=ANY)
    await elapse(BOUND_SECONDS)
    assert (await other.get(POLICY)).text == "refuses"
    assert [event.sha256 for event in events.of(FileChanged)] == [
        (await mine.get(POLICY)).revision if text == "refuses" else event.sha256
        for text, event in zip(("allows", "refuses"), events.of(FileChanged), strict=True)
    ]


async def test_within_the_bound_nothing_queries_the_database(
    brokers: tuple[Objects, Objects], statements: Callable[[], int]
) -> None:
    documents, keys = documents_of(brokers[0]), PostgresKeyStore(brokers[0])
    await documents.put(POLICY, "allows", expected=ANY)
    await keys.create(ONE, KEY)
    first = await documents.snapshot((POLICY,)), await keys.get(ONE)
    before = statements()
    for _ in range(100):
        assert await documents.snapshot((POLICY,)) is first[0]
        assert await keys.get(ONE) == first[1]
    assert statements() == before


async def test_beyond_the_bound_nothing_is_served_without_the_database(
    brokers: tuple[Objects, Objects], database: TestDatabase
) -> None:
    documents, keys = documents_of(brokers[0]), PostgresKeyStore(brokers[0])
    await documents.put(POLICY, "allows", expected=ANY)
    await keys.create(ONE, KEY)
    await documents.get(POLICY)
    await keys.get(ONE)
    database.stop()
    try:
        with pytest.raises(DatabaseUnavailable):
            await brokers[0].confirm()
        assert await brokers[0].problem()  # readiness reports it at once
        assert (await documents.get(POLICY)).text == "allows"  # confirmed, until the bound
        await elapse(BOUND_SECONDS)
        for call in (documents.get(POLICY), keys.get(ONE), keys.get(KeyId.parse("two"))):
            with pytest.raises(DatabaseUnavailable):
                await call
        assert await brokers[0].problem()
    finally:
        database.resume()
    assert await keys.get(ONE) == KEY
    assert not await brokers[0].problem()


async def test_a_notification_makes_a_broker_confirm_at_once(
    brokers: tuple[Objects, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verdictd_py.postgres.objects.POLL_SECONDS", 1e6)
    one, two = brokers
    changed: list[str] = []
    two.changed.append(changed.extend)
    tasks = [asyncio.create_task(work()) for work in (two.follow, two.listen)]
    try:
        await until(lambda: two.known is not None and two.ledger is not None)
        await documents_of(one).put(POLICY, "new", expected=ANY)
        await until(lambda: changed)
        assert changed == ["opa/mine.rego"]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_change_of_its_own_during_a_confirmation_is_no_roll_back(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The confirmation has read the state before the change, and verifies it afterwards."""
    one = objects_of(database, mark=tmp_path / "mark.json")
    documents = documents_of(one)
    state = await one.confirm()
    overtaken = False

    async def overtaking(connection: Connection) -> StateRow | None:
        nonlocal overtaken
        row = await read_state(connection)
        if not overtaken:
            overtaken = True
            await one._store(state, [Write(f"opa/{POLICY}", "document", b"new")])
        return row

    monkeypatch.setattr("verdictd_py.postgres.objects.read_state", overtaking)
    try:
        assert (await one.confirm()).change == state.change + 1
        assert (await documents.get(POLICY)).text == "new"
    finally:
        await one.close()


async def test_an_absent_object_is_looked_for_again(brokers: tuple[Objects, Objects]) -> None:
    one, two = PostgresKeyStore(brokers[0]), PostgresKeyStore(brokers[1])
    with pytest.raises(NotFound):
        await two.get(ONE)
    await one.create(ONE, KEY)
    await elapse(ABSENT_SECONDS)
    assert await two.get(ONE) == KEY


async def test_of_two_brokers_one_creates_a_key(brokers: tuple[Objects, Objects]) -> None:
    stores = [PostgresKeyStore(objects) for objects in brokers]
    results = await asyncio.gather(
        *(store.create(ONE, KEY) for store in stores for _ in range(5)), return_exceptions=True
    )
    assert results.count(None) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9


async def test_of_two_brokers_one_changes_a_document(brokers: tuple[Objects, Objects]) -> None:
    one, two = map(documents_of, brokers)
    first = await one.put(POLICY, "first", expected=ABSENT)
    results = await asyncio.gather(
        *(store.put(POLICY, f"{n}", expected=first) for n, store in enumerate((one, two) * 5)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 9
    assert (await two.get(POLICY)).text in "0123456789"


async def test_each_change_has_the_next_number_also_after_a_deletion(
    brokers: tuple[Objects, Objects],
) -> None:
    keys = PostgresKeyStore(brokers[0])
    await keys.create(ONE, KEY)
    await keys.delete(ONE)
    await keys.create(ONE, KEY)
    (state,) = [await brokers[1].confirm()]
    assert (state.change, state.entries["keys/one"].revision) == (3, 3)


async def test_one_of_two_brokers_replaces_the_token_keys(
    brokers: tuple[Objects, Objects],
) -> None:
    one, two = map(PostgresTokenKeys, brokers)
    assert await one.read() is None
    assert await one.replace(b"first", before=None)
    assert not await two.replace(b"other", before=None)
    stored = await two.read()
    assert stored is not None
    assert stored.content == b"first"
    assert await two.replace(b"second", before=stored)
    assert not await one.replace(b"third", before=stored)


class Unavailable:
    """A sealer whose key-encryption key does not answer."""

    async def seal(self, name: SealedName, content: bytes) -> bytes:
        raise SealUnavailable("the token is locked")

    async def unseal(self, name: SealedName, sealed: bytes) -> bytes:
        raise SealUnavailable("the token is locked")


async def test_without_the_key_encryption_key_everything_is_refused(
    brokers: tuple[Objects, Objects], database: TestDatabase
) -> None:
    await PostgresKeyStore(brokers[0]).create(ONE, KEY)
    sealed = objects_of(database, sealer=Unavailable())
    try:
        with pytest.raises(SealUnavailable):
            await PostgresKeyStore(sealed).get(ONE)
        assert await sealed.problem() == "the token is locked"
    finally:
        await sealed.close()


async def test_a_change_whose_end_is_not_known_is_not_acknowledged(
    brokers: tuple[Objects, Objects], database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = brokers[0]
    keys = PostgresKeyStore(objects)
    await objects.confirm()
    commit = Database._commit

    async def ended(self: Database, connection: object) -> None:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await commit(self, connection)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "_commit", ended)
    with pytest.raises(StorageError):
        await keys.create(ONE, KEY)
    monkeypatch.undo()
    await elapse(ABSENT_SECONDS)
    with pytest.raises(NotFound):
        await keys.get(ONE)


async def test_a_password_file_that_other_users_can_read_is_refused(
    database: TestDatabase,
) -> None:
    database.password_file.chmod(0o604)
    try:
        objects = Objects(Database(database.address()), postgres.sealer_of())
        with pytest.raises(StorageError):
            await objects.confirm()
        assert "other users may use the password" in objects.database.problem
        await objects.close()
    finally:
        database.password_file.chmod(0o600)
    assert key_file().stat().st_mode & 0o077 == 0


async def test_the_password_is_read_outside_the_event_loop(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that does not answer must not stop guests."""
    threads, read = [], Address.password

    def recorded(address: Address) -> str | None:
        threads.append(threading.current_thread())
        return read(address)

    monkeypatch.setattr(Address, "password", recorded)
    objects = Objects(Database(database.address()), postgres.sealer_of())
    await objects.confirm()
    await objects.close()
    assert threads
    assert threading.current_thread() not in threads


async def test_many_objects_are_written_as_one_change(brokers: tuple[Objects, Objects]) -> None:
    async def plan(state: object) -> list[Write]:
        return [Write(f"keys/{number}", "key", bytes(32)) for number in range(300)]

    await brokers[0].change(plan)
    assert (await brokers[1].confirm()).change == 300
