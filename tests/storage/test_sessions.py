"""Session store in a file: several brokers on one file, and failures of the store."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.conformance.sessions import END, NOW, name
from tests.support.events import RecordedEvents
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports import SessionStore
from verdictd_py.ports.sessions import SessionLimits
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
async def shared(file: Path) -> AsyncIterator[tuple[SqliteSessionStore, SqliteSessionStore]]:
    events = RecordedEvents()
    stores = (
        SqliteSessionStore.open(file, events=events),
        SqliteSessionStore.open(file, events=events),
    )
    yield stores
    for store in stores:
        store.close()


Shared = tuple[SqliteSessionStore, SqliteSessionStore]
Call = Callable[[SessionStore], Awaitable[object]]
CALLS: list[Call] = [
    lambda store: store.add_challenge(name(7), "c", now=NOW, expires=END),
    lambda store: store.take_challenge(name(1), now=NOW),
    lambda store: store.add_token(name(7), "t", now=NOW, expires=END),
    lambda store: store.token(name(2), now=NOW),
    lambda store: store.add_claims(name(7), "k", now=NOW, expires=END),
    lambda store: store.claims(name(3), now=NOW),
]


async def with_one_of_each(store: SessionStore) -> None:
    await store.add_challenge(name(1), "c", now=NOW, expires=END)
    await store.add_token(name(2), "t", now=NOW, expires=END)
    await store.add_claims(name(3), "k", now=NOW, expires=END)


async def fails(store: SessionStore, *, calls: list[Call] = CALLS) -> None:
    """Check that every call fails instead of returning a result that it cannot know."""
    for call in calls:
        with pytest.raises(StorageError, match="the sessions cannot be used") as caught:
            await call(store)
        assert "/" not in str(caught.value)  # a peer may read it: no paths
        assert "\n" not in str(caught.value)


async def works(store: SessionStore) -> None:
    await store.add_challenge(name(8), "c", now=NOW, expires=END)
    assert await store.take_challenge(name(8), now=NOW) == "c"


async def test_several_brokers_share_a_file(shared: Shared) -> None:
    one, two = shared
    await with_one_of_each(one)
    assert await two.take_challenge(name(1), now=NOW) == "c"
    assert await one.take_challenge(name(1), now=NOW) is None
    assert await two.token(name(2), now=NOW) == "t"
    assert await two.claims(name(3), now=NOW) == "k"


async def test_only_one_of_several_brokers_takes_a_challenge(shared: Shared) -> None:
    for number in range(50):
        await shared[number % 2].add_challenge(name(number), f"{number}", now=NOW, expires=END)
    taken = await asyncio.gather(
        *(
            store.take_challenge(name(number), now=NOW)
            for number in range(50)
            for store in (*shared, *shared)
        )
    )
    assert sorted(each for each in taken if each) == sorted(str(number) for number in range(50))


def connected(store: SqliteSessionStore) -> sqlite3.Connection:
    """Return the connection of a store, to break what a file can break."""
    assert store._connection is not None
    return store._connection


PROCESS = textwrap.dedent(
    """
    import asyncio, json, sys
    from pathlib import Path
    from tests.conformance.sessions import NOW, name
    from tests.support.events import RecordedEvents
    from verdictd_py.storage.sqlite_sessions import SqliteSessionStore

    async def main() -> None:
        store = SqliteSessionStore.open(Path(sys.argv[1]), events=RecordedEvents())
        print("ready", flush=True)
        sys.stdin.readline()
        taken = await asyncio.gather(
            *(store.take_challenge(name(number), now=NOW) for number in range(200))
        )
        store.close()
        print(json.dumps([each for each in taken if each]))

    asyncio.run(main())
    """
)


async def test_only_one_of_several_processes_takes_a_challenge(file: Path) -> None:
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    for number in range(200):
        await store.add_challenge(name(number), f"{number}", now=NOW, expires=END)
    store.close()
    pipe = asyncio.subprocess.PIPE
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, str(file), stdin=pipe, stdout=pipe
        )
        for _ in range(3)
    ]
    for process in running:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(process.communicate(b"\n") for process in running))
    assert [process.returncode for process in running] == [0, 0, 0]
    taken = [number for out, _ in answers for number in json.loads(out)]
    assert sorted(taken) == sorted(str(number) for number in range(200))


async def test_limits_apply_to_all_brokers_together(file: Path) -> None:
    limits = SessionLimits(challenges=5, sessions=8)
    stores = [SqliteSessionStore.open(file, limits, events=RecordedEvents()) for _ in range(2)]
    for number in range(20):
        expires = END + timedelta(seconds=number)
        await stores[number % 2].add_challenge(name(number), "c", now=NOW, expires=expires)
    taken = [await stores[0].take_challenge(name(number), now=NOW) for number in range(20)]
    assert taken == [None] * 15 + ["c"] * 5
    for store in stores:
        store.close()


async def test_sessions_survive_a_restart(file: Path) -> None:
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    await with_one_of_each(store)
    store.close()
    again = SqliteSessionStore.open(file, events=RecordedEvents())
    assert await again.take_challenge(name(1), now=NOW) == "c"
    assert await again.token(name(2), now=NOW) == "t"
    again.close()


async def test_the_file_is_readable_for_its_owner_only(file: Path) -> None:
    file.touch(mode=0o644)
    file.chmod(0o644)
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    await with_one_of_each(store)
    made = sorted(file.parent.iterdir())
    assert [each.name for each in made] == ["sessions", "sessions-shm", "sessions-wal"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in made} == {0o600}
    store.close()


async def test_a_closed_store_refuses_every_call(file: Path) -> None:
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    await with_one_of_each(store)
    waiting = asyncio.gather(*(store.token(name(2), now=NOW) for _ in range(20)))
    await asyncio.sleep(0)  # they are under way
    store.close()
    assert set(await waiting) == {"t"}
    await fails(store)
    store.close()  # as often as one likes


# A store that fails.


async def test_a_removed_directory_fails_every_call(file: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    store = SqliteSessionStore.open(tmp_path / "d" / "sessions", events=RecordedEvents())
    await with_one_of_each(store)
    shutil.rmtree(tmp_path / "d")
    await fails(store)
    store.close()


async def test_a_locked_file_fails_every_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteSessionStore.open(file, events=RecordedEvents(), busy_seconds=0)
    await with_one_of_each(store)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await fails(store)
    other.execute("ROLLBACK")
    other.close()
    assert await store.take_challenge(name(1), now=NOW) == "c"  # it was not spent
    await works(store)
    store.close()


async def test_a_call_waits_for_the_lock_of_another_broker(file: Path) -> None:
    store = SqliteSessionStore.open(file, events=RecordedEvents(), busy_seconds=60)
    await with_one_of_each(store)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(store.take_challenge(name(1), now=NOW))
    for _ in range(20):
        await asyncio.to_thread(file.exists)
    assert not waiting.done()  # and the loop went on meanwhile
    other.execute("COMMIT")
    other.close()
    assert await waiting == "c"
    store.close()


async def test_a_full_disk_fails_writing_calls(file: Path) -> None:
    """A challenge that could not be removed is never returned; reads still succeed."""
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    await with_one_of_each(store)
    used = connected(store).execute("PRAGMA page_count").fetchone()[0]
    connected(store).execute(f"PRAGMA max_page_count = {used + 2}")

    async def fill() -> None:
        for number in range(100):
            await store.add_token(name(100 + number), "t" * 4000, now=NOW, expires=END)

    with pytest.raises(StorageError, match="full"):
        await fill()
    with pytest.raises(StorageError, match="full"):
        await store.add_claims(name(4), "k" * 100_000, now=NOW, expires=END)
    assert await store.claims(name(4), now=NOW) is None
    assert await store.take_challenge(name(1), now=NOW) == "c"
    assert await store.take_challenge(name(1), now=NOW) is None
    connected(store).execute("PRAGMA max_page_count = 1000000")
    await works(store)
    store.close()


async def test_a_failed_commit_returns_nothing(file: Path) -> None:
    """The taken challenge is not returned, and the next call succeeds."""
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    await with_one_of_each(store)

    def denied(action: int, argument: str | None, *_: object) -> int:
        commits = action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
        return sqlite3.SQLITE_DENY if commits else sqlite3.SQLITE_OK

    connected(store).set_authorizer(denied)
    await fails(store)
    connected(store).set_authorizer(None)
    assert await store.take_challenge(name(1), now=NOW) == "c"
    assert await store.token(name(7), now=NOW) is None
    store.close()


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but long enough to be looked at" * 40)
    (tmp_path / "plain").touch()
    for path in (
        tmp_path,
        tmp_path / "none" / "sessions",
        tmp_path / "text",
        tmp_path / "plain" / "sessions",
        Path("/proc/sessions"),
    ):
        with pytest.raises(ConfigError, match="choose another --kbs-sessions") as caught:
            SqliteSessionStore.open(path, events=RecordedEvents())
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_a_crash_of_the_host_leaves_a_file_that_can_be_opened(file: Path) -> None:
    """SQLite, "PRAGMA synchronous": with OFF the file could be corrupt, and no broker start."""
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    assert connected(store).execute("PRAGMA synchronous").fetchone() == (1,)
    assert connected(store).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_other_files_are_not_changed(tmp_path: Path) -> None:
    """Neither a file named by mistake, nor the target of another user's link."""
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_text("key = 1\n" * 1000)
    for target in (other, tmp_path / "nothing"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        other.chmod(0o644)
        for path in (link, other):
            with pytest.raises(ConfigError, match="choose another --kbs-sessions"):
                SqliteSessionStore.open(path, events=RecordedEvents())
        assert stat.S_IMODE(other.stat().st_mode) == 0o644
        assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "other"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="a link, or not a regular file"):
        SqliteSessionStore.open(tmp_path / "pipe", events=RecordedEvents())


async def test_many_sessions_do_not_slow_the_store_down(file: Path) -> None:
    """Counting rows at every call was ten times slower with 50,000 rows."""
    store = SqliteSessionStore.open(file, events=RecordedEvents())
    clock = asyncio.get_running_loop().time

    async def seconds(first: int) -> float:
        begins = clock()
        for number in range(first, first + 300):
            await store.add_challenge(name(number), "c" * 300, now=NOW, expires=END)
            assert await store.take_challenge(name(number), now=NOW)
        return clock() - begins

    empty = await seconds(1_000_000)
    rows = [("token", name(number), "t" * 200, END.timestamp()) for number in range(49_000)]
    connected(store).execute("BEGIN")
    connected(store).executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
    connected(store).execute("COMMIT")
    full = await seconds(2_000_000)
    assert full < 5 * empty + 1  # seconds; a loaded machine is no reason to fail
    store.close()
