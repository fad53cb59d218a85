"""A store in a process of another user, and file systems with fewer operations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
NOBODY: Final = 65534

_AS_NOBODY: Final = f"""
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from tests.support.tees import PROVING, TEES
from verdictd_py.domain.names import KeyId, Name
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.storage.directory import Directory
from tests.support.stores import document_store
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
data = Path(sys.argv[1])
"""


@contextmanager
def reachable_by_others() -> Iterator[Path]:
    """Yield a directory that other users can reach, unlike those of pytest."""
    if os.getuid() != 0:
        pytest.skip("only root can start a process of another user")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


def output_of_nobody(program: str, data: Path) -> str:
    """Run a program as an ordinary user; return what it prints.

    Args:
        program: Python code that uses `data`, the path of the data directory.
    """
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY + program, str(data)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@contextmanager
def exfat(where: Path, *, umask: str = "077") -> Iterator[Path]:
    """Mount a real exFAT file system, which has no hard links and no RENAME_NOREPLACE here."""
    programs = [shutil.which(name) for name in ("mkfs.exfat", "mount.exfat-fuse", "losetup")]
    if None in programs or os.getuid() != 0 or not Path("/dev/fuse").exists():
        if os.environ.get("REQUIRE_EXFAT"):
            pytest.fail("REQUIRE_EXFAT is set, and exfat-fuse or a program of it is missing")
        pytest.skip("needs root, /dev/fuse, exfat-fuse and exfatprogs")
    image, mounted = where / "exfat.img", where / "exfat"
    with image.open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    mounted.mkdir()
    _run("mkfs.exfat", str(image))
    device = _run("losetup", "--find", "--show", str(image)).strip()
    try:
        _run("mount.exfat-fuse", "-o", f"umask={umask}", device, str(mounted))
        try:
            yield mounted
        finally:
            _run("umount", str(mounted))
    finally:
        _run("losetup", "--detach", device)


@contextmanager
def tmpfs(where: Path) -> Iterator[Path]:
    """Mount a small file system in memory, which can become read-only or full."""
    where.mkdir(mode=0o700, exist_ok=True)
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    try:
        _run("mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(where))
    except AssertionError:
        pytest.skip("this sandbox cannot mount")
    try:
        yield where
    finally:
        _run("umount", str(where))


def remount(where: Path, option: str) -> None:
    """Change an option of a mounted file system: `ro` or `rw`."""
    _run("mount", "-o", f"remount,{option}", str(where))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
