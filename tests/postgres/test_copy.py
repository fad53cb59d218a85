"""`verdictd-py store copy`: a site moves to the database and back, whatever interrupts it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.postgres import TestDatabase, objects_of
from verdictd_py.storage.directory import LOCK_FILE

PROGRAM = Path(sys.executable).with_name("verdictd-py")


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A data directory with 400 objects of every type."""
    root = tmp_path / "site"
    for number in range(200):
        write(root / "keys" / f"k{number}", os.urandom(32))
        write(root / "resources" / "team" / "secret" / f"{number}", os.urandom(1 + 97 * number))
    write(root / "opa" / "tdxData", b"{}")
    write(root / "image" / "policy.json", b"{}")
    write(root / "image" / "auth.json", b'{"auths":{}}')
    return root


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    file.write_bytes(content)


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and file.name != LOCK_FILE
    }


def command(source: object, target: object, database: TestDatabase, *more: str) -> list[str]:
    return [
        *(str(PROGRAM), "store", "copy", "--from", str(source), "--to", str(target)),
        *("--seal", f"file:{postgres.key_file()}"),
        *("--store-password-file", str(database.password_file), *more),
        *(("--unsafe-store-tls",) if database.unsafe_tls else ()),
    ]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_site_moves_to_the_database_and_back(
    site: Path, tmp_path: Path, database: TestDatabase
) -> None:
    there = run(command(site, database.url, database))
    assert (there.returncode, there.stderr) == (0, "")
    assert "403 of 403 objects were copied now\nboth sides were compared" in there.stdout
    assert "0 of 403 objects" in run(command(site, database.url, database)).stdout
    back = run(command(database.url, tmp_path / "back", database, "--plain"))
    assert back.returncode == 0, back.stderr
    assert files_of(tmp_path / "back") == files_of(site)


def test_an_object_that_differs_in_the_target_is_not_replaced(
    site: Path, database: TestDatabase
) -> None:
    assert run(command(site, database.url, database)).returncode == 0
    (site / "keys" / "k7").write_bytes(bytes(32))
    refused = run(command(site, database.url, database))
    assert refused.returncode == 1
    assert "keys/k7 differs in the target" in refused.stderr
    replaced = run(command(site, database.url, database, "--overwrite"))
    assert (replaced.returncode, replaced.stderr) == (0, "")
    assert "1 of 403 objects" in replaced.stdout


async def test_a_copy_that_is_killed_again_and_again_is_completed(
    site: Path, tmp_path: Path, database: TestDatabase
) -> None:
    chance = random.Random(19)  # noqa: S311  # instants, not secrets
    kills = int(os.environ.get("COPY_KILLS", "6"))
    for target in (database.url, str(tmp_path / "back")):
        source = database.url if target != database.url else site
        words = command(source, target, database)
        for _ in range(kills):
            process = await asyncio.create_subprocess_exec(
                *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            # The instant is random; nothing depends on what the command has done by then.
            asyncio.get_running_loop().call_later(chance.uniform(0.5, 2.5), send_kill, process)
            await process.communicate()
        finished = run(words)
        assert finished.returncode == 0, finished.stderr
    verified = run(
        [
            *(str(PROGRAM), "store", "copy", "--from", str(tmp_path / "back"), "--to"),
            *command(site, database.url, database)[6:],
        ]
    )
    assert "0 of 403 objects were copied now\nboth sides were compared" in verified.stdout
    objects = objects_of(database)
    try:
        await objects.confirm()
    finally:
        await objects.close()


def send_kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
