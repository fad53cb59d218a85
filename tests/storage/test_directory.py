"""File operations: names, links and other file types, modes, limits."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.stores import remove_leftovers
from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError
from verdictd_py.storage.directory import MAX_DEPTH, Directory
from verdictd_py.storage.files import MAX_FILE_BYTES

LEFT_OVER = ".tmp-" + "0" * 32


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    opened = Directory.open(tmp_path / "data")
    opened.make("keys")
    return opened


@pytest.fixture
def root(directory: Directory, tmp_path: Path) -> Path:
    return tmp_path / "data"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def tree(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def open_descriptors() -> int:
    gc.collect()  # roots of earlier tests are closed with their last reference
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("segments", [("one",), ("keys", "one"), ("keys", "repo", "type", "tag")])
@pytest.mark.parametrize("content", [b"x", b"", b"\0\n \n", b"k" * MAX_FILE_BYTES])
def test_content_is_returned_unchanged(
    directory: Directory, segments: tuple[str, ...], content: bytes
) -> None:
    directory.create(segments, content)
    assert directory.read(segments) == content
    directory.replace(segments, content + b"new" if len(content) < MAX_FILE_BYTES else b"new")
    assert directory.read(segments) != content
    directory.delete(segments)
    with pytest.raises(NotFound):
        directory.read(segments)
    with pytest.raises(NotFound):
        directory.delete(segments)


@pytest.mark.parametrize("mask", [0, 0o022, 0o027, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        directory = Directory.open(tmp_path / "data")
        directory.make("made")
        directory.make("a")
        directory.create(("a", "b", "created"), b"x")
        directory.replace(("a", "b", "replaced"), b"x")
    root = tmp_path / "data"
    for path in (root, root / "made", root / "a", root / "a" / "b"):
        assert mode(path) == 0o700
    for name in ("created", "replaced"):
        assert mode(root / "a" / "b" / name) == 0o600


def test_a_file_can_be_read_again_under_any_umask(directory: Directory, root: Path) -> None:
    with umask(0o777):
        directory.create(("created",), b"x")
    assert mode(root / "created") == 0o600


def test_a_replaced_file_is_not_readable_for_other_users(directory: Directory, root: Path) -> None:
    (root / "open").write_bytes(b"old")
    (root / "open").chmod(0o644)
    directory.replace(("open",), b"new")
    assert mode(root / "open") == 0o600


def _link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def _fifo(path: Path, target: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, target: Path) -> None:
    path.mkdir()


def _socket(path: Path, target: Path) -> None:
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # relative: sun_path has 108 bytes


def _device(path: Path, target: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # /dev/null
    except PermissionError:
        pytest.skip("only root makes devices")


def _dangling(path: Path, target: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path, target: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("place", [_link, _fifo, _directory, _socket, _device, _dangling, _loop])
def test_only_regular_files_are_served(
    directory: Directory, root: Path, tmp_path: Path, place: object
) -> None:
    """defects.md 1: a link could lead out of the directory; a FIFO must not block the broker."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret of the host")
    assert callable(place)
    place(root / "thing", outside)
    directory.root()  # stays open
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(NotFound):
            directory.read(("thing",))
        with pytest.raises(NotFound):
            directory.delete(("thing",))
        with pytest.raises(AlreadyExists):
            directory.create(("thing",), b"x")
    assert directory.exists(("thing",))
    assert not list(directory.walk())
    assert open_descriptors() == before
    assert outside.read_bytes() == b"secret of the host"


