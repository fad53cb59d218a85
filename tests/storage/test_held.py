"""The cache of documents: each change of a file is effective at the next use."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.support import NOBODY
from tests.support.clock import until
from tests.support.events import RecordedEvents
from tests.support.stores import document_store
from verdictd_py.domain.names import Name
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.ports import ANY
from verdictd_py.storage import held, pools, resident
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.documents import OPA, DirectoryDocumentStore
from verdictd_py.storage.held import HeldFiles
from verdictd_py.storage.watch import FRESH_SECONDS, Watch

POLICY = Name.parse("tdxPolicy.rego")
DATA = Name.parse("tdxData")
SETS = Name.parse("referenceSets")
NAMES = (POLICY, DATA, SETS)
LATER_NS = 60 * 1_000_000_000

root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can change owners")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Calls that were made in threads."""
    calls: list[object] = []
    read = pools.read

    async def counted(call: Callable[..., Any], *arguments: object) -> object:
        calls.append(call)
        return await read(call, *arguments)

    monkeypatch.setattr(pools, "read", counted)
    return calls


@pytest.fixture(
    params=[(3600, False), (-1, False), (3600, True)],
    ids=["used a moment ago", "used long ago", "watched"],
)
async def store(
    directory: Directory,
    reads: list[object],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> DirectoryDocumentStore:
    """A store whose files are old enough to be cached, and cached."""
    fresh_seconds, is_watched = request.param
    monkeypatch.setattr(held, "FRESH_SECONDS", fresh_seconds)
    documents = document_store(directory)
    watch = Watch.start() if is_watched else None
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS, watch=watch)
    groups = (NAMES, (POLICY,), (DATA,))
    for names in groups * 3:
        await documents.snapshot(names)
    assert bool(documents._held._compared) == is_watched
    reads.clear()
    return documents


async def test_unchanged_documents_are_read_without_a_thread(
    store: DirectoryDocumentStore, reads: list[object], data: Path
) -> None:
    for _ in range(3):
        read = await store.snapshot(NAMES)
        assert read[POLICY].text == (data / "opa/tdxPolicy.rego").read_text()
        assert SETS not in read
        assert (await store.get(DATA)).text == (data / "opa/tdxData").read_text()
        with pytest.raises(NotFound):
            await store.get(SETS)
    assert reads == []


def _edit_in_place(file: Path) -> None:
    with file.open("r+") as opened:
        opened.write("PACKAGE")  # as long as the text that it replaces


