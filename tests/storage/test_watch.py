"""The watch: one system call says whether anything that was compared may have changed."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.stores import document_store
from verdictd_py.domain.names import Name
from verdictd_py.errors import NotFound
from verdictd_py.storage import directory as storage_directory
from verdictd_py.storage import held, resident
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.documents import OPA, DirectoryDocumentStore
from verdictd_py.storage.held import HeldFiles
from verdictd_py.storage.watch import COVER_SECONDS, FRESH_SECONDS, Watch

POLICY = Name.parse("tdxPolicy.rego")
LONG_SECONDS = 3600
LATER_NS = 60 * 1_000_000_000


@pytest.fixture
def watch() -> Watch:
    started = Watch.start()
    assert started is not None
    return started


@pytest.fixture
async def watched(
    directory: Directory, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> DirectoryDocumentStore:
    """A store whose documents are watched, and never compared again because of their age."""
    monkeypatch.setattr(held, "FRESH_SECONDS", LONG_SECONDS)
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS, watch=watch)
    for _ in range(3):
        await documents.snapshot((POLICY,))
    assert documents._held._compared
    return documents


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Paths whose status the cache has compared."""
    compared: list[object] = []
    status = os.lstat

    def counted(path: str) -> os.stat_result:
        compared.append(path)
        return status(path)

    monkeypatch.setattr(os, "lstat", counted)
    return compared


async def test_nothing_is_compared_while_nothing_changes(
    watched: DirectoryDocumentStore, statuses: list[object]
) -> None:
    before = await watched.snapshot((POLICY,))
    assert await watched.snapshot((POLICY,)) is before
    assert statuses == []


def _append(data: Path) -> None:
    with (data / "opa/tdxPolicy.rego").open("a") as file:
        file.write("# more")


def _write_through_another_name(data: Path) -> None:
    with (data / "linked").open("a") as file:
        file.write("# more")


def _truncate(data: Path) -> None:
    os.truncate(data / "opa/tdxPolicy.rego", 3)


def _change_mode(data: Path) -> None:
    (data / "opa/tdxPolicy.rego").chmod(0o640)


def _set_times(data: Path) -> None:
    os.utime(data / "opa/tdxPolicy.rego")


def _rename(data: Path) -> None:
    (data / "opa/tdxPolicy.rego").rename(data / "opa/other")


def _delete(data: Path) -> None:
    (data / "opa/tdxPolicy.rego").unlink()


def _add(data: Path) -> None:
    (data / "opa/referenceSets").write_text("{}")


def _move_in(data: Path) -> None:
    (data / "aside").write_text("{}")
    (data / "aside").rename(data / "opa/referenceSets")


def _move_the_directory(data: Path) -> None:
    (data / "opa").rename(data / "before")


def _move_the_data_directory(data: Path) -> None:
    data.rename(data.with_name("before"))


def _change_mode_above(data: Path) -> None:
    data.parent.chmod(0o711)


@pytest.mark.parametrize(
    "change",
    [
        _append,
        _write_through_another_name,
        _truncate,
        _change_mode,
        _set_times,
        _rename,
        _delete,
        _add,
        _move_in,
        _move_the_directory,
        _move_the_data_directory,
        _change_mode_above,
    ],
)
async def test_each_change_ends_the_comparison(
    directory: Directory, watch: Watch, data: Path, change: Callable[[Path], None]
) -> None:
    del directory
    (data / "linked").hardlink_to(data / "opa/tdxPolicy.rego")
    places = [str(data), str(data.parent)]
    epoch = watch.cover("test", [f"{data}/opa", f"{data}/opa/tdxPolicy.rego"], places)
    assert epoch is not None
    assert watch.epoch() == epoch
    change(data)
    assert watch.epoch() != epoch
    assert watch.epoch() == watch.epoch()


