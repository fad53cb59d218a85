"""Reads without a thread: what is certain is answered, everything else is left to a thread."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.support import NOBODY
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.storage import pools, resident
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.resident import MAX_BYTES, NotResident
from verdictd_py.storage.stores import DirectoryKeyStore

FILE = ("keys", "a", "b", "c")
KEY = b"k" * 32
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can change owners")


@pytest.fixture
def path(data: Path) -> Path:
    return data.joinpath(*FILE)


@pytest.fixture
def known(directory: Directory, path: Path) -> Directory:
    """A directory that has read a file, so that all of its names are in memory."""
    directory.replace(FILE, KEY)
    assert directory.read(FILE) == KEY
    return directory


def test_a_small_file_in_memory_is_read(known: Directory, path: Path) -> None:
    assert known.read_resident(FILE) == KEY
    assert known.entries_resident(FILE[:-1], [FILE[-1]]) == (known.entry(FILE),)
    path.write_bytes(b"another")
    assert known.read_resident(FILE) == b"another"


def test_a_missing_file_is_not_found(known: Directory, path: Path) -> None:
    path.unlink()
    with pytest.raises(NotFound):
        known.read_resident(FILE)
    assert known.entries_resident(FILE[:-1], [FILE[-1]]) == (None,)


@pytest.mark.parametrize("missing", ["keys/a/b", "keys/a"])
def test_a_file_in_a_missing_directory_is_not_found(
    known: Directory, data: Path, missing: str
) -> None:
    data.joinpath(missing).rename(data / "aside")
    with pytest.raises(NotFound):
        known.read(FILE)  # the kernel learns that the name is missing
    with pytest.raises(NotFound):
        known.read_resident(FILE)


def test_a_missing_first_directory_is_a_fault(known: Directory, data: Path) -> None:
    """A volume that is not mounted must not be taken for a store without keys."""
    (data / "keys").rename(data / "aside")
    with pytest.raises(StorageError):
        known.read(FILE)
    with pytest.raises(NotResident):
        known.read_resident(FILE)


def _link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def _link_to_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("other"))
    path.parent.symlink_to("other")


def _large(path: Path) -> None:
    path.write_bytes(b"x" * (MAX_BYTES + 1))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _evict(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _evicted(path: Path) -> None:
    probe = path.with_name("probe")
    probe.write_bytes(KEY)
    _evict(probe)
    with probe.open("rb") as file, suppress(BlockingIOError):
        os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        pytest.skip("this file system has no disk")
    _evict(path)


@pytest.mark.parametrize("change", [_link, _link_to_directory, _large, _fifo, _directory, _evicted])
def test_what_is_not_certain_is_left_to_a_thread(
    known: Directory, path: Path, change: Callable[[Path], None]
) -> None:
    change(path)
    with pytest.raises(NotResident):
        known.read_resident(FILE)


@pytest.mark.parametrize("cached", [0, 16])
def test_a_content_that_is_in_memory_in_part_is_left_to_a_thread(
    known: Directory, monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    read = os.preadv

    def in_part(file: int, buffers: list[bytearray], *more: int) -> int:
        return min(cached, read(file, buffers, *more))

    monkeypatch.setattr(os, "preadv", in_part)
    with pytest.raises(NotResident):
        known.read_resident(FILE)


@root_only
@pytest.mark.parametrize("mode", [0o020, 0o002, None])
@pytest.mark.parametrize("name", ["..", ".", "keys", "keys/a", "keys/a/b", "keys/a/b/c"])
def test_what_other_users_may_change_is_left_to_a_thread(
    known: Directory, data: Path, name: str, mode: int | None
) -> None:
    path = Path(os.path.normpath(data / name))
    if mode is None:
        os.chown(path, NOBODY, -1)
    else:
        path.chmod(path.stat().st_mode | mode)
        os.chown(path, -1, 4)
    with pytest.raises(NotResident):
        known.read_resident(FILE)
    with pytest.raises(NotResident):
        known.entries_resident(FILE[:-1], [FILE[-1]])
    with pytest.raises(StorageError, match="other user"):
        known.read(FILE)
    with pytest.raises(NotResident):
        known.read_resident(FILE)


def test_a_link_above_the_data_directory_that_leads_elsewhere(tmp_path: Path, data: Path) -> None:
    other = tmp_path / "other"
    for where, content in ((data, b"one"), (other, b"two")):
        Directory.open(where).make("keys")
        Directory(where).replace(("keys", "a"), content)
    link = tmp_path / "link"
    link.symlink_to(data)
    directory = Directory(link)
    assert directory.read(("keys", "a")) == directory.read_resident(("keys", "a")) == b"one"
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(NotResident):
        directory.read_resident(("keys", "a"))
    assert directory.read(("keys", "a")) == b"two"


def test_a_data_directory_that_is_replaced(known: Directory, data: Path) -> None:
    data.rename(data.with_name("aside"))
    with pytest.raises(NotResident):
        known.read_resident(FILE)
    with pytest.raises(StorageError):
        known.read(FILE)


def test_a_directory_is_checked_again_after_a_second(
    known: Directory, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    directory = Directory(data)
    data.chmod(0o777)
    with pytest.raises(StorageError):
        directory.read(FILE)
    data.chmod(0o700)
    directory.read(FILE)
    with pytest.raises(NotResident):
        directory.read_resident(FILE)
    now[0] += 2
    directory.read(FILE)
    assert directory.read_resident(FILE) == KEY


@pytest.mark.parametrize("kernel", ["another file system", "before Linux 5.12"])
async def test_a_key_is_read_on_any_kernel_and_file_system(
    directory: Directory, data: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "another file system":
        monkeypatch.setattr(resident, "_LOCAL", frozenset())
    else:

        def refuse(*_: object) -> int:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(resident, "_open_cached", refuse)
    directory.replace(FILE, KEY)
    keys = DirectoryKeyStore(directory)
    for _ in range(2):
        assert await keys.get(KeyId(FILE[1:])) == SecretBytes(KEY)
    with pytest.raises(NotFound):
        await keys.get(KeyId(("a", "b", "missing")))


async def test_a_key_is_read_without_a_thread(
    known: Directory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> object:
        raise AssertionError("a thread")

    monkeypatch.setattr(pools, "read", refuse)
    keys = DirectoryKeyStore(known)
    assert await keys.get(KeyId(FILE[1:])) == SecretBytes(KEY)
    path.write_bytes(b"n" * 32)
    assert await keys.get(KeyId(FILE[1:])) == SecretBytes(b"n" * 32)
    path.write_bytes(b"short")
    with pytest.raises(StorageError, match="has 5 bytes"):
        await keys.get(KeyId(FILE[1:]))
    path.unlink()
    with pytest.raises(NotFound, match="there is no key a/b/c"):
        await keys.get(KeyId(FILE[1:]))


@root_only
def test_a_mounted_directory_is_left_to_a_thread(known: Directory, data: Path) -> None:
    mount = ("mount", "-t", "tmpfs", "-o", "mode=0700", "none", str(data / "keys"))
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this sandbox does not mount")
    try:
        with pytest.raises(NotResident):
            known.read_resident(FILE)
        with pytest.raises(NotFound):
            known.read(FILE)
    finally:
        subprocess.run(("umount", str(data / "keys")), check=True)
    assert known.read_resident(FILE) == KEY