def _edit_and_restore_mtime(file: Path) -> None:
    status = file.stat()
    _edit_in_place(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(file: Path) -> None:
    status = file.stat()
    other = file.with_name("other")
    other.write_text(file.read_text().replace("package", "PACKAGE", 1))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(file)


def _replace_the_directory(file: Path) -> None:
    file.parent.rename(file.parents[1] / "before")
    file.parent.mkdir(mode=0o700)
    file.write_text("PACKAGE")


@pytest.mark.parametrize(
    "change", [_edit_in_place, _edit_and_restore_mtime, _replace, _replace_the_directory]
)
async def test_a_changed_document_is_read_again(
    store: DirectoryDocumentStore, data: Path, change: Callable[[Path], None]
) -> None:
    before = await store.get(POLICY)
    change(data / "opa/tdxPolicy.rego")
    for read in (await store.get(POLICY), (await store.snapshot((POLICY,)))[POLICY]):
        assert "PACKAGE" in read.text
        assert read.revision != before.revision


async def test_names_that_were_not_used_for_a_second_may_not_be_in_memory(
    store: DirectoryDocumentStore, monkeypatch: pytest.MonkeyPatch, reads: list[object]
) -> None:
    """The kernel may have removed them, and a disk that hangs would stop the event loop."""
    now = [1e9]  # seconds, far from those of the real clock
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(held, "FRESH_SECONDS", 1.0)
    store._held._watch = None  # a use that compares nothing says nothing about the memory
    await store.snapshot(NAMES)

    def evicted(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(resident, "_open_cached", evicted)
    now[0] += FRESH_SECONDS / 2
    await store.snapshot(NAMES)
    now[0] += FRESH_SECONDS * 0.9
    await store.snapshot(NAMES)
    assert reads == []
    now[0] += FRESH_SECONDS
    await store.snapshot(NAMES)
    assert len(reads) == 1


async def test_a_changed_document_is_cached_again(
    store: DirectoryDocumentStore, data: Path, reads: list[object]
) -> None:
    _replace(data / "opa/tdxPolicy.rego")
    for _ in range(3):
        assert "PACKAGE" in (await store.snapshot(NAMES))[POLICY].text
    assert len(reads) == 1


async def test_another_store_on_the_directory_changes_a_document(
    store: DirectoryDocumentStore, data: Path
) -> None:
    await document_store(Directory.open(data)).put(POLICY, "package policy", expected=ANY)
    assert (await store.get(POLICY)).text == "package policy"


async def test_a_document_that_is_deleted_and_one_that_is_added(
    store: DirectoryDocumentStore, data: Path
) -> None:
    (data / "opa/tdxPolicy.rego").unlink()
    (data / "opa/referenceSets").write_text("{}")
    with pytest.raises(NotFound):
        await store.get(POLICY)
    assert set(await store.snapshot(NAMES)) == {DATA, SETS}


async def test_a_document_that_was_there_before_is_not_taken_for_missing(
    store: DirectoryDocumentStore, data: Path
) -> None:
    (data / "opa/referenceSets").write_text("{}")
    await store.snapshot(NAMES)
    (data / "opa/referenceSets").unlink()
    with pytest.raises(StorageError, match="was there before"):
        await store.snapshot(NAMES)


async def test_a_link_in_place_of_a_document_is_refused(
    store: DirectoryDocumentStore, data: Path
) -> None:
    (data / "opa/tdxPolicy.rego").rename(data / "aside")
    (data / "opa/tdxPolicy.rego").symlink_to("../aside")
    with pytest.raises(StorageError, match="not a regular file"):
        await store.get(POLICY)


def _writable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o022)


def _foreign(path: Path) -> None:
    os.chown(path, NOBODY, -1)


@root_only
@pytest.mark.parametrize("change", [_writable, _foreign])
@pytest.mark.parametrize("name", ["", "..", "opa", "opa/tdxPolicy.rego"])
async def test_a_document_that_others_may_change_is_refused_and_accepted_again(
    store: DirectoryDocumentStore, data: Path, name: str, change: Callable[[Path], None]
) -> None:
    path = Path(os.path.normpath(data / name))
    status = path.stat()
    change(path)
    with pytest.raises(StorageError, match="other user"):
        await store.snapshot(NAMES)
    os.chown(path, status.st_uid, -1)
    path.chmod(status.st_mode)
    assert POLICY in await store.snapshot(NAMES)


async def test_a_data_directory_that_is_moved_and_restored(
    store: DirectoryDocumentStore, data: Path
) -> None:
    data.rename(data.with_name("aside"))
    with pytest.raises(StorageError, match="no such file"):
        await store.get(POLICY)
    data.with_name("aside").rename(data)
    assert await store.get(POLICY)


async def test_a_change_within_the_granularity_of_the_clock_is_noticed(
    directory: Directory, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both writes have the same times, size and inode, as on a file system that counts seconds."""
    file = data / "opa/tdxPolicy.rego"
    documents = document_store(directory)
    identity = held._identity

    def coarse(found: os.stat_result) -> tuple[int, ...]:
        return (*identity(found)[:5], 1_000_000_000, 1_000_000_000)

    monkeypatch.setattr(held, "_identity", coarse)
    clock = [1_000_000_000 + held.RACY_NS - 1]
    documents._held = HeldFiles(OPA, lambda: clock[0])
    file.write_text("one")
    assert (await documents.get(POLICY)).text == "one"
    file.write_text("two")
    assert (await documents.get(POLICY)).text == "two"


@pytest.mark.parametrize(("age_ns", "threads"), [(held.RACY_NS, 0), (held.RACY_NS - 1, 1)])
async def test_only_a_status_that_is_old_enough_is_cached(
    directory: Directory, data: Path, reads: list[object], age_ns: int, threads: int
) -> None:
    documents = document_store(directory)
    changed = max(path.stat().st_ctime_ns for path in (data / "opa", data / "opa/tdxPolicy.rego"))
    documents._held = HeldFiles(OPA, lambda: changed + age_ns)
    await documents.get(POLICY)
    reads.clear()
    await documents.get(POLICY)
    assert len(reads) == threads


async def test_a_document_that_is_deleted_before_it_is_read_is_missing(
    directory: Directory, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS)
    begin = HeldFiles.begin

    def early(files: HeldFiles[Any], *arguments: Any) -> held.Reading | None:
        reading = begin(files, *arguments)
        (data / "opa/tdxPolicy.rego").unlink(missing_ok=True)
        return reading

    monkeypatch.setattr(HeldFiles, "begin", early)
    for _ in range(2):
        assert set(await documents.snapshot(NAMES)) == {DATA}


async def test_a_document_that_changes_while_it_is_read_is_not_cached(
    directory: Directory, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS)
    finish = HeldFiles.finish

    def late(files: HeldFiles[Any], *arguments: Any) -> None:
        _edit_in_place(data / "opa/tdxPolicy.rego")
        finish(files, *arguments)

    monkeypatch.setattr(HeldFiles, "finish", late)
    assert "PACKAGE" not in (await documents.get(POLICY)).text
    assert "PACKAGE" in (await documents.get(POLICY)).text


@pytest.mark.parametrize("bound", ["MAX_FILES", "MAX_TOTAL_BYTES"])
async def test_the_cache_is_bounded(
    directory: Directory, data: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS)
    names = [Name.parse(f"team{number}.rego") for number in range(20)]
    for name in names:
        (data / "opa" / str(name)).write_text("x" * 100)
    monkeypatch.setattr(held, bound, {"MAX_FILES": 5, "MAX_TOTAL_BYTES": 500}[bound])
    for name in names:
        assert (await documents.get(name)).text == "x" * 100
        generation = documents._held._generation
        assert generation is not None
        assert len(generation.files) <= 5
    await documents.get(names[-1])


async def test_a_reading_larger_than_the_bound_is_not_cached(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MAX_TOTAL_BYTES", 10)
    documents = document_store(directory)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS)
    assert POLICY in await documents.snapshot(NAMES)
    assert documents._held.get((str(POLICY),)) is None


async def test_evicted_files_are_closed(store: DirectoryDocumentStore, data: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        _replace(data / "opa/tdxPolicy.rego")
        await store.snapshot(NAMES)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def test_a_change_is_recorded_although_the_document_is_cached(
    directory: Directory, data: Path
) -> None:
    events = RecordedEvents()
    documents = document_store(directory, events)
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS)
    for _ in range(3):
        await documents.get(POLICY)
    _edit_in_place(data / "opa/tdxPolicy.rego")
    for _ in range(3):
        await documents.get(POLICY)
    assert len(events.named("file.changed")) == 2


@pytest.mark.usefixtures("directory")
async def test_a_file_system_that_may_not_answer_is_read_in_threads_only(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: while the server does not answer, the event loop continues."""
    monkeypatch.setattr(resident, "_LOCAL", frozenset())
    documents = document_store(Directory(data))
    documents._held = HeldFiles(OPA, lambda: time.time_ns() + LATER_NS)
    await documents.get(POLICY)
    answers, loop_thread = threading.Event(), threading.get_ident()
    waiting: list[int] = []

    def hanging(call: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def wait(*arguments: Any, **more: Any) -> os.stat_result:
            waiting.append(threading.get_ident())
            if threading.get_ident() != loop_thread:
                answers.wait(60)
            return call(*arguments, **more)

        return wait

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", hanging(os.stat))
        patched.setattr(os, "lstat", hanging(os.lstat))
        reading = asyncio.ensure_future(documents.get(POLICY))
        await until(lambda: bool(waiting))
        answers.set()
        await reading
    assert loop_thread not in waiting
