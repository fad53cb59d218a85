"""Writers that are killed, stopped or concurrent: files are complete at every moment."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from tests.storage.interrupted import NAME, NEW, OLD, RACES
from tests.support.stores import remove_leftovers
from tests.support.tees import PROVING
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.layout import prepare

REPOSITORY = Path(__file__).parents[2]


def child(
    root: Path, *arguments: str | int, descriptors: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.storage.interrupted", str(root)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        pass_fds=descriptors,
    )


def answer(process: subprocess.Popen[bytes]) -> bytes:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output


def temporary_files(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


@pytest.mark.parametrize(("operation", "before"), [("replace", "o"), ("create", "")])
def test_a_kill_before_any_system_call_leaves_a_complete_file(
    tmp_path: Path, operation: str, before: str
) -> None:
    """defects.md 14: up to some call the file is the old one, from there on the new one."""
    found = json.loads(answer(child(tmp_path, operation, "sweep")))
    contents = [state["content"] for state in found]
    assert [state["killed"] for state in found] == [True] * (len(found) - 1) + [False]
    assert all(state["whole"] for state in found)
    assert contents == sorted(contents, key=[before, "n"].index)
    assert set(contents) == {before, "n"}
    assert max(state["left"] for state in found) == 1  # so there was something to remove
    assert not any(state["left_at_next_start"] for state in found)


def test_a_kill_at_any_moment_leaves_a_complete_file(tmp_path: Path) -> None:
    """defects.md 14: kill -9 at arbitrary moments, while another process reads continuously."""
    directory = Directory.open(tmp_path)
    directory.make("keys")
    directory.replace(NAME, OLD)
    seen: set[bytes] = set()
    moments = random.Random(14)  # noqa: S311  # a test's choice
    for _ in range(12):
        process = child(tmp_path, "loop")
        assert process.stdout is not None
        with process.stdout:
            for _ in range(moments.randrange(1, 8)):
                os.read(process.stdout.fileno(), 1)
                seen |= {directory.read(NAME) for _ in range(5)}
            process.kill()
        process.wait()
        seen.add(directory.read(NAME))
        remove_leftovers(directory, "keys")
        assert temporary_files(tmp_path) == []
    assert seen == {OLD, NEW}


@pytest.mark.parametrize("call", ["flock", "fchmod", "fsync", "rename"])
def test_a_starting_broker_does_not_disturb_a_running_writer(tmp_path: Path, call: str) -> None:
    """Before it is locked, the temporary file may be removed; the writer then creates another."""
    prepare(tmp_path, PROVING)
    directory = Directory.open(tmp_path)
    directory.make("keys")
    directory.replace(NAME, OLD)
    process = child(tmp_path, "replace", "SIGSTOP", call)
    os.waitpid(process.pid, os.WUNTRACED)
    assert len(temporary_files(tmp_path)) == 1
    prepare(tmp_path, PROVING)
    assert len(temporary_files(tmp_path)) == (0 if call == "flock" else 1)
    process.send_signal(signal.SIGCONT)
    answer(process)
    assert tmp_path.joinpath(*NAME).read_bytes() == NEW
    assert temporary_files(tmp_path) == []


def test_a_start_removes_leftovers_in_the_stores_directories_only(tmp_path: Path) -> None:
    """Other programs use such names too, and a data directory may be a checkout."""
    left = ".tmp-" + "f" * 32
    removed = [
        tmp_path / "keys" / left,
        tmp_path / "keys" / ".tmp-of-another-release",
        tmp_path / "resources" / "a" / "b" / left,
    ]
    kept = [
        tmp_path / left,
        tmp_path / "other" / left,
        tmp_path / "keys" / ("x" + left),
        tmp_path / "image" / left,
    ]
    for path in (*removed, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with kept[-1].open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        prepare(tmp_path, PROVING)
    assert not any(path.exists() for path in removed)
    assert all(path.exists() for path in kept)


def test_only_one_of_many_processes_creates_a_key(tmp_path: Path) -> None:
    start, release = os.pipe()
    creators = {name: child(tmp_path, "race", start, name, descriptors=(start,)) for name in "abc"}
    os.close(start)
    for process in creators.values():
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
    os.close(release)
    won = {name: int(answer(process)) for name, process in creators.items()}
    assert sum(won.values()) == RACES
    directory = Directory.open(tmp_path)
    contents = [directory.read(("keys", str(number), "b", "c")) for number in range(RACES)]
    for name, number in won.items():
        assert contents.count(name.encode() * 10_000) == number
    assert temporary_files(tmp_path) == []


def test_content_is_synced_before_its_name(tmp_path: Path) -> None:
    """defects.md 14: a crash of the machine also leaves either the old content or the new."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, function: object) -> None:
        name = getattr(function, "__name__", "")
        if event == "c_call" and name in {"write", "fsync", "rename", "link"}:
            calls.append(name)

    directory = Directory.open(tmp_path)
    for write in (directory.replace, directory.create):
        sys.setprofile(profile)
        write((write.__name__,), NEW)
        sys.setprofile(None)
    assert calls == ["write", "fsync", "rename", "fsync", "write", "fsync", "link", "fsync"]
