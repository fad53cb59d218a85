"""Conformance of the port `CollateralStore`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import pytest

from verdictd_py.ports import CollateralStore
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.stores import PostgresCollateralStore
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.memory import MemoryCollateralStore
from verdictd_py.storage.stores import DirectoryCollateralStore

ONE, TWO = "tdx-00906ed50000-platform.json", "sgx-00906ed50000-processor.json"


class CollateralStoreSuite(ABC):
    """Subclasses define the fixture `collateral`."""

    @pytest.fixture
    @abstractmethod
    def collateral(self) -> CollateralStore:
        """A store without collateral."""

    async def test_an_empty_store(self, collateral: CollateralStore) -> None:
        assert await collateral.names() == ()
        assert await collateral.load(ONE) is None

    async def test_collateral_is_returned_as_it_was_saved(
        self, collateral: CollateralStore
    ) -> None:
        await collateral.save(ONE, b"{}")
        await collateral.save(TWO, bytes(range(256)))
        await collateral.save(ONE, b"new")
        assert sorted(await collateral.names()) == [TWO, ONE]
        assert await collateral.load(ONE) == b"new"
        assert await collateral.load(TWO) == bytes(range(256))

    async def test_a_state_changes_with_the_content(self, collateral: CollateralStore) -> None:
        seen = [await collateral.states([ONE, TWO])]
        for content in (b"{}", b"[]", b"longer"):
            await collateral.save(ONE, content)
            seen.append(await collateral.states([ONE, TWO]))
            assert await collateral.states([ONE, TWO]) == seen[-1]
        assert len({one for one, _ in seen}) == len(seen)
        assert {other for _, other in seen} == {seen[0][1]}

    async def test_an_update_depends_on_the_present_content(
        self, collateral: CollateralStore
    ) -> None:
        seen: list[bytes | None] = []

        def appended(present: bytes | None) -> bytes | None:
            seen.append(present)
            return None if present == b"xx" else (present or b"") + b"x"

        for _ in range(4):
            await collateral.update(ONE, appended)
        assert seen == [None, b"x", b"xx", b"xx"]
        assert await collateral.load(ONE) == b"xx"

    async def test_updates_at_the_same_time_are_not_lost(self, collateral: CollateralStore) -> None:
        await asyncio.gather(
            *(collateral.update(ONE, lambda present: (present or b"") + b"x") for _ in range(20))
        )
        assert await collateral.load(ONE) == b"x" * 20


class TestDirectory(CollateralStoreSuite):
    @pytest.fixture
    def collateral(self, directory: Directory) -> CollateralStore:
        return DirectoryCollateralStore(directory)


class TestMemory(CollateralStoreSuite):
    @pytest.fixture
    def collateral(self) -> CollateralStore:
        return MemoryCollateralStore()


class TestPostgres(CollateralStoreSuite):
    @pytest.fixture
    def collateral(self, objects: Objects) -> CollateralStore:
        return PostgresCollateralStore(objects)
