"""Two brokers on one data directory: no change of either is lost."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.command import environment
from tests.support.events import RecordedEvents
from tests.support.tees import TDX
from tests.support.usecases import opened
from tests.system.changing import OPERATOR, VALUE
from verdictd_py.documents import referencesets
from verdictd_py.errors import StorageError
from verdictd_py.storage.directory import LOCK_FILE, Directory
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps

CERTIFICATES = Path(__file__).parents[1] / "inputs" / "gpg"
SECONDS = 120


async def at_once(root: Path, *changes: tuple[str, ...]) -> None:
    """Run each change in a separate process, all at the same time."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.system.changing", str(root), *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        for words in changes
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [await process.wait() for process in processes] == [0] * len(processes)


def states(root: Path) -> dict[str, str]:
    sets = json.loads((root / "opa" / "referenceSets").read_text())["tdx"]
    return {name: "retired" if made["retiredAt"] else "in force" for name, made in sets.items()}


async def test_no_addition_of_either_is_lost(tmp_path: Path) -> None:
    await at_once(tmp_path, ("add", "a", "15"), ("add", "b", "15"))
    assert states(tmp_path) == {f"{p}{n}": "in force" for p in "ab" for n in range(15)}


async def test_no_retirement_is_undone_by_the_other_process(tmp_path: Path) -> None:
    sets = opened(tmp_path, RecordedEvents()).administration.sets
    for number in range(15):
        await sets.add(OPERATOR, "tdx", f"old{number}", {"rtmr1": [VALUE]}, "")
    await at_once(tmp_path, ("retire", "old", "15"), ("add", "new", "15"))
    found = states(tmp_path)
    assert {found[f"old{number}"] for number in range(15)} == {"retired"}
    assert {found[f"new{number}"] for number in range(15)} == {"in force"}
    assert set(referencesets.parse((tmp_path / "opa" / "referenceSets").read_text())) == {"tdx"}


async def test_no_list_of_the_reference_data_is_lost(tmp_path: Path) -> None:
    lists = [name for name, claim in TDX.claims.items() if claim.form.bytes_of is not None]
    await at_once(tmp_path, ("replace", *lists[::2]), ("replace", *lists[1::2]))
    found = json.loads((tmp_path / "opa" / "tdxData").read_text())
    assert all(len(found[name]) == 1 for name in lists)
    assert len(lists) >= 17


async def test_no_certificate_is_lost(tmp_path: Path) -> None:
    one, other = (("ed", "nist", "old"), ("bp", "dsa", "rev"))
    await at_once(
        tmp_path,
        *(("certificates", *(f"{CERTIFICATES}/{name}.gpg" for name in n)) for n in (one, other)),
    )
    keyring = (tmp_path / "gpg" / "keyring.gpg").read_bytes()
    for name in (*one, *other):
        key_material = (CERTIFICATES / f"{name}.gpg").read_bytes()[20:50]
        assert key_material in keyring, name


async def test_a_lock_on_the_directory_delays_only_changes(
    tmp_path: Path,
) -> None:
    """The event loop continues, and the change is refused after a limited wait."""
    directory = Directory.open(tmp_path)
    holder = os.open(tmp_path / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    done: list[str] = []

    def change(what: str) -> Steps[None]:
        done.append(what)
        yield from ()

    waiting = asyncio.create_task(
        exclusively(directory, partial(change, "changed"), wait_seconds=SECONDS)
    )
    for _ in range(20):
        await asyncio.to_thread(directory.walk)
    assert not done
    with pytest.raises(StorageError, match=r"held the data directory for 0\.05 s"):
        await exclusively(
            directory,
            partial(change, "never"),
            wait_seconds=0.05,  # window: the lock is held for the whole wait
        )
    os.close(holder)  # as the kernel does when a process dies
    await waiting
    assert done == ["changed"]
