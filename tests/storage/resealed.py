"""Program that kills itself while it seals, run by test_sealed_crashes.

    python -m tests.storage.resealed ROOT kills ACTION COUNT SEED
    python -m tests.storage.resealed ROOT sweep

`kills` kills a process that runs an action of `verdictd-py store` at random instants, and reads
every object after each kill. `sweep` kills a process before each system call of one change.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from pathlib import Path

from tests.storage.interrupted import signalled_at
from tests.support import forks
from tests.support.sealed import resealing, sealed_objects, write_key
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports.sealing import SealBroken
from verdictd_py.storage import files
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.stores import DirectoryKeyStore

OBJECTS = 80
NAMES = [KeyId.parse(f"default/key/{number}") for number in range(OBJECTS)]
ONE = ("keys", "one")
TOPS = ("keys", "resources", "image", "gpg", "seals")


def opened(root: Path) -> Directory:
    directory = Directory.open(root / "data")
    for top in TOPS:
        directory.make(top)
    return directory


def value(number: int) -> SecretBytes:
    return SecretBytes(bytes([number]) * 32)


async def create(root: Path) -> None:
    keys = DirectoryKeyStore(opened(root))
    for number, name in enumerate(NAMES):
        await keys.create(name, value(number))


async def act(root: Path, action: str) -> None:
    report = await getattr(resealing(opened(root), root / "kek"), action)()
    assert report.problems == [], report.problems


async def read_all(root: Path) -> None:
    """Read all keys as a broker that starts now, and compare them."""
    directory = opened(root)
    keys = DirectoryKeyStore(directory, sealed_objects(directory, root / "kek"))
    read = [await keys.get(name) for name in NAMES]
    assert read == [value(number) for number in range(OBJECTS)]
    report = await resealing(directory, root / "kek").verify()
    assert (report.problems, report.missing) == ([], 0)


def child(
    work: Callable[[], Coroutine[object, object, None]], seconds: float | None = None
) -> bool:
    """Run a coroutine as `forks.child` does work."""
    return forks.child(lambda: asyncio.run(work()), seconds)


def kills(root: Path, action: str, number: int, seed: int) -> dict[str, int]:
    """Kill an action at random instants of the time that it takes; read everything each time."""
    write_key(root / "kek")
    child(partial(create, root))
    if action != "seal":
        child(partial(act, root, "seal"))
    work = partial(act, root, action)
    _begin(root, action)
    started = time.monotonic()  # window: how long the action takes, decides nothing
    child(work)
    duration = time.monotonic() - started  # window: as above
    moments = random.Random(seed)  # noqa: S311  # a test's choice
    killed = rounds = 0
    while killed < number:
        _begin(root, action)
        rounds += 1
        while child(work, moments.uniform(0, duration)):
            killed += 1
            child(partial(read_all, root))
    child(work)
    child(partial(read_all, root))
    return {"killed": killed, "rounds": rounds}


def _begin(root: Path, action: str) -> None:
    """Make an action necessary again."""
    if action == "rotate":
        for old in root.glob("kek.old*"):
            old.unlink()  # everything was sealed with the newest one
        write_key(root / "kek")
    else:
        child(partial(act, root, "unseal" if action == "seal" else "seal"))


def sweep(root: Path) -> list[dict[str, object]]:
    """Return what is read after a kill before each system call of a change."""
    found: list[dict[str, object]] = []
    first, last = root / "first", root / "last"

    async def look() -> None:
        await read(root, first)
        await put(root, b"next")
        await read(root, last)
        await put(root, b"old")

    child(partial(put, root, b"old"))
    for call in count():
        killed = child(partial(put, root, b"new", str(call)))
        child(look)
        found.append({"killed": killed, "read": first.read_text(), "next": last.read_text()})
        if not killed:
            return found
    raise AssertionError


async def put(root: Path, content: bytes, call: str | None = None) -> None:
    """Replace an object in this thread, and kill this process before a system call."""
    directory = opened(root)
    objects = sealed_objects(directory, root / "kek")
    await objects.ready()
    prepared = await objects.prepare(ONE, content)
    if call is not None:
        sys.setprofile(signalled_at(signal.SIGKILL, call))
    with directory.locked():
        files.complete(
            objects.changing({ONE: prepared}, lambda: directory.replacing(ONE, prepared.stored))
        )
    sys.setprofile(None)


async def read(root: Path, result: Path) -> None:
    try:
        found = await sealed_objects(opened(root), root / "kek").read(ONE)
    except SealBroken:
        result.write_text("refused")
    else:
        result.write_bytes(found.content)


def main(root: Path, operation: str, *more: str) -> None:
    if operation == "sweep":
        json.dump(sweep(root), sys.stdout)
    else:
        action, number, seed = more
        json.dump(kills(root, action, int(number), int(seed)), sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
