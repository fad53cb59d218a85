"""What a program that controls the database can do: everything that it puts back is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.postgres import TestDatabase, documents_of, objects_of
from verdictd_py.domain.names import KeyId, Name
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import Conflict, NotFound
from verdictd_py.ports import ABSENT, ANY
from verdictd_py.ports.sealing import SealBroken, SealedName, Sealer
from verdictd_py.postgres.objects import Objects, State, StoreAltered, Write
from verdictd_py.postgres.stores import PostgresKeyStore

ONE, TWO = KeyId.parse("one"), KeyId.parse("default/key/2")
POLICY = Name.parse("mine.rego")
KEY, OTHER = SecretBytes(b"1" * KEY_BYTES), SecretBytes(b"2" * KEY_BYTES)


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest_asyncio.fixture
async def objects(database: TestDatabase) -> AsyncIterator[Objects]:
    opened = objects_of(database)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def later(database: TestDatabase, tmp_path: Path) -> AsyncIterator[Objects]:
    """Another broker, which begins after the attack."""
    opened = objects_of(database)
    yield opened
    await opened.close()


def rows(database: TestDatabase) -> list[tuple[object, ...]]:
    return database.execute("SELECT * FROM verdictd.objects")


def put_back(database: TestDatabase, row: tuple[object, ...]) -> None:
    database.execute("DELETE FROM verdictd.objects WHERE path = %s", row[0])
    values = ", ".join(["%s"] * len(row))
    database.execute(f"INSERT INTO verdictd.objects VALUES ({values})", *row)  # noqa: S608


async def test_a_row_of_another_path_is_refused_and_named(
    database: TestDatabase, objects: Objects
) -> None:
    keys = PostgresKeyStore(objects)
    await keys.create(ONE, KEY)
    await keys.create(TWO, OTHER)
    database.execute(
        "UPDATE verdictd.objects SET sealed ="
        " (SELECT sealed FROM verdictd.objects WHERE path = 'keys/one')"
        " WHERE path = 'keys/default/key/2'"
    )
    with pytest.raises(SealBroken, match="keys/default/key/2"):
        await keys.get(TWO)
    assert await keys.get(ONE) == KEY


@pytest.mark.parametrize("at", [0, 20, 60, -1])
async def test_an_altered_row_is_refused_and_named(
    database: TestDatabase, objects: Objects, at: int
) -> None:
    keys = PostgresKeyStore(objects)
    await keys.create(ONE, KEY)
    ((sealed,),) = database.execute("SELECT sealed FROM verdictd.objects")
    altered = bytearray(sealed)
    altered[at] ^= 1
    database.execute("UPDATE verdictd.objects SET sealed = %s", bytes(altered))
    with pytest.raises(SealBroken, match="keys/one"):
        await keys.get(ONE)


async def test_an_older_row_put_back_is_refused_and_named(
    database: TestDatabase, objects: Objects, later: Objects
) -> None:
    documents = documents_of(objects)
    await documents.put(POLICY, "allows much", expected=ANY)
    (old,) = rows(database)
    await documents.put(POLICY, "allows little", expected=ANY)
    put_back(database, old)
    with pytest.raises(StoreAltered, match=r"opa/mine\.rego"):
        await documents.get(POLICY)
    with pytest.raises(StoreAltered, match=r"opa/mine\.rego"):
        await documents_of(later).get(POLICY)


async def test_a_deleted_row_put_back_is_refused(
    database: TestDatabase, objects: Objects, later: Objects
) -> None:
    keys = PostgresKeyStore(objects)
    await keys.create(ONE, KEY)
    (old,) = rows(database)
    await keys.delete(ONE)
    put_back(database, old)
    with pytest.raises(NotFound):
        await keys.get(ONE)
    with pytest.raises(StoreAltered, match="keys/one"):
        await PostgresKeyStore(later).get(ONE)


async def test_a_removed_row_is_not_an_absent_object(
    database: TestDatabase, objects: Objects, later: Objects
) -> None:
    keys = PostgresKeyStore(objects)
    await keys.create(ONE, KEY)
    database.execute("DELETE FROM verdictd.objects")
    for opened in (objects, later):
        with pytest.raises(StoreAltered):
            await PostgresKeyStore(opened).get(ONE)


async def test_a_row_with_a_newer_number_is_refused(
    database: TestDatabase, objects: Objects
) -> None:
    keys = PostgresKeyStore(objects)
    await keys.create(ONE, KEY)
    database.execute("UPDATE verdictd.objects SET revision = 2")
    with pytest.raises(StoreAltered, match="keys/one"):
        await keys.get(ONE)
    database.execute("UPDATE verdictd.store SET change = 2")
    with pytest.raises(StoreAltered):
        await objects.confirm()


async def test_a_database_that_was_rolled_back_is_refused(
    database: TestDatabase, tmp_path: Path
) -> None:
    mark = tmp_path / "postgres" / "mark.json"
    first = objects_of(database, mark=mark)
    documents = documents_of(first)
    await documents.put(POLICY, "allows much", expected=ANY)
    old, store = rows(database), database.execute("SELECT change, tag FROM verdictd.store")
    await documents.put(POLICY, "allows little", expected=ANY)
    put_back(database, old[0])
    database.execute("UPDATE verdictd.store SET change = %s, tag = %s", *store[0])
    with pytest.raises(StoreAltered, match=r"rolled back: its last change is 1, .* seen 2"):
        await first.confirm()
    assert not first.remember()
    await first.close()
    second = objects_of(database, mark=mark)
    with pytest.raises(StoreAltered, match=r"rolled back.* remove .*mark\.json"):
        await documents_of(second).get(POLICY)
    await second.close()


async def test_a_broker_does_not_begin_again_with_an_empty_database(
    database: TestDatabase, tmp_path: Path
) -> None:
    mark = tmp_path / "mark.json"
    first = objects_of(database, mark=mark)
    await first.confirm()
    assert not first.remember()
    await first.close()
    database.execute("DELETE FROM verdictd.store")
    second = objects_of(database, mark=mark)
    with pytest.raises(StoreAltered, match="empty"):
        await second.confirm()
    third = objects_of(database)
    await third.confirm()  # a broker that has not used it makes a new store
    with pytest.raises(StoreAltered, match="is not the one that this broker has used"):
        await second.confirm()
    for opened in (second, third):
        await opened.close()


async def test_an_object_of_another_store_is_refused(
    database: TestDatabase, objects: Objects
) -> None:
    """Two databases may share a key-encryption key."""
    keys = PostgresKeyStore(objects)
    await keys.create(ONE, KEY)
    (row,) = rows(database)
    database.execute("TRUNCATE verdictd.store, verdictd.objects")
    other = objects_of(database)
    try:
        await PostgresKeyStore(other).create(ONE, OTHER)
        database.execute("UPDATE verdictd.objects SET sealed = %s", row[5])
        with pytest.raises(SealBroken, match="keys/one"):
            await PostgresKeyStore(other).get(ONE)
    finally:
        await other.close()


class RecordingSealer:
    """Port `Sealer` that records what it has sealed: the database receives it before a commit."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self.sealed: list[bytes] = []

    async def seal(self, name: SealedName, content: bytes) -> bytes:
        self.sealed.append(await self._sealer.seal(name, content))
        return self.sealed[-1]

    async def unseal(self, name: SealedName, sealed: bytes) -> bytes:
        return await self._sealer.unseal(name, sealed)