def test_a_link_on_the_way_that_leads_elsewhere_now(watch: Watch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    way, other = tmp_path / "way", tmp_path / "other"
    way.symlink_to("one")
    other.symlink_to("two")
    epoch = watch.cover("test", [f"{way}/."], [str(way)])
    assert epoch is not None
    other.rename(way)
    assert watch.epoch() != epoch


_MOUNT = """
import sys
from verdictd_py.storage.watch import COVER_SECONDS, FRESH_SECONDS, Watch
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1].encode()
NEW_NAMESPACE, PRIVATE = 0x20000, 0x40000 | 0x4000
if libc.unshare(NEW_NAMESPACE) or libc.mount(b"none", b"/", None, PRIVATE, None):
    sys.exit(77)
watch = Watch.start()
epoch = watch.cover("test", [sys.argv[1]])
assert watch.epoch() == epoch is not None
if libc.mount(b"none", path, b"tmpfs", 0, None):
    sys.exit(77)
sys.exit(watch.epoch() == epoch)
"""


def test_a_file_system_that_is_mounted_over_it(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", _MOUNT, str(tmp_path)], check=False)
    if ended.returncode == 77:
        pytest.skip("this user may not mount")
    assert ended.returncode == 0


async def test_a_change_through_a_shared_mapping_is_noticed_after_a_second(
    directory: Directory, data: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No report of the kernel says it; the times that it writes at msync(2) do."""
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS, watch=watch)
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for _ in range(3):
        before = (await documents.get(POLICY)).text
    assert documents._held._compared
    with (data / "opa/tdxPolicy.rego").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:7] = b"PACKAGE"
        mapped.flush()
        assert (await documents.get(POLICY)).text == before
        now[0] += FRESH_SECONDS
        assert (await documents.get(POLICY)).text.startswith("PACKAGE")


async def test_a_change_while_the_watch_begins_is_noticed(
    directory: Directory, data: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS, watch=watch)
    cover = Watch.cover

    def late(self: Watch, *arguments: object) -> int | None:
        covered = cover(self, *arguments)  # type: ignore[arg-type]
        _append(data)
        return covered

    for _ in range(2):
        await documents.get(POLICY)
    monkeypatch.setattr(Watch, "cover", late)
    for _ in range(2):
        assert (await documents.get(POLICY)).text.endswith("# more")


async def test_a_directory_that_changes_all_the_time_is_not_watched_again_at_each_use(
    watched: DirectoryDocumentStore, data: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, covered = [time.monotonic()], []  # window: the clock stops here
    cover = Watch.cover
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def counted(self: Watch, *arguments: object) -> int | None:
        covered.append(now[0])
        return cover(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Watch, "cover", counted)
    for _ in range(20):
        now[0] += COVER_SECONDS / 10
        data.parent.chmod(0o711 if data.parent.stat().st_mode & 0o7777 == 0o700 else 0o700)
        await watched.snapshot((POLICY,))
    assert 1 <= len(covered) <= 3


async def test_an_overlay_is_compared_at_each_use(
    directory: Directory, watch: Watch, monkeypatch: pytest.MonkeyPatch, statuses: list[object]
) -> None:
    """Its layers can be changed without a report."""
    monkeypatch.setattr(resident, "_OVERLAY", resident._file_system(Path("/tmp")))  # noqa: S108
    monkeypatch.setattr(directory, "_root", None)
    monkeypatch.setattr(directory, "_next_check", 0.0)
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS, watch=watch)
    for _ in range(4):
        await documents.snapshot((POLICY,))
    assert documents._held._generation is not None
    statuses.clear()
    await documents.snapshot((POLICY,))
    assert statuses


NEWEST = ("intel-newest-root-crl.json", "intel-newest-pck-crl-platform.json")


@pytest.fixture
def entries(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> Directory:
    """A directory with the status of two files below `collateral/`, of which one is missing."""
    monkeypatch.setattr(storage_directory, "FRESH_SECONDS", LONG_SECONDS)
    directory.replace(("collateral", NEWEST[0]), b"{}")
    with suppress(NotFound):
        for name in NEWEST:
            directory.entry(("collateral", name))
    assert [bool(each) for each in directory.entries_resident(("collateral",), NEWEST)] == [1, 0]
    return directory


def test_entries_are_compared_again_after_a_report_only(
    entries: Directory, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[object] = []
    statuses = resident.Root.statuses

    def counted(root: resident.Root, *arguments: object) -> object:
        compared.append(arguments)
        return statuses(root, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(resident.Root, "statuses", counted)
    before = entries.entries_resident(("collateral",), NEWEST)
    assert compared == []
    for change in (
        lambda: (data / "collateral" / NEWEST[0]).write_text("{ }"),
        lambda: (data / "collateral" / NEWEST[1]).write_text("{}"),
        lambda: os.utime(data / "collateral" / NEWEST[0], ns=(1, 1)),
        (data / "collateral" / NEWEST[0]).unlink,
    ):
        change()
        after = entries.entries_resident(("collateral",), NEWEST)
        assert after != before
        before = after


def test_entries_are_compared_again_after_a_second(
    entries: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = entries.entries_resident(("collateral",), NEWEST)
    now = time.monotonic() + LONG_SECONDS  # window: the clock stops here
    monkeypatch.setattr("time.monotonic", lambda: now)
    again = entries.entries_resident(("collateral",), NEWEST)
    assert again == known
    assert again is not known


def test_descriptors_are_closed_with_the_watch() -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # watches of other tests
    before = opened()
    watch = Watch.start()
    assert opened() == before + 2
    del watch
    assert opened() == before


def test_a_closed_watch_has_no_descriptor_and_reports_changes_only(
    watch: Watch, tmp_path: Path
) -> None:
    gc.collect()  # watches of other tests
    opened = len(list(Path("/proc/self/fd").iterdir()))
    assert watch.cover("test", [str(tmp_path)]) is not None
    watch.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 2
    assert watch.epoch() != watch.epoch()
    assert watch.cover("test", [str(tmp_path)]) is None
    watch.release("test")
    watch.close()


async def test_a_closed_directory_is_read_all_the_same(entries: Directory, data: Path) -> None:
    entries.close()
    documents = document_store(entries)
    assert documents._held._watch is entries.watch
    before = (await documents.get(POLICY)).text
    _append(data)
    assert (await documents.get(POLICY)).text == before + "# more"
    assert entries.entries_resident(("collateral",), NEWEST)[0] is not None


def test_the_group_of_entries_that_was_unused_for_longest_is_evicted(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_directory, "_MAX_ENTRIES", 2)
    now = [time.monotonic()]  # window: the clock stops here
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for name in "abcd":
        directory.replace(("collateral", name), b"{}")
        directory.entry(("collateral", name))
        directory.entries_resident(("collateral",), [name])
        now[0] += FRESH_SECONDS / 4  # c is not cached: a and b are used now
    assert [names for _, names in directory._entries] == [("a",), ("b",)]
    now[0] += FRESH_SECONDS
    directory.entries_resident(("collateral",), ["b"])
    now[0] += FRESH_SECONDS / 4
    directory.entries_resident(("collateral",), ["d"])
    assert [names for _, names in directory._entries] == [("b",), ("d",)]
    assert directory.watch is not None
    assert list(directory.watch._watched) == list(directory._entries)


def test_what_is_watched_no_longer_is_not_reported(watch: Watch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("")
    watch.cover("test", [str(tmp_path / "one")])
    while watch.cover("test", [str(tmp_path / "two")]) is None:
        pass  # the end of the first one is a report as well
    epoch = watch.epoch()
    (tmp_path / "one").write_text("changed")
    assert watch.epoch() == epoch
    (tmp_path / "two").write_text("changed")
    assert watch.epoch() != epoch


def test_names_in_a_directory_above_are_not_reported(watch: Watch, tmp_path: Path) -> None:
    """Other programs may change what they want in `/var/lib`, or `/tmp`."""
    inner, other = tmp_path / "inner", tmp_path / "other"
    inner.mkdir()
    other.write_text("")
    epoch = watch.cover("test", [str(inner)], [str(tmp_path)])
    assert epoch is not None
    other.chmod(0o600)
    (tmp_path / "new").write_text("")
    assert watch.epoch() == epoch
    other.chmod(0o644)
    (inner / "new").write_text("")
    assert watch.epoch() != epoch


def test_a_change_behind_a_flood_of_other_reports(watch: Watch, tmp_path: Path) -> None:
    """Any user can cause reports in `/tmp`: they must not hide others."""
    file, others = tmp_path / "file", [tmp_path / f"other{number}" for number in range(5000)]
    file.write_text("")
    for other in others:
        other.touch()
    epoch = watch.cover("test", [str(file)], [str(tmp_path)])
    assert epoch is not None
    for other in others:
        other.chmod(0o600)
    file.write_text("changed")
    assert watch.epoch() != epoch


@pytest.mark.parametrize("names", range(10, 200, 7))
def test_a_change_behind_some_other_reports(watch: Watch, tmp_path: Path, names: int) -> None:
    file, others = tmp_path / "file", [tmp_path / f"{number:0200}" for number in range(names)]
    file.write_text("")
    for other in others:
        other.touch()
    epoch = watch.cover("test", [str(file)], [str(tmp_path)])
    assert epoch is not None
    for other in others:
        other.chmod(0o600)
    file.write_text("changed")
    assert watch.epoch() != epoch


def test_a_change_while_paths_are_added(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may then be that of another file than the one that is watched."""
    file = tmp_path / "file"
    file.write_text("")
    replace = Watch._replace

    def late(self: Watch, *arguments: object) -> None:
        replace(self, *arguments)  # type: ignore[arg-type]
        file.write_text("changed")

    monkeypatch.setattr(Watch, "_replace", late)
    assert watch.cover("test", [str(file)]) is None


def test_a_path_that_cannot_be_watched(watch: Watch, tmp_path: Path) -> None:
    assert watch.cover("test", [str(tmp_path / "missing")]) is None
