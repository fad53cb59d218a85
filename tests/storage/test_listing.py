"""Sorted pages of directories with very many files: what they read, and what they may miss.

The tests count the directories that are read, and the files that are examined: times would depend
on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.storage import files, listing, walks
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.listing import SortedFiles

WINDOW = 50


class Counted:
    """Numbers of directories read, names read and files examined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directories = self.names = self.examined = 0
        read, status = walks.names, files.status

        def names(directory: Directory, top: tuple[str, ...]) -> Iterator[str]:
            self.directories += 1
            for name in read(directory, top):
                self.names += 1
                yield name

        def examine(parent: int, name: str) -> os.stat_result:
            self.examined += 1
            return status(parent, name)

        monkeypatch.setattr(walks, "names", names)
        monkeypatch.setattr(files, "status", examine)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "WINDOW", WINDOW)
    monkeypatch.setattr(listing, "MAX_NAMES", 2 * WINDOW)
    monkeypatch.setattr(listing, "CACHED", 10)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def keys(data: Path) -> Path:
    Directory.open(data).make("keys")
    return data / "keys"


def touch(keys: Path, *names: str) -> None:
    for name in names:
        (keys / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (keys / name).touch()


def sorted_files(keys: Path) -> SortedFiles:
    ticks = count()
    return SortedFiles(Directory.open(keys.parent), "keys", lambda: next(ticks))


def page(found: SortedFiles, after: str, size: int, started: int | None) -> list[str]:
    entries = found.after(after, started=started, expected=size)
    return ["/".join(entry.segments[1:]) for entry in islice(entries, size)]


def all_pages(found: SortedFiles, size: int, started: int = 0) -> list[str]:
    names: list[str] = []
    while part := page(found, names[-1] if names else "", size, started):
        names += part
    return names


@pytest.mark.usefixtures("small_windows")
def test_a_list_reads_its_directory_once_per_window(keys: Path, counted: Counted) -> None:
    names = sorted(f"{number:04}" for number in range(4 * WINDOW))
    touch(keys, *names)
    assert all_pages(sorted_files(keys), 5) == names
    assert counted.directories == 4
    assert counted.examined == len(names)


@pytest.mark.usefixtures("small_windows")
def test_a_page_examines_only_its_own_files(keys: Path, counted: Counted) -> None:
    touch(keys, *(f"{number:04}" for number in range(3 * WINDOW)))
    assert page(sorted_files(keys), "0070", 5, None) == [f"00{number}" for number in range(71, 76)]
    assert (counted.directories, counted.names, counted.examined) == (1, 3 * WINDOW, 5)


def test_a_page_reads_only_the_directories_of_its_names(keys: Path, counted: Counted) -> None:
    touch(keys, *(f"{repo}/key/{tag}" for repo in "abcdef" for tag in "123"))
    assert page(sorted_files(keys), "c/key/2", 2, None) == ["c/key/3", "d/key/1"]
    assert counted.directories == 5  # keys, c, c/key, d, d/key


@pytest.mark.usefixtures("small_windows")
def test_a_new_list_has_what_was_created_before_it(keys: Path) -> None:
    """A window that was read earlier is not used, whatever the time of the directory is."""
    touch(keys, *(f"{number:02}" for number in range(20)))
    found = sorted_files(keys)
    before = keys.stat()
    assert page(found, "", 2, None) == ["00", "01"]
    touch(keys, "005")
    os.utime(keys, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert page(found, "", 2, None) == ["00", "005"]


@pytest.mark.usefixtures("small_windows")
def test_a_list_has_each_name_that_exists_throughout_exactly_once(keys: Path) -> None:
    """Files are created and deleted between its pages, before and after the place reached."""
    names = [f"{number:04}" for number in range(3 * WINDOW)]
    touch(keys, *names)
    found = sorted_files(keys)
    listed: list[str] = []
    deleted: set[str] = set()
    for number in count():
        part = page(found, listed[-1] if listed else "", 7, 0)
        if not part:
            break
        assert not deleted & set(part)
        listed += part
        touch(keys, f"{number * 7:04}x", f"{len(names) - number:04}x")
        for name in (names[number * 5], names[-1 - number]):
            (keys / name).unlink(missing_ok=True)
            deleted.add(name)
    assert listed == sorted(set(listed))
    assert set(names) - deleted <= set(listed)


@pytest.mark.usefixtures("small_windows")
def test_two_lists_at_a_time_do_not_read_again_for_each_page(keys: Path, counted: Counted) -> None:
    names = sorted(f"{number:04}" for number in range(2 * WINDOW))
    touch(keys, *names)
    found = sorted_files(keys)
    first: list[str] = []
    second: list[str] = []
    for _ in range(0, len(names), 5):
        for listed in (first, second):
            listed.extend(page(found, listed[-1] if listed else "", 5, 0))
    assert first == second == names
    assert counted.directories == 2


@pytest.mark.usefixtures("small_windows")
def test_the_names_in_memory_are_bounded(keys: Path) -> None:
    for top in "abcdef":
        touch(keys, *(f"{top}/key/{number:03}" for number in range(2 * WINDOW)))
    found = sorted_files(keys)
    assert len(all_pages(found, 20)) == 12 * WINDOW
    assert found._stored_names() <= 2 * WINDOW
    assert all(len(window.names) <= WINDOW for window in found._windows.values())


SEGMENT = st.text("ab-.0", min_size=1, max_size=3).filter(lambda text: text[0] != ".")


@given(
    names=st.sets(st.lists(SEGMENT, min_size=1, max_size=3).map("/".join), max_size=30),
    size=st.integers(1, 7),
)
def test_pages_are_in_the_order_of_whole_names(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], size: int
) -> None:
    """`a-b` precedes `a/b`, though `a` precedes `a-b`."""
    keys = tmp_path_factory.mktemp("data") / "keys"
    Directory.open(keys.parent).make("keys")
    created = [name for name in sorted(names) if not any(o.startswith(f"{name}/") for o in names)]
    touch(keys, *created)
    assert all_pages(sorted_files(keys), size) == created


def test_a_prefix_is_found_without_the_other_directories(keys: Path, counted: Counted) -> None:
    touch(keys, "a/key/1", "a/key/2", "b/key/1", "c")
    (keys / "empty" / "key").mkdir(parents=True)
    found = sorted_files(keys)
    for prefix in ("", "a", "a/", "a/k", "a/key/", "a/key/2", "c"):
        assert found.any_with_prefix(prefix, 100), prefix
    for prefix in ("d", "a/x", "a/key/3", "a/key/1/", "c/", "empty/", "empty/key/", "../", "a//"):
        assert not found.any_with_prefix(prefix, 100), prefix
    counted.directories = 0
    assert found.any_with_prefix("b/key/1", 100)
    assert counted.directories == 1


def test_the_search_for_a_prefix_ends(keys: Path, counted: Counted) -> None:
    """After many names, the prefix counts as one that a name has: nothing is reported."""
    touch(keys, *(f"{number:03}" for number in range(100)))
    assert sorted_files(keys).any_with_prefix("x", 20)
    assert counted.names == 21
