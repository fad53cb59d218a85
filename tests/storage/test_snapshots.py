"""Consistent copies of a data directory, and their restoration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.formats.backup import BackedUpFile, Backup
from verdictd_py.storage import snapshots
from verdictd_py.storage.directory import Directory

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    directory = Directory.open(tmp_path / "data")
    for top in ("keys", "opa", "audit"):
        directory.make(top)
    return directory


def contents(files: tuple[BackedUpFile, ...]) -> dict[str, bytes]:
    return {file.name: file.content for file in files}


def test_a_copy_has_everything_but_the_audit_trail(directory: Directory, tmp_path: Path) -> None:
    directory.create(("keys", "default", "key", "1"), b"k" * 32)
    directory.create(("opa", "p.rego"), b"package p")
    (tmp_path / "data" / "audit" / "x.jsonl").write_text("{}")
    (tmp_path / "data" / ".lock").touch()
    assert contents(snapshots.take(directory)) == {
        "keys/default/key/1": b"k" * 32,
        "opa/p.rego": b"package p",
    }


def test_two_files_that_change_together_are_copied_together(directory: Directory) -> None:
    """A writer replaces `a`, then `b`; a copy never has a newer `a` than `b` by more than one."""
    directory.create(("opa", "a"), b"0")
    directory.create(("keys", "b"), b"0")
    steps = [("opa", "a"), ("keys", "b")] * 6
    state = {"opa": 0, "keys": 0}

    def write() -> None:
        if steps:
            top, name = steps.pop(0)
            state[top] += 1
            directory.replace((top, name), str(state[top]).encode())

    copied = contents(snapshots.take(directory, write))
    assert copied == {"opa/a": b"6", "keys/b": b"6"}
    assert not steps  # it waited until nothing changed between two lists


def test_a_change_between_the_list_and_the_read_is_noticed(directory: Directory) -> None:
    directory.create(("opa", "a"), b"old")
    changes = [b"new"]

    def write() -> None:
        if changes:
            directory.replace(("opa", "a"), changes.pop())

    assert contents(snapshots.take(directory, write)) == {"opa/a": b"new"}


def test_deleted_and_created_files(directory: Directory) -> None:
    directory.create(("opa", "a"), b"a")
    done: list[int] = []

    def change() -> None:
        done.append(1)
        if len(done) == 1:
            directory.delete(("opa", "a"))
            directory.create(("opa", "b"), b"b")

    assert contents(snapshots.take(directory, change)) == {"opa/b": b"b"}


def test_endless_changes_are_refused(directory: Directory) -> None:
    count = iter(range(10_000))
    with pytest.raises(StorageError, match="changes too fast"):
        snapshots.take(
            directory, lambda: directory.replace(("opa", "a"), str(next(count)).encode())
        )


def test_a_file_that_cannot_be_read_is_named(directory: Directory, tmp_path: Path) -> None:
    directory.create(("opa", "a"), b"a")
    (tmp_path / "data" / "opa" / "a").chmod(0o666)
    with pytest.raises(StorageError, match="opa/a"):
        snapshots.take(directory)


BACKUP = Backup(
    "now",
    (
        BackedUpFile(("keys", "default", "key", "1"), b"k" * 32, 0o600),
        BackedUpFile(("opa", "p"), b"p", 0o666),
    ),
)


def test_a_backup_is_restored_with_private_modes(tmp_path: Path) -> None:
    target = tmp_path / "new" / "data"
    assert snapshots.restore(target, BACKUP) is None
    assert contents(snapshots.take(Directory.open(target))) == contents(BACKUP.files)
    assert (target / "opa" / "p").stat().st_mode & 0o777 == 0o644
    assert (target / "keys").stat().st_mode & 0o777 == 0o700
    assert sorted(item.name for item in target.iterdir()) == ["keys", "opa"]


def test_a_directory_with_content_is_refused_unless_it_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "opa").mkdir()
    (tmp_path / "opa" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="--replace"):
        snapshots.restore(tmp_path, BACKUP)
    assert (tmp_path / "opa" / "mine").read_text() == "mine"
    aside = snapshots.restore(tmp_path, BACKUP, replace=True)
    assert aside is not None
    assert (aside / "opa" / "mine").read_text() == "mine"
    assert not (tmp_path / "opa" / "mine").exists()
    assert (tmp_path / "opa" / "p").read_bytes() == b"p"


def test_an_interrupted_restoration_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="No space"):
            snapshots.restore(tmp_path, BACKUP)
    assert not (tmp_path / "opa").exists()
    snapshots.restore(tmp_path, BACKUP)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["keys", "opa"]


def test_a_kill_at_any_system_call_leaves_no_secret_without_its_policy(tmp_path: Path) -> None:
    """A broker that starts without policies would release secrets by those of the package."""
    command = [sys.executable, "-m", "tests.storage.restored", str(tmp_path / "data")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    results = json.loads(ended.stdout)
    assert [one["killed"] for one in results] == [True] * (len(results) - 1) + [False]
    for one in results:
        states = one["states"]
        assert "mixed" not in states.values()
        if states["keys"] != "absent" or states["resources"] != "absent":
            secret = states["keys"] if states["keys"] != "absent" else states["resources"]
            assert (states["opa"], states["image"]) == (secret, secret), states
        assert (one["then"], one["kept"], one["left"]) == (["new"], True, [])
    assert {tuple(one["states"].values()) for one in results} > {("old",) * 5, ("new",) * 5}
