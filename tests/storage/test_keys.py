"""Store of keys: 32 bytes each, and no other file of the host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.tees import PROVING
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, RequestError, StorageError
from verdictd_py.formats.stored import ALIASES
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore, DirectoryResourceStore

KEY = SecretBytes(bytes(range(32)))
OTHER = SecretBytes(b"\n" * 32)
NAMES = ["84688df7-2c0c-40fa-956b-29d8e74d16c0", "default/key/1", "a" * 255, "-", "_.", "a..b"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_key_is_returned_unchanged(keys: DirectoryKeyStore, name: str) -> None:
    kid = KeyId.parse(name)
    with pytest.raises(NotFound, match="there is no key"):
        await keys.get(kid)
    await keys.create(kid, KEY)
    assert await keys.get(kid) == KEY
    await keys.delete(kid)
    for missing in (keys.get, keys.delete):
        with pytest.raises(NotFound, match="there is no key"):
            await missing(kid)


@pytest.mark.parametrize(
    "text",
    [
        *("../../../etc/shadow", "/etc/shadow", "..", ".", "...", "keys/../../x", "a/./b"),
        *("", "/", "//", "a//b", "a/b", "a/b/c/d", "a/b/", "/a/b", "x\0y", "\0", "a\n", "a b"),
        *(
            "a" * 256,
            "é",
            "\uff0e\uff0e",
            "\uff41",
            "a\u202eb",
            ".hidden",
            ".tmp-1",
            "a/.b/c",
            "%2e%2e",
        ),
        *("..\\..\\x", "~root", "a:b", "$HOME", "*"),
    ],
)
def test_an_invalid_name_is_refused(text: str) -> None:
    """defects.md 1: the original appends a guest's kid to its directory's path."""
    for kind in (KeyId, ResourcePath):
        with pytest.raises(RequestError) as refused:
            kind.parse(text)
        assert len(text) < 3 or text not in str(refused.value)


async def test_a_link_to_a_file_of_the_host_is_not_a_key(
    keys: DirectoryKeyStore, data: Path, tmp_path: Path
) -> None:
    """defects.md 1."""
    (tmp_path / "shadow").write_bytes(KEY.reveal())
    (data / "keys" / "link").symlink_to(tmp_path / "shadow")
    (data / "keys" / "dir").symlink_to(tmp_path)
    for name in ("link", "dir/a/b"):
        with pytest.raises(NotFound):
            await keys.get(KeyId.parse(name))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 5_000_000])
async def test_a_key_of_a_wrong_size_is_refused_and_the_others_work(
    keys: DirectoryKeyStore, data: Path, size: int
) -> None:
    """defects.md 3: the original panics."""
    (data / "keys" / "bad").write_bytes(b"k" * size)
    await keys.create(KeyId.parse("good"), KEY)
    with pytest.raises(StorageError, match=r"^the key bad .*bytes") as refused:
        await keys.get(KeyId.parse("bad"))
    assert str(data) not in str(refused.value)
    assert "kk" not in str(refused.value)
    assert await keys.get(KeyId.parse("good")) == KEY
    _, inspection = prepare(data, PROVING)
    warnings = inspection.warnings
    assert [line for line in warnings if f"key bad has {size} bytes" in line]


async def test_only_keys_of_the_right_size_are_created(keys: DirectoryKeyStore, data: Path) -> None:
    for size in (0, 31, 33):
        with pytest.raises(StorageError, match=f"this one has {size}"):
            await keys.create(KeyId.parse("x"), SecretBytes(b"k" * size))
    assert list((data / "keys").iterdir()) == []


async def test_a_newline_at_the_end_belongs_to_the_key(keys: DirectoryKeyStore, data: Path) -> None:
    """The guide's key is 31 digits and a newline; 32 bytes and a newline are not a key."""
    (data / "keys" / "guide").write_bytes(b"1234567890123456789012345678901\n")
    assert (await keys.get(KeyId.parse("guide"))).reveal().endswith(b"1\n")
    (data / "keys" / "mistake").write_bytes(KEY.reveal() + b"\n")
    with pytest.raises(StorageError, match="has 33 bytes"):
        await keys.get(KeyId.parse("mistake"))


async def test_a_file_that_the_operator_writes_is_effective_at_once(
    keys: DirectoryKeyStore, data: Path
) -> None:
    kid = KeyId.parse("a/b/c")
    path = data / "keys" / "a" / "b" / "c"
    path.parent.mkdir(parents=True)
    for key in (KEY, OTHER):
        path.write_bytes(key.reveal())
        path.chmod(0o644)
        assert await keys.get(kid) == key
    path.unlink()
    with pytest.raises(NotFound):
        await keys.get(kid)


async def test_creating_never_overwrites(keys: DirectoryKeyStore) -> None:
    kid = KeyId.parse("default/key/1")
    await keys.create(kid, KEY)
    with pytest.raises(AlreadyExists, match=r"^the key default/key/1 exists already$"):
        await keys.create(kid, OTHER)
    assert await keys.get(kid) == KEY


async def test_only_one_of_many_tasks_creates_a_key(keys: DirectoryKeyStore) -> None:
    kid = KeyId.parse("default/key/1")
    wanted = [SecretBytes(bytes([number]) * 32) for number in range(8)]
    results = await asyncio.gather(
        *(keys.create(kid, key) for key in wanted), return_exceptions=True
    )
    assert [type(result) for result in results].count(AlreadyExists) == len(wanted) - 1
    assert await keys.get(kid) == wanted[results.index(None)]


async def test_a_name_that_is_a_prefix_of_another_is_refused(
    keys: DirectoryKeyStore,
) -> None:
    await keys.create(KeyId.parse("one"), KEY)
    with pytest.raises(AlreadyExists, match=r"^the key one/b/c begins with one, which is a file$"):
        await keys.create(KeyId.parse("one/b/c"), KEY)
    await keys.create(KeyId.parse("repo/b/c"), KEY)
    with pytest.raises(AlreadyExists, match=r"^the key repo is a prefix of other names$"):
        await keys.create(KeyId.parse("repo"), KEY)
    for name in ("one/b/c", "repo"):
        with pytest.raises(NotFound):
            await keys.get(KeyId.parse(name))
        with pytest.raises(NotFound):
            await keys.delete(KeyId.parse(name))
    assert await keys.get(KeyId.parse("repo/b/c")) == KEY


async def test_a_resource_and_a_key_never_share_a_name(
    keys: DirectoryKeyStore, resources: DirectoryResourceStore
) -> None:
    await resources.put(ResourcePath.parse("a/b/c"), SecretBytes(b"x"))
    with pytest.raises(AlreadyExists, match="a/b/c names a resource, not a key"):
        await keys.create(KeyId.parse("a/b/c"), KEY)
    await keys.create(KeyId.parse("d/e/f"), KEY)
    with pytest.raises(AlreadyExists, match="d/e/f names a key, not a resource"):
        await resources.put(ResourcePath.parse("d/e/f"), SecretBytes(b"x"))
    with pytest.raises(NotFound):
        await resources.get(ResourcePath.parse("d/e/f"))  # never through to the keys
    assert await keys.get(KeyId.parse("d/e/f")) == KEY


@pytest.mark.parametrize("segments", ALIASES)
async def test_a_key_cannot_have_the_name_of_an_alias(
    keys: DirectoryKeyStore, segments: tuple[str, str, str]
) -> None:
    """This holds whether or not the file behind the alias exists."""
    with pytest.raises(AlreadyExists, match="names a resource"):
        await keys.create(KeyId(segments), KEY)
