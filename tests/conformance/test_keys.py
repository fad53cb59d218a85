"""Conformance of the port `KeyStore`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from tests.support.postgres import resources_of
from tests.support.sealed import sealed_objects
from tests.support.stores import resource_store
from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, RequestError, StorageError
from verdictd_py.ports import KeyStore, ResourceStore
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.stores import PostgresKeyStore
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.memory import Files, MemoryKeyStore, MemoryResourceStore
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.stores import DirectoryKeyStore

ONE, TWO = KeyId.parse("one"), KeyId.parse("default/key/2")
KEY = SecretBytes(bytes(range(KEY_BYTES)))
OTHER = SecretBytes(bytes(KEY_BYTES))


class KeyStoreSuite(ABC):
    """Subclasses define the fixtures `keys` and `resources` of one empty store."""

    @pytest.fixture
    @abstractmethod
    def keys(self) -> KeyStore:
        """A store without keys."""

    async def test_a_key_is_returned_as_it_was_created(self, keys: KeyStore) -> None:
        for key_id, key in ((ONE, KEY), (TWO, OTHER)):
            await keys.create(key_id, key)
        assert await keys.get(ONE) == KEY
        assert await keys.get(TWO) == OTHER

    async def test_a_key_is_never_replaced(self, keys: KeyStore) -> None:
        await keys.create(ONE, KEY)
        with pytest.raises(AlreadyExists):
            await keys.create(ONE, OTHER)
        assert await keys.get(ONE) == KEY

    async def test_one_of_many_creators_wins(self, keys: KeyStore) -> None:
        made = [SecretBytes(bytes([number]) * KEY_BYTES) for number in range(20)]
        results = await asyncio.gather(
            *(keys.create(ONE, key) for key in made), return_exceptions=True
        )
        (winner,) = [key for key, result in zip(made, results, strict=True) if result is None]
        assert await keys.get(ONE) == winner
        assert {type(result) for result in results} == {type(None), AlreadyExists}

    async def test_a_deleted_key_is_gone(self, keys: KeyStore) -> None:
        await keys.create(ONE, KEY)
        await keys.delete(ONE)
        for call in (keys.get(ONE), keys.describe(ONE), keys.delete(ONE)):
            with pytest.raises(NotFound):
                await call
        await keys.create(ONE, OTHER)
        assert await keys.get(ONE) == OTHER

    @pytest.mark.parametrize("size", [0, KEY_BYTES - 1, KEY_BYTES + 1])
    async def test_a_key_has_its_size(self, keys: KeyStore, size: int) -> None:
        with pytest.raises(StorageError):
            await keys.create(ONE, SecretBytes(bytes(size)))
        with pytest.raises(NotFound):
            await keys.get(ONE)

    @pytest.mark.parametrize("path", LEGACY_RESOURCES.values(), ids=str)
    async def test_an_alias_is_not_a_key(self, keys: KeyStore, path: ResourcePath) -> None:
        with pytest.raises(AlreadyExists):
            await keys.create(KeyId(path.segments), KEY)

    @pytest.fixture
    @abstractmethod
    def resources(self) -> ResourceStore:
        """The resources of the same store."""

    async def test_a_resource_is_adopted_as_a_key(
        self, keys: KeyStore, resources: ResourceStore
    ) -> None:
        path = ResourcePath(TWO.segments)
        await resources.put(path, KEY)
        await keys.adopt(TWO)
        assert await keys.get(TWO) == KEY
        with pytest.raises(NotFound):
            await resources.get(path)
        with pytest.raises(NotFound, match="no resource"):
            await keys.adopt(TWO)

    @pytest.mark.parametrize("size", [1, KEY_BYTES - 1, KEY_BYTES + 1])
    async def test_only_the_bytes_of_a_key_are_adopted(
        self, keys: KeyStore, resources: ResourceStore, size: int
    ) -> None:
        path = ResourcePath(TWO.segments)
        await resources.put(path, SecretBytes(bytes(size)))
        with pytest.raises(RequestError, match=f"has {size} bytes"):
            await keys.adopt(TWO)
        assert len((await resources.get(path)).content) == size
        with pytest.raises(NotFound):
            await keys.get(TWO)

    async def test_pages_are_sorted_by_name(self, keys: KeyStore) -> None:
        names = ["a", "a.b", "b", "default/key/1", "default/key/2", "z"]
        for name in reversed(names):
            await keys.create(KeyId.parse(name), KEY)
        assert [key.name for key in await keys.page("", 100)] == names
        assert [key.name for key in await keys.page("a.b", 2)] == ["b", "default/key/1"]
        assert await keys.page("z", 2) == ()

    async def test_a_description_has_no_content(self, keys: KeyStore) -> None:
        await keys.create(TWO, KEY)
        (listed,) = await keys.page("", 1)
        found = await keys.describe(TWO)
        for key in (found, listed):
            assert (key.name, key.file, key.size, key.problem) == (
                "default/key/2",
                "keys/default/key/2",
                KEY_BYTES,
                "",
            )
            assert key.changed.tzinfo is not None

    async def test_a_name_is_a_key_or_a_resource(
        self, keys: KeyStore, resources: ResourceStore
    ) -> None:
        path = ResourcePath(TWO.segments)
        await resources.put(path, SecretBytes(b"content"))
        with pytest.raises(AlreadyExists):
            await keys.create(TWO, KEY)
        await resources.delete(path)
        await keys.create(TWO, KEY)
        with pytest.raises(AlreadyExists):
            await resources.put(path, SecretBytes(b"content"))
        with pytest.raises(NotFound):
            await resources.get(path)


class TestDirectory(KeyStoreSuite):
    @pytest.fixture
    def keys(self, directory: Directory) -> KeyStore:
        return DirectoryKeyStore(directory)

    @pytest.fixture
    def resources(self, directory: Directory) -> ResourceStore:
        return resource_store(directory)


class TestSealed(KeyStoreSuite):
    @pytest.fixture
    def objects(self, directory: Directory, tmp_path: Path) -> SealedObjects:
        return sealed_objects(directory, tmp_path / "kek")

    @pytest.fixture
    def keys(self, directory: Directory, objects: SealedObjects) -> KeyStore:
        return DirectoryKeyStore(directory, objects)

    @pytest.fixture
    def resources(self, directory: Directory, objects: SealedObjects) -> ResourceStore:
        return resource_store(directory, objects=objects)


class TestMemory(KeyStoreSuite):
    @pytest.fixture
    def files(self) -> Files:
        return {}

    @pytest.fixture
    def keys(self, files: Files) -> KeyStore:
        return MemoryKeyStore(files)

    @pytest.fixture
    def resources(self, files: Files) -> ResourceStore:
        return MemoryResourceStore(files)


class TestPostgres(KeyStoreSuite):
    @pytest.fixture
    def keys(self, objects: Objects) -> KeyStore:
        return PostgresKeyStore(objects)

    @pytest.fixture
    def resources(self, objects: Objects) -> ResourceStore:
        return resources_of(objects)
