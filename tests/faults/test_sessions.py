"""The file of sessions is removed, replaced or damaged: brokers go on in an empty one."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.sessions import END, NOW, name
from tests.support.events import RecordedEvents
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "run" / "sessions"


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
async def brokers(
    file: Path, events: RecordedEvents
) -> AsyncIterator[tuple[SqliteSessionStore, SqliteSessionStore]]:
    """Two brokers on one file, with a challenge."""
    one, other = (SqliteSessionStore.open(file, events=events) for _ in range(2))
    await one.add_challenge(name(1), "c", now=NOW, expires=END)
    assert await other.fault() == ""
    yield one, other
    one.close()
    other.close()


async def work_together(one: SqliteSessionStore, other: SqliteSessionStore) -> None:
    """What one broker stores, the other takes: both use the same file."""
    await one.add_challenge(name(7), "new", now=NOW, expires=END)
    assert await other.take_challenge(name(7), now=NOW) == "new"
    assert await one.take_challenge(name(7), now=NOW) is None
    await other.add_token(name(8), "token", now=NOW, expires=END)
    assert await one.token(name(8), now=NOW) == "token"
    assert (await one.fault(), await other.fault()) == ("", "")


Brokers = tuple[SqliteSessionStore, SqliteSessionStore]


@pytest.mark.parametrize("journals", [True, False])
async def test_a_removed_file(brokers: Brokers, file: Path, journals: bool) -> None:
    for path in file.parent.iterdir():
        if journals or path == file:
            path.unlink()
    await work_together(*brokers)
    assert await brokers[0].take_challenge(name(1), now=NOW) is None


ANOTHER_BROKER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from tests.conformance.sessions import END, NOW, name
    from tests.support.events import RecordedEvents
    from verdictd_py.storage.sqlite_sessions import SqliteSessionStore

    async def main() -> None:
        store = SqliteSessionStore.open(Path(sys.argv[1]), events=RecordedEvents())
        for number in range(50):
            await store.add_challenge(name(number), "c" * 2000, now=NOW, expires=END)
        print("ready", flush=True)
        sys.stdin.readline()
        print(await store.take_challenge(name(7), now=NOW))

    asyncio.run(main())
    """
)


async def test_a_removed_file_whose_journals_another_process_uses(
    file: Path, events: RecordedEvents
) -> None:
    """SQLite would use the index of the journal that belongs to the removed file."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ANOTHER_BROKER, str(file), stdin=pipe, stdout=pipe
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    file.unlink()
    store = SqliteSessionStore.open(file, events=events)
    assert await store.take_challenge(name(1), now=NOW) is None
    await store.add_challenge(name(7), "new", now=NOW, expires=END)
    answer, _ = await process.communicate(b"\n")
    assert answer == b"new\n"
    assert await store.fault() == ""
    store.close()


async def test_a_removed_directory_that_is_restored(brokers: Brokers, file: Path) -> None:
    shutil.rmtree(file.parent)
    for store in brokers:
        with pytest.raises(StorageError, match="No such file"):
            await store.token(name(1), now=NOW)
        assert (await store.fault()).startswith(str(file))
    file.parent.mkdir(mode=0o700)
    await work_together(*brokers)


async def test_a_file_that_is_restored_from_a_copy(
    brokers: Brokers, file: Path, tmp_path: Path
) -> None:
    shutil.copytree(file.parent, tmp_path / "copy")
    shutil.rmtree(file.parent)
    shutil.copytree(tmp_path / "copy", file.parent)
    await work_together(*brokers)


@pytest.mark.parametrize("content", [b"\xff" * 20_000, b"text, not a database " * 200, b""])
async def test_an_overwritten_file(
    brokers: Brokers, file: Path, events: RecordedEvents, content: bytes
) -> None:
    for store in brokers:
        assert store._connection is not None
        store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as broken:
        broken.truncate(len(content))
        broken.write(content)
    for store in brokers:
        assert store._connection is not None
        store._connection.execute("PRAGMA shrink_memory")
    await work_together(*brokers)
    assert len(events.named("warning.storage")) == 1
    assert "guests attest again" in str(events.named("warning.storage")[0]["reason"])
    assert Path(f"{file}.damaged").exists()


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE entries",
        "DROP TABLE totals",
        "UPDATE totals SET rows = 'x'",
        "UPDATE totals SET rows = 99999999",
        "UPDATE entries SET content = x'ff'",
    ],
)
async def test_content_that_another_program_changed(
    brokers: Brokers, file: Path, change: str
) -> None:
    """Nothing of it is used, and the next handshake succeeds."""
    other = sqlite3.connect(file)
    other.execute(change)
    other.commit()
    other.close()
    assert await brokers[0].take_challenge(name(1), now=NOW) in (None, "c")
    await work_together(*brokers)


async def test_a_file_that_was_named_by_mistake_is_never_renamed(
    tmp_path: Path, events: RecordedEvents
) -> None:
    mistaken = tmp_path / "settings"
    mistaken.write_text("key = 1\n" * 1000)
    with pytest.raises(ConfigError, match="choose another --kbs-sessions"):
        SqliteSessionStore.open(mistaken, events=events)
    assert [path.name for path in tmp_path.iterdir()] == ["settings"]
    assert mistaken.read_text() == "key = 1\n" * 1000
