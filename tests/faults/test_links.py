"""File systems without hard links: the store works, and a key is created only once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.support import exfat
from tests.support.tees import PROVING
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import AlreadyExists, ConfigError, StorageError
from verdictd_py.storage import files
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore

KEY = SecretBytes(b"k" * 32)

_UNSUPPORTED = {
    "exFAT": (errno.EPERM, None),
    "Azure Files": (errno.EOPNOTSUPP, None),
    "a FUSE file system": (errno.ENOSYS, None),
    "exFAT over FUSE": (errno.EPERM, errno.EINVAL),
    "an old kernel": (errno.EPERM, errno.ENOSYS),
    "one link only": (errno.EMLINK, errno.EOPNOTSUPP),
}


def _failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture(params=_UNSUPPORTED)
def limited(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a file system: its link(2) fails, and renameat2(2) too in some cases."""
    link, rename = _UNSUPPORTED[request.param]
    monkeypatch.setattr(os, "link", _failing(link))
    if rename is not None:
        monkeypatch.setattr(files, "_rename_exclusively", _failing(rename))


@pytest.mark.usefixtures("limited")
async def test_a_daemon_starts_and_creates_keys_without_hard_links(tmp_path: Path) -> None:
    directory, inspection = prepare(tmp_path / "data", PROVING)
    warnings = inspection.warnings
    assert warnings == ()
    keys = DirectoryKeyStore(directory)
    await keys.create(KeyId.parse("a/b/c"), KEY)
    assert await keys.get(KeyId.parse("a/b/c")) == KEY
    with pytest.raises(AlreadyExists):
        await keys.create(KeyId.parse("a/b/c"), SecretBytes(b"x" * 32))
    assert await keys.get(KeyId.parse("a/b/c")) == KEY
    assert [stored.name for stored in await keys.page("", 10)] == ["a/b/c"]


@pytest.mark.usefixtures("limited")
def test_only_one_of_many_creators_succeeds_without_hard_links(tmp_path: Path) -> None:
    directory, _ = prepare(tmp_path / "data", PROVING)

    def create(content: bytes) -> int:
        won = 0
        for number in range(30):
            try:
                directory.create(("keys", str(number)), content)
                won += 1
            except AlreadyExists:
                continue
        return won

    with ThreadPoolExecutor(4) as threads:
        won = dict(zip(b"abcd", threads.map(create, [b"a", b"b", b"c", b"d"]), strict=True))
    assert sum(won.values()) == 30
    contents = [directory.read(("keys", str(number))) for number in range(30)]
    assert {name: contents.count(bytes([name])) for name in b"abcd"} == won


@pytest.mark.usefixtures("limited")
def test_a_directory_is_never_replaced_without_hard_links(tmp_path: Path) -> None:
    directory, _ = prepare(tmp_path / "data", PROVING)
    directory.create(("keys", "a", "b", "c"), b"x")
    with pytest.raises(AlreadyExists, match="is a prefix of other names"):
        directory.create(("keys", "a"), b"y")


def test_the_system_call_does_not_replace(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            files._rename_exclusively(parent, "new", "old")
        files._rename_exclusively(parent, "new", "free")
    finally:
        os.close(parent)
    assert (tmp_path / "old").read_bytes() == b"old"
    assert (tmp_path / "free").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_directory_that_cannot_be_synchronized_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112  # not a path of ours
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    directory, _ = prepare(tmp_path / "data", PROVING)
    directory.replace(("keys", "a"), b"x")
    directory.delete(("keys", "a"))


def test_another_failure_of_the_disk_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = prepare(tmp_path / "data", PROVING)
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(StorageError, match="input/output error"):
        directory.replace(("keys", "a"), b"x")


async def test_a_real_exfat_file_system(tmp_path: Path) -> None:
    """Here link(2) fails with EPERM and renameat2(2) with EINVAL."""
    with exfat(tmp_path) as mounted:
        directory, inspection = prepare(mounted / "data", PROVING)
        warnings = inspection.warnings
        assert warnings == ()
        keys = DirectoryKeyStore(directory)
        await keys.create(KeyId.parse("a/b/c"), KEY)
        with pytest.raises(AlreadyExists):
            await keys.create(KeyId.parse("a/b/c"), SecretBytes(b"x" * 32))
        again, _ = prepare(mounted / "data", PROVING)
        assert await DirectoryKeyStore(again).get(KeyId.parse("a/b/c")) == KEY
        assert [stored.name for stored in await keys.page("", 10)] == ["a/b/c"]


def test_a_file_system_that_lets_others_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """It gives every file the same mode, so that no file could be private."""
    with exfat(tmp_path, umask="000") as mounted:
        with pytest.raises(ConfigError, match="can be changed by other users"):
            prepare(mounted / "data", PROVING)
        directory = Directory.open(mounted / "data", unsafe_writable=True)
        directory.make("keys")
        with pytest.raises(StorageError, match="mode 0777; mount it with umask=077"):
            directory.create(("keys", "a"), b"x" * 32)
        assert list(directory.walk()) == []