@pytest.mark.parametrize("level", range(4))
def test_links_that_lead_out_are_not_followed_at_any_level(
    directory: Directory, root: Path, tmp_path: Path, level: int
) -> None:
    """defects.md 1."""
    segments = ("keys", "repo", "type", "tag")
    outside = tmp_path / "outside"
    below = outside.joinpath(*segments[level + 1 :])
    below.parent.mkdir(parents=True, exist_ok=True)
    below.write_bytes(b"secret of the host")
    link = root.joinpath(*segments[: level + 1])
    (root / "keys").rmdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(below if level == 3 else outside)

    # A link in the place of the first directory is a fault of the data directory.
    absent = NotFound if level else StorageError
    with pytest.raises(absent):
        directory.read(segments)
    with pytest.raises(absent):
        directory.delete(segments)
    with pytest.raises(AlreadyExists):
        directory.create(segments, b"x")
    if level:
        assert directory.exists(segments) is (level == 3)
    else:
        with pytest.raises(StorageError):
            directory.exists(segments)
    assert list(directory.walk()) == []
    assert below.read_bytes() == b"secret of the host"
    if level < 3:
        with pytest.raises(AlreadyExists):
            directory.replace(segments, b"x")
    else:
        directory.replace(segments, b"ours")  # takes the link's place, and writes through none
        assert not link.is_symlink()
    assert below.read_bytes() == b"secret of the host"


def test_a_name_cannot_begin_with_the_name_of_a_file(directory: Directory) -> None:
    directory.create(("keys", "a"), b"x")
    for write in (directory.create, directory.replace):
        with pytest.raises(AlreadyExists, match="begins with a, which is a file"):
            write(("keys", "a", "b", "c"), b"y")
    with pytest.raises(NotFound):
        directory.read(("keys", "a", "b", "c"))


def test_a_file_cannot_have_the_name_of_a_directory(directory: Directory) -> None:
    directory.create(("keys", "a", "b", "c"), b"x")
    for write in (directory.create, directory.replace):
        with pytest.raises(AlreadyExists, match="is a prefix of other names"):
            write(("keys", "a"), b"y")
    assert directory.read(("keys", "a", "b", "c")) == b"x"


def test_creating_never_overwrites(directory: Directory, root: Path) -> None:
    directory.create(("one",), b"first")
    with pytest.raises(AlreadyExists, match="exists already"):
        directory.create(("one",), b"second")
    assert directory.read(("one",)) == b"first"
    assert tree(root) == ["keys", "one"]


def test_a_file_that_is_too_large_is_neither_written_nor_read(
    directory: Directory, root: Path
) -> None:
    for write in (directory.create, directory.replace):
        with pytest.raises(StorageError, match="is larger than"):
            write(("big",), b"x" * (MAX_FILE_BYTES + 1))
    assert tree(root) == ["keys"]
    with (root / "big").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(StorageError, match="is larger than"):
        directory.read(("big",))


