"""`verdictd-py doctor` as the user of a service, over faults that administrators make as root."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.command import run_here
from tests.support.installation import Installation
from tests.support.otherusers import python_of_every_user, with_libraries
from verdictd_py.daemon.diagnosis.run import _examined

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY: Final = 65_534

Expected = list[tuple[str, str, str]]
"""Check, result, and a part of the message, of each check that is not ok."""


@pytest.fixture
def installation() -> Iterator[Installation]:
    """An installation that belongs to `nobody`, in a directory that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        made = Installation.make(Path(name))
        made.configure().chmod(0o644)
        for path in (made.root, *made.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield made


def examine(one: Installation, mounts: str = "", user: str = "nobody") -> Expected:
    """Run the command as a user, in a namespace with these mounts; return what is not ok."""
    words = ("--config", str(one.root / "config.toml"), "--user", user, "--json")
    unit = ("--unit", str(one.root / "verdictd-py.service"))
    program = (python_of_every_user(), "-m", "verdictd_py.cli.main", "doctor", *unit, *words)
    command: tuple[str, ...] = program
    if mounts:
        script = f'{mounts}\nexec "$@"'
        command = ("unshare", "--mount", "sh", "-ec", script, "sh", *program)
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=with_libraries(), cwd="/"
    )
    if "unshare" in ended.stderr:
        pytest.skip("this machine gives no namespaces")
    assert ended.stderr == ""
    rows: list[dict[str, Any]] = json.loads(ended.stdout)["checks"]
    return [
        (row["check"], row["result"], row["message"])
        for row in rows
        if row["result"] != "ok" and row["check"] != "clock"
    ]


def restored(*names: str) -> Callable[[Installation], None]:
    """Return a function that gives files, and what is below them, to root."""

    def give(one: Installation) -> None:
        for name in names:
            path = one.root / name
            for file in (path, *path.rglob("*")):
                os.chown(file, 0, 0)
                file.chmod(0o700 if file.is_dir() else 0o600)

    return give


def one_key(one: Installation) -> None:
    one.write("data/keys/mine", bytes(32))
    restored("data/keys/mine")(one)


def one_sealed_key(one: Installation) -> None:
    """The report does not disclose that the size of the file is not that of a key."""
    one.write("data/keys/mine", bytes(100))
    restored("data/keys/mine")(one)


FULL: Final = """
cp -a {root}/data {root}/copy
mount -t tmpfs -o size=1m,mode=700,uid=65534,gid=65534 t {root}/data
cp -a {root}/copy/. {root}/data
dd if=/dev/zero of={root}/data/audit/junk bs=4k 2> /dev/null || chown 65534 {root}/data/audit/junk
"""

FAULTS: dict[str, tuple[Callable[[Installation], object], str, Expected]] = {
    "everything restored by root": (
        restored("data"),
        "",
        [("data", "failure", "this user cannot read and write")],
    ),
    "a directory restored by root": (
        restored("data/opa"),
        "",
        [("data", "failure", "data/opa: permission denied; make it readable")],
    ),
    "a policy restored by root": (
        restored("data/opa/tdxPolicy.rego"),
        "",
        [("policies", "failure", "opa/tdxPolicy.rego cannot be read or written: permission")],
    ),
    "a key restored by root": (
        one_key,
        "",
        [("data", "warning", f"cannot be read, so that it is not served; run chown {NOBODY}")],
    ),
    "a sealed key restored by root": (
        one_sealed_key,
        "",
        [("data", "warning", "keys/mine belongs to the user 0 (mode 0600) and cannot be read")],
    ),
    "a file system that is read-only": (
        lambda one: None,
        "mount --bind {root}/data {root}/data; mount -o remount,bind,ro {root}/data",
        [("data", "failure", "is mounted read-only; mount it with write access")],
    ),
    "a full file system": (
        lambda one: None,
        FULL,
        [("disk", "failure", "0 KiB are free")],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_once(name: str, installation: Installation) -> None:
    breaking, mounts, expected = FAULTS[name]
    breaking(installation)

    found = examine(installation, mounts.format(root=installation.root))

    assert [row[:2] for row in found] == [row[:2] for row in expected], found
    for (_, _, message), (_, _, part) in zip(found, expected, strict=True):
        assert part in message


@pytest.mark.parametrize("by_a_link", [False, True])
def test_a_directory_above_the_data_that_only_root_may_enter(
    by_a_link: bool, installation: Installation
) -> None:
    """The data exists; only this user cannot reach it. A link is that of a dynamic user."""
    closed = installation.root / "closed"
    closed.mkdir(mode=0o700)
    (installation.root / "data").rename(closed / "data")
    if by_a_link:
        (installation.root / "data").symlink_to("closed/data")
    else:
        text = (installation.root / "config.toml").read_text()
        moved = text.replace(f"{installation.root}/data", f"{closed}/data")
        (installation.root / "config.toml").write_text(moved)

    ((check, result, message),) = examine(installation)

    assert (check, result) == ("data", "failure")
    assert f"it may not search {closed}; change its mode" in message


@pytest.mark.parametrize("number", ["65534", "4242"])
def test_a_user_is_a_number(number: str, installation: Installation) -> None:
    """A dynamic user of systemd has no entry in a minimal system."""
    for path in (installation.root, *installation.root.rglob("*")):
        os.chown(path, int(number), int(number))
    assert examine(installation, user=number) == []


def test_a_number_that_is_no_user(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ended = run_here(["doctor", "--user", "9" * 12], capfdbinary)
    assert "correct --user" in ended.complaint(2, "verdictd-py doctor")


def test_an_error_of_the_disk_is_a_finding() -> None:
    """What no check expects, such as EIO, ends no diagnosis."""

    def broken() -> Any:
        raise OSError(5, "Input/output error", "/data/keys")

    (found,) = _examined("data", broken)
    assert found.message == (
        "this user cannot examine /data/keys: input/output error; change its owner or its mode"
    )