@pytest.fixture
def sealer() -> RecordingSealer:
    return RecordingSealer(postgres.sealer_of())


@pytest_asyncio.fixture
async def loser(database: TestDatabase, sealer: RecordingSealer) -> AsyncIterator[Objects]:
    """Another broker, which loses a race for one document."""
    opened = objects_of(database, sealer=sealer)
    yield opened
    await opened.close()


async def race(winner: Objects, loser: Objects) -> None:
    """Store a document at one broker after another one has computed the same change."""
    raced = False

    async def plan(state: State) -> Sequence[Write]:
        nonlocal raced
        if raced:
            return ()
        raced = True
        await documents_of(winner).put(POLICY, "allows little", expected=ANY)
        return (Write(f"opa/{POLICY}", "document", b"allows much"),)

    await loser.change(plan)


async def test_the_envelope_of_a_change_that_failed_is_refused_and_named(
    database: TestDatabase,
    objects: Objects,
    later: Objects,
    loser: Objects,
    sealer: RecordingSealer,
) -> None:
    await race(objects, loser)
    ((revision, stored),) = database.execute("SELECT revision, sealed FROM verdictd.objects")
    lost = sealer.sealed[-1]
    assert (revision, stored != lost) == (1, True)
    database.execute("UPDATE verdictd.objects SET sealed = %s", lost)
    for opened in (objects, later, loser):
        with pytest.raises(SealBroken, match=r"opa/mine\.rego"):
            await documents_of(opened).get(POLICY)


