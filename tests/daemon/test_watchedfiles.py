"""Reload when a file of the settings has changed, without a signal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.support.clock import elapse, until
from tests.support.kubernetes import Volume
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.watchedfiles import PERIOD_SECONDS, WatchedFiles


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[tuple[list[float], list[int]]]:
    """Provide the times of requests, and a list that has an item for each comparison."""
    loop = asyncio.get_running_loop()
    requests: list[float] = []
    comparisons: list[int] = []
    watched = WatchedFiles(settings, Unsafe())
    state = watched.state

    def counted() -> frozenset[tuple[str, int, int, int, int]]:
        found = state()
        comparisons.append(len(found))
        return found

    watched.state = counted  # type: ignore[method-assign]
    task = asyncio.create_task(watched.watch(lambda: requests.append(loop.time())))
    await until(lambda: comparisons)
    yield requests, comparisons
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def compared(comparisons: list[int], times: int) -> None:
    """Let exactly so many more comparisons happen."""
    for _ in range(times):
        before = len(comparisons)
        await elapse(PERIOD_SECONDS)
        await until(lambda before=before: len(comparisons) > before)  # type: ignore[misc]
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def files(tmp_path: Path) -> Settings:
    for name in ("cert", "key"):
        (tmp_path / name).write_text(name)
    (tmp_path / "collateral").mkdir()
    (tmp_path / "collateral" / "one.json").write_text("{}")
    return Settings(
        kbs_tls_cert=tmp_path / "cert",
        kbs_tls_key=tmp_path / "key",
        kbs_sessions=str(tmp_path / "sessions"),
        collateral=tmp_path / "collateral",
        data_dir=tmp_path / "data",
    )


async def test_an_unchanged_file_requests_nothing(files: Settings) -> None:
    async with watching(files) as (requests, comparisons):
        await compared(comparisons, 5)
        assert requests == []


@pytest.mark.parametrize("name", ["cert", "key", "collateral/one.json", "collateral/two.json"])
async def test_a_changed_or_new_file_requests_one_reload(
    files: Settings, tmp_path: Path, name: str
) -> None:
    async with watching(files) as (requests, comparisons):
        (tmp_path / name).write_text("changed")
        await compared(comparisons, 5)
        assert len(requests) == 1
        (tmp_path / name).unlink()
        await compared(comparisons, 5)
        assert len(requests) == 2


async def test_files_that_change_one_after_the_other_request_one_reload(
    files: Settings, tmp_path: Path
) -> None:
    """No reload happens between the certificate and its key."""
    async with watching(files) as (requests, comparisons):
        (tmp_path / "cert").write_text("new")
        await compared(comparisons, 1)
        (tmp_path / "key").write_text("new")
        await compared(comparisons, 1)
        assert requests == []
        await compared(comparisons, 4)
        assert len(requests) == 1


async def test_what_the_broker_writes_requests_nothing(files: Settings, tmp_path: Path) -> None:
    async with watching(files) as (requests, comparisons):
        (tmp_path / "sessions").write_text("SQLite")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "index").write_text("new")
        await compared(comparisons, 4)
        assert requests == []


async def test_a_rotated_secret_of_kubernetes_requests_a_reload(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "tls")
    volume.write({"tls.crt": b"old", "tls.key": b"old"})
    settings = Settings(
        kbs_tls_cert=tmp_path / "tls" / "tls.crt", kbs_tls_key=tmp_path / "tls" / "tls.key"
    )
    async with watching(settings) as (requests, comparisons):
        volume.write({"tls.crt": b"new", "tls.key": b"new"})
        await compared(comparisons, 4)
        assert len(requests) == 1


async def test_public_keys_of_administrators_are_watched(tmp_path: Path) -> None:
    admins = tmp_path / "admins.toml"
    admins.write_text('[[key]]\nname = "a"\npublic_key = "a.pem"\n')
    (tmp_path / "a.pem").write_text("old")
    async with watching(Settings(kbs_admins=admins)) as (requests, comparisons):
        os.utime(tmp_path / "a.pem", (1, 1))
        await compared(comparisons, 4)
        assert len(requests) == 1
