"""Faults of the data directory: what cannot be read is an error, and the store recovers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.faults.support import (
    NOBODY,
    output_of_nobody,
    reachable_by_others,
    remount,
    tmpfs,
)
from tests.support.stores import document_store, resource_store
from tests.support.tees import PROVING
from verdictd_py.domain.names import KeyId, Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.inspection import DIRECTORIES
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import (
    DirectoryCollateralStore,
    DirectoryKeyStore,
)

KEY = SecretBytes(b"k" * 32)
ID = KeyId.parse("a/b/c")
PATH = ResourcePath.parse("a/b/d")
NAME = Name.parse("tdxData")


class Stores:
    """All stores on one directory."""

    def __init__(self, data: Path) -> None:
        self.directory, _ = prepare(data, PROVING)
        self.keys = DirectoryKeyStore(self.directory)
        self.resources = resource_store(self.directory)
        self.documents = document_store(self.directory)
        self.collateral = DirectoryCollateralStore(self.directory)

    async def fill(self) -> None:
        await self.keys.create(ID, KEY)
        await self.resources.put(PATH, KEY)
        await self.collateral.save("x.json", b"{}")

    async def require_working(self) -> None:
        assert await self.keys.get(ID) == KEY
        assert [stored.name for stored in await self.keys.page("", 9)] == ["a/b/c"]
        assert "a/b/d" in [stored.name for stored in await self.resources.page("", 9)]
        assert NAME in await self.documents.names()
        assert await self.collateral.names() == ("x.json",)
        await self.resources.put(PATH, KEY)
        assert self.directory.fault(*DIRECTORIES) == ""

    async def require_errors(self) -> None:
        """Nothing is reported as absent: neither a name nor a list."""
        for call in (
            self.keys.get(ID),
            self.keys.describe(ID),
            self.keys.page("", 9),
            self.keys.create(KeyId.parse("new"), KEY),
            self.keys.delete(KeyId.parse("x/y/z")),
            self.resources.get(PATH),
            self.resources.page("", 9),
            self.resources.put(PATH, KEY),
            self.resources.delete(ResourcePath.parse("x/y/z")),
            self.documents.get(NAME),
            self.documents.names(),
            self.documents.snapshot([NAME, Name.parse("referenceSets")]),
            self.documents.snapshot([Name.parse("referenceSets")]),
            self.collateral.names(),
            self.collateral.load("none.json"),
        ):
            with pytest.raises(StorageError) as error:
                await call
            assert not isinstance(error.value, NotFound)
        assert self.directory.fault(*DIRECTORIES) != ""


@pytest.fixture
async def stores(tmp_path: Path) -> Stores:
    made = Stores(tmp_path / "data")
    await made.fill()
    await made.require_working()
    return made


async def test_a_directory_that_is_moved_away_and_back(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "away")
    await stores.require_errors()
    (tmp_path / "away").rename(tmp_path / "data")
    await stores.require_working()


async def test_a_directory_that_is_removed_and_restored_from_a_copy(
    stores: Stores, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    shutil.rmtree(tmp_path / "data")
    await stores.require_errors()
    shutil.copytree(tmp_path / "copy", tmp_path / "data")
    await stores.require_working()


async def test_an_empty_directory_is_not_a_store_without_keys(
    stores: Stores, tmp_path: Path
) -> None:
    """A volume that is not mounted leaves an empty directory. Nothing is written there."""
    (tmp_path / "data").rename(tmp_path / "away")
    (tmp_path / "data").mkdir(mode=0o700)
    await stores.require_errors()
    for write in (stores.directory.create, stores.directory.replace):
        with pytest.raises(StorageError, match="the directory keys"):
            write(("keys", "new"), b"x")
    assert [path.name for path in (tmp_path / "data").iterdir() if path.name != ".lock"] == []
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "away").rename(tmp_path / "data")
    await stores.require_working()


async def test_a_file_in_the_place_of_the_directory(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "away")
    (tmp_path / "data").touch()
    await stores.require_errors()
    (tmp_path / "data").unlink()
    (tmp_path / "away").rename(tmp_path / "data")
    await stores.require_working()


@pytest.mark.parametrize("top", ["keys", "resources", "opa", "collateral"])
async def test_a_file_in_the_place_of_one_directory_in_it(
    stores: Stores, tmp_path: Path, top: str
) -> None:
    lists = {
        "keys": lambda: stores.keys.page("", 9),
        "resources": lambda: stores.resources.page("", 9),
        "opa": stores.documents.names,
        "collateral": stores.collateral.names,
    }
    (tmp_path / "data" / top).rename(tmp_path / "away")
    (tmp_path / "data" / top).touch()
    with pytest.raises(StorageError):
        await lists[top]()
    assert stores.directory.fault(*DIRECTORIES).startswith(str(tmp_path / "data" / top))
    (tmp_path / "data" / top).unlink()
    (tmp_path / "away").rename(tmp_path / "data" / top)
    await stores.require_working()


async def test_a_relative_path_does_not_follow_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = Stores(Path("data"))
    await stores.fill()
    monkeypatch.chdir("/")
    await stores.require_working()


async def test_a_file_system_that_becomes_read_only_and_writable_again(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "mounted") as mounted:
        stores = Stores(mounted / "data")
        await stores.fill()
        remount(mounted, "ro")
        with pytest.raises(StorageError, match="read-only file system"):
            await stores.resources.put(PATH, KEY)
        assert await stores.keys.get(ID) == KEY  # what can be read is served
        assert "the file system is read-only" in stores.directory.fault(*DIRECTORIES)
        remount(mounted, "rw")
        await stores.require_working()


PERMISSIONS = """
directory, _ = prepare(data, PROVING)
keys = DirectoryKeyStore(directory)
documents = document_store(directory)
asyncio.run(keys.create(KeyId.parse("a/b/c"), SecretBytes(b"k" * 32)))
for changed in (data, data / "keys", data / "keys" / "a", data / "opa"):
    mode = changed.stat().st_mode & 0o777
    for lost in (0o000, 0o300):
        changed.chmod(lost)
        listing = documents.names if changed.name == "opa" else lambda: keys.page("", 9)
        try:
            print("LISTED", asyncio.run(listing()))
        except StorageError as error:
            print(changed.name, oct(lost), error)
        changed.chmod(mode)
        print(len(asyncio.run(keys.page("", 9))), "key")
        assert asyncio.run(documents.names())
data.chmod(0o500)
print(directory.fault())
data.chmod(0o700)
print(directory.fault() or "no fault")
"""


def test_a_directory_without_permissions_is_an_error_and_not_an_empty_list() -> None:
    with reachable_by_others() as reachable:
        data = reachable / "data"
        data.mkdir(mode=0o700)
        os.chown(data, NOBODY, NOBODY)
        lines = output_of_nobody(PERMISSIONS, data).splitlines()
    assert not [line for line in lines if line.startswith("LISTED")]
    assert lines.count("1 key") == 8
    assert sum("permission denied" in line for line in lines) == 9
    assert lines[-2].endswith("make it readable and writable for this user")
    assert lines[-1] == "no fault"


def test_a_missing_directory_is_named_with_the_remedy(tmp_path: Path) -> None:
    directory = Directory.open(tmp_path / "data")
    (tmp_path / "data").rmdir()
    assert directory.fault() == f"{tmp_path / 'data'}: it is missing; restore it"