class SlowerSealer:
    """Port `Sealer` of a broker that another one overtakes after its first change was sealed.

    Attributes:
        overtake: what the other broker does.
        lost: name and envelope of that change.
    """

    def __init__(self, sealer: Sealer, overtake: Callable[[], Awaitable[object]]) -> None:
        self._sealer = sealer
        self._overtake = overtake
        self.lost: tuple[SealedName, bytes] | None = None

    async def seal(self, name: SealedName, content: bytes) -> bytes:
        sealed = await self._sealer.seal(name, content)
        if self.lost is None:
            self.lost = name, sealed
            await self._overtake()
        return sealed

    async def unseal(self, name: SealedName, sealed: bytes) -> bytes:
        return await self._sealer.unseal(name, sealed)


async def test_of_two_brokers_that_seal_one_path_under_one_revision_one_is_refused_for_ever(
    database: TestDatabase, objects: Objects, later: Objects
) -> None:
    """The database has seen both, and puts the whole row of the loser in place of the other."""
    winner = documents_of(objects)
    await objects.confirm()
    sealer = SlowerSealer(
        postgres.sealer_of(), lambda: winner.put(POLICY, "allows little", expected=ABSENT)
    )
    slower = objects_of(database, sealer=sealer)
    try:
        with pytest.raises(Conflict):
            await documents_of(slower).put(POLICY, "allows much", expected=ABSENT)
        assert sealer.lost is not None
        name, envelope = sealer.lost
        assert (await documents_of(slower).get(POLICY)).text == "allows little"
        ((revision, stored),) = database.execute("SELECT revision, sealed FROM verdictd.objects")
        assert (name.path, name.revision) == (f"opa/{POLICY}", revision)
        assert envelope != stored
        nonce = bytes.fromhex(name.kind.rpartition(" ")[2])
        opened = await postgres.sealer_of().unseal(name, envelope)
        assert opened == b"allows much"  # the attack would succeed without the ledger
        database.execute("UPDATE verdictd.objects SET sealed = %s, nonce = %s", envelope, nonce)
        for one in (objects, slower):
            one._envelopes.discard(f"opa/{POLICY}")
            with pytest.raises(SealBroken, match=r"opa/mine\.rego"):
                await documents_of(one).get(POLICY)
        with pytest.raises(StoreAltered, match="of a change that failed"):
            await documents_of(later).get(POLICY)
    finally:
        await slower.close()


async def test_the_row_of_a_change_that_failed_is_refused(
    database: TestDatabase, objects: Objects, later: Objects
) -> None:
    """Path and revision are those of the ledger; the attempt is another one."""
    await documents_of(objects).put(POLICY, "allows little", expected=ANY)
    database.execute("UPDATE verdictd.objects SET nonce = %s", bytes(16))
    with pytest.raises(StoreAltered, match="of a change that failed"):
        await documents_of(later).get(POLICY)


async def test_another_key_encryption_key_opens_nothing(
    database: TestDatabase, objects: Objects
) -> None:
    await PostgresKeyStore(objects).create(ONE, KEY)
    other = objects_of(database, sealer=postgres.sealer_of(2))
    try:
        with pytest.raises(SealBroken):
            await PostgresKeyStore(other).get(ONE)
    finally:
        await other.close()
