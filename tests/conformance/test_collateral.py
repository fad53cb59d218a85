"""Conformance of the port `CollateralStore`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest

from verdictd_py.ports import CollateralStore
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


class TestDirectory(CollateralStoreSuite):
    @pytest.fixture
    def collateral(self, directory: Directory) -> CollateralStore:
        return DirectoryCollateralStore(directory)


class TestMemory(CollateralStoreSuite):
    @pytest.fixture
    def collateral(self) -> CollateralStore:
        return MemoryCollateralStore()
