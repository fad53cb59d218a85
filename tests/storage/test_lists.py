"""Lists of stored objects: valid names, sorted, in pages, without contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES
from verdictd_py.errors import NotFound
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.stores import (
    DirectoryCollateralStore,
    DirectoryKeyStore,
    DirectoryResourceStore,
)


def write(data: Path, name: str, content: bytes = bytes(KEY_BYTES)) -> None:
    file = data / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


async def test_keys_are_listed_by_name_in_pages(data: Path, keys: DirectoryKeyStore) -> None:
    names = ["default/key/1", "default/key/10", "default/key/2", "z", "a-b", "a.b"]
    for name in names:
        write(data, f"keys/{name}")
    found: list[str] = []
    while page := await keys.page(found[-1] if found else "", 2):
        assert len(page) <= 2
        found += [each.name for each in page]
    assert found == sorted(names)


async def test_other_files_are_not_listed_as_keys(data: Path, keys: DirectoryKeyStore) -> None:
    write(data, "keys/README.md")
    write(data, "keys/two/segments")
    write(data, "keys/.tmp-0123")
    (data / "keys" / "link").symlink_to(data / "keys" / "README.md")
    (data / "keys" / "directory").mkdir()
    write(data, "keys/short", b"x")
    (only,) = await keys.page("", 10)
    assert (only.name, only.file, only.size) == ("short", "keys/short", 1)
    assert only.problem == "a key has 32 bytes"
    assert only.changed.tzinfo is not None


async def test_one_key_is_described(data: Path, keys: DirectoryKeyStore) -> None:
    write(data, "keys/default/key/1")
    described = await keys.describe(KeyId.parse("default/key/1"))
    assert (described,) == await keys.page("", 10)
    (data / "keys" / "link").symlink_to(data / "keys" / "default" / "key" / "1")
    for name in ("none", "link", "default/key/2"):
        with pytest.raises(NotFound, match=f"there is no key {name}"):
            await keys.describe(KeyId.parse(name))


async def test_each_resource_is_listed_once_with_the_file_that_is_served(
    data: Path, resources: DirectoryResourceStore
) -> None:
    write(data, "resources/a/b/c", b"x")
    write(data, "resources/two/segments", b"x")
    write(data, "resources/default/security-policy/test", b"{}")  # shadows image/policy.json
    write(data, "image/cosign.key", b"-----BEGIN PRIVATE KEY-----")
    write(data, "image/other", b"x")
    write(data, "resources/e/m/pty", b"")
    found = {each.name: each for each in await resources.page("", 100)}
    assert {name: each.file for name, each in found.items()} == {
        "a/b/c": "resources/a/b/c",
        "default/cosign-public-key/test": "image/cosign.key",
        "default/security-policy/test": "resources/default/security-policy/test",
        "default/sigstore-config/test": "image/sigstore.yaml",
        "e/m/pty": "resources/e/m/pty",
    }
    assert "private key" in found["default/cosign-public-key/test"].problem
    assert "empty" in found["e/m/pty"].problem
    assert found["a/b/c"].problem == ""
    assert [each.name for each in await resources.page("a/b/c", 1)] == [
        "default/cosign-public-key/test"
    ]


async def test_collateral_is_listed_by_file(data: Path) -> None:
    directory = Directory.open(data)
    directory.make("collateral")
    store = DirectoryCollateralStore(directory)
    assert await store.names() == ()
    await store.save("tdx-50806f000000-platform.json", b"{}")
    write(data, "collateral/.tmp-0123", b"")
    write(data, "collateral/below/other", b"")
    assert await store.names() == ("tdx-50806f000000-platform.json",)
    assert await store.load("tdx-50806f000000-platform.json") == b"{}"
    assert await store.load("none") is None
