"""Conformance of the port `ResourceStore`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from tests.support.postgres import resources_of
from tests.support.sealed import sealed_objects
from tests.support.stores import resource_store
from verdictd_py.domain.names import LEGACY_RESOURCES, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import Conflict, NotFound, RequestError
from verdictd_py.ports import ABSENT, ANY, Kind, ResourceStore
from verdictd_py.postgres.objects import Objects
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.memory import MemoryResourceStore

PATH = ResourcePath.parse("team/secret/1")
KEYRING = LEGACY_RESOURCES["GPG Keyring"]
COSIGN = LEGACY_RESOURCES["Cosign Key"]
ONE, TWO = SecretBytes(b"one"), SecretBytes(b"two")


class ResourceStoreSuite(ABC):
    """Subclasses define the fixture `resources`."""

    @pytest.fixture
    @abstractmethod
    def resources(self) -> ResourceStore:
        """A store; it may have default files behind aliases."""

    async def test_a_resource_is_returned_as_it_was_put(self, resources: ResourceStore) -> None:
        put = await resources.put(PATH, ONE)
        assert (put.kind, put.path, put.content) == (
            Kind.RESOURCE,
            "resources/team/secret/1",
            ONE,
        )
        assert await resources.get(PATH) == put
        assert resources.file_of(PATH) == put.path
        await resources.put(PATH, TWO)
        assert (await resources.get(PATH)).content == TWO

    async def test_a_resource_that_is_missing(self, resources: ResourceStore) -> None:
        for call in (resources.get(PATH), resources.delete(PATH)):
            with pytest.raises(NotFound):
                await call

    async def test_an_alias_is_a_file_for_images(self, resources: ResourceStore) -> None:
        put = await resources.put(KEYRING, ONE)
        assert (put.kind, put.path) == (Kind.IMAGE, "gpg/keyring.gpg")
        assert await resources.get(KEYRING) == put
        assert resources.file_of(KEYRING) == put.path
        await resources.delete(KEYRING)
        with pytest.raises(NotFound):
            await resources.get(KEYRING)

    async def test_unusable_content_is_refused(self, resources: ResourceStore) -> None:
        private = SecretBytes(b"-----BEGIN PRIVATE KEY-----\n")
        for path, content in ((PATH, SecretBytes(b"")), (COSIGN, private)):
            with pytest.raises(RequestError):
                await resources.put(path, content)
            with pytest.raises(NotFound):
                await resources.get(path)

    @pytest.mark.parametrize("path", [PATH, KEYRING], ids=str)
    async def test_a_change_based_on_another_revision_is_a_conflict(
        self, resources: ResourceStore, path: ResourcePath
    ) -> None:
        first = await resources.put(path, ONE, expected=ABSENT)
        with pytest.raises(Conflict):
            await resources.put(path, TWO, expected=ABSENT)
        second = await resources.put(path, TWO, expected=first.revision)
        for call in (
            resources.put(path, ONE, expected=first.revision),
            resources.delete(path, expected=first.revision),
            resources.delete(path, expected=ABSENT),
        ):
            with pytest.raises(Conflict):
                await call
        assert await resources.get(path) == second
        await resources.delete(path, expected=second.revision)
        with pytest.raises(Conflict):
            await resources.put(path, ONE, expected=second.revision)
        await resources.put(path, ONE, expected=ANY)

    async def test_one_of_many_writers_of_a_revision_wins(self, resources: ResourceStore) -> None:
        first = await resources.put(PATH, ONE)
        results = await asyncio.gather(
            *(
                resources.put(PATH, SecretBytes(bytes([number])), expected=first.revision)
                for number in range(20)
            ),
            return_exceptions=True,
        )
        winners = [result for result in results if not isinstance(result, BaseException)]
        assert [await resources.get(PATH)] == winners
        assert sum(isinstance(result, Conflict) for result in results) == 19

    async def test_pages_are_sorted_by_path(self, resources: ResourceStore) -> None:
        await resources.put(KEYRING, ONE)
        for name in ("team/b/1", "team/a/1", "default/gpg-public-config/a"):
            await resources.put(ResourcePath.parse(name), TWO)
        listed = await resources.page("", 100)
        names = [resource.name for resource in listed]
        assert names == sorted(names)
        assert {"team/a/1", "team/b/1", str(KEYRING)} <= set(names)
        (keyring,) = [resource for resource in listed if resource.name == str(KEYRING)]
        assert (keyring.file, keyring.size, keyring.problem) == ("gpg/keyring.gpg", 3, "")
        assert [resource.name for resource in await resources.page("team/a/1", 1)] == ["team/b/1"]


class TestDirectory(ResourceStoreSuite):
    @pytest.fixture
    def resources(self, directory: Directory) -> ResourceStore:
        return resource_store(directory)


class TestSealed(ResourceStoreSuite):
    @pytest.fixture
    def resources(self, directory: Directory, tmp_path: Path) -> ResourceStore:
        objects = sealed_objects(directory, tmp_path / "kek")
        return resource_store(directory, objects=objects)


class TestMemory(ResourceStoreSuite):
    @pytest.fixture
    def resources(self) -> ResourceStore:
        return MemoryResourceStore()


class TestPostgres(ResourceStoreSuite):
    @pytest.fixture
    def resources(self, objects: Objects) -> ResourceStore:
        return resources_of(objects)