def test_a_full_disk_leaves_the_old_content_and_nothing_else(
    directory: Directory, root: Path
) -> None:
    """defects.md 14."""
    directory.replace(("one",), b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for write, name in ((directory.replace, "one"), (directory.create, "two")):
            with pytest.raises(StorageError, match="cannot be read or written: file too large"):
                write((name,), b"new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert directory.read(("one",)) == b"old"
    assert tree(root) == ["keys", "one"]


def test_descriptors_are_closed(directory: Directory) -> None:
    """A leak of one per call would stop a broker after some thousand calls."""
    directory.make("keys")
    directory.root()  # stays open
    before = open_descriptors()
    name = ("keys", "a", "b", "c")
    for _ in range(20):
        directory.create(name, b"x")
        directory.replace(name, b"y")
        for refused in (
            partial(directory.create, name, b"z"),
            partial(directory.create, (*name, "below"), b"z"),
            partial(directory.replace, ("keys", "a"), b"z"),
            partial(directory.delete, ("keys", "none", "none")),
        ):
            with pytest.raises((AlreadyExists, NotFound)):
                refused()
        directory.delete(name)
    directory.create(name, b"x")
    for _ in range(300):
        directory.read(name)
        directory.exists(name)
        list(directory.walk("keys"))
        with pytest.raises(NotFound):
            directory.read(("keys", "a"))
    remove_leftovers(directory, "keys")
    assert open_descriptors() == before


def test_a_walk_lists_regular_files_sorted_and_skips_invalid_names(
    directory: Directory, root: Path
) -> None:
    for name in ("b", "a"):
        directory.create(("keys", name), b"12")
    directory.create(("keys", "x", "y", "z"), b"123")
    (root / "keys" / LEFT_OVER).touch()
    (root / "keys" / "link").symlink_to("../../outside")
    deep = root.joinpath("keys", *"12345")
    deep.mkdir(parents=True)
    (deep / "file").touch()
    found = list(directory.walk("keys"))
    assert [entry.segments for entry in found] == [
        ("keys", "a"),
        ("keys", "b"),
        ("keys", "x", "y", "z"),
    ]
    assert [(entry.size, entry.mode) for entry in found] == [(2, 0o600)] * 2 + [(3, 0o600)]
    assert len(found[-1].segments) == MAX_DEPTH + 1


def test_temporary_files_are_not_listed_at_any_level(directory: Directory, root: Path) -> None:
    directory.make("b")
    for segments in (("a",), ("b", "c"), ("b", "d", "e", "f")):
        directory.create(segments, b"x")
        root.joinpath(*segments).with_name(LEFT_OVER).touch()
    with directory.locked():
        found = [entry.segments for entry in directory.walk()]
    assert found == [("a",), ("b", "c"), ("b", "d", "e", "f")]


def test_leftovers_are_removed_at_any_level_and_nothing_else(
    directory: Directory, root: Path
) -> None:
    keys = root / "keys"
    directory.create(("keys", "a", "b", "c"), b"x")
    (root / LEFT_OVER).touch()
    for folder in (keys, keys / "a", keys / "a" / "b"):
        (folder / LEFT_OVER).touch()
    (keys / "a" / ".tmp").touch()
    (keys / ".tmp-link").symlink_to("a/b/c")
    (keys / ".tmp-folder").mkdir()
    remove_leftovers(directory, "keys")
    assert tree(keys) == [".tmp-folder", ".tmp-link", "a", "a/.tmp", "a/b", "a/b/c"]
    assert (root / LEFT_OVER).exists()


def test_a_file_that_is_being_written_is_no_leftover(directory: Directory, root: Path) -> None:
    """Another broker starts in the middle of a write; the other leftovers go all the same."""
    directory.make("keys")
    (root / "keys" / ".tmp-1").touch()
    (root / "keys" / ".tmp-3").touch()
    with (root / "keys" / ".tmp-2").open("w") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        remove_leftovers(directory, "keys")
        assert tree(root / "keys") == [".tmp-2"]
    remove_leftovers(directory, "keys")
    assert tree(root / "keys") == []


def test_a_replaced_file_is_another_entry_though_size_and_time_are_the_same(
    directory: Directory, root: Path
) -> None:
    """Snapshots of several documents rely on it; clocks of file systems are coarse."""
    directory.replace(("one",), b"old")
    before = directory.entry(("one",))
    (root / "kept").hardlink_to(root / "one")  # so that its inode is not used again
    directory.replace(("one",), b"new")
    os.utime(root / "one", ns=(before.modified_ns, before.modified_ns))
    after = directory.entry(("one",))
    assert (after.size, after.mode, after.modified_ns) == (3, 0o600, before.modified_ns)
    assert after != before


def test_a_directory_that_was_removed_is_an_error_of_the_store(
    directory: Directory, root: Path
) -> None:
    """`NotFound` would tell a client that a name is free, and a broker that there are no sets."""
    (root / "keys").rmdir()
    root.rmdir()
    for write in (
        partial(directory.make, "keys"),
        partial(directory.create, ("one",), b"x"),
        partial(directory.replace, ("one",), b"x"),
        partial(directory.delete, ("one",)),
        partial(directory.read, ("one",)),
        partial(directory.exists, ("one",)),
        partial(directory.entry, ("one",)),
    ):
        with pytest.raises(StorageError, match="cannot be read or written") as error:
            write()
        assert not isinstance(error.value, NotFound)


def test_a_file_is_not_a_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"is not a directory; choose another --data-dir$"):
            Directory.open(path)


@pytest.mark.parametrize("name", ["nul\0byte", "n" * 256])
def test_an_invalid_path_is_not_a_data_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^cannot use .*choose another --data-dir$"):
        Directory.open(tmp_path / name)


def test_an_existing_directory_is_opened_as_it_is(directory: Directory, root: Path) -> None:
    directory.create(("one",), b"x")
    opened = Directory.open(root)
    assert opened.read(("one",)) == b"x"


def test_missing_parents_are_created(tmp_path: Path) -> None:
    Directory.open(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
