"""Program that kills `verdictd-py store rotate` on a database, run by test_rotation.

    python -m tests.postgres.rotating URL PASSWORD_FILE KEK COUNT SEED [--unsafe-store-tls]

It creates keys, kills the command at random instants of the time that it takes, reads everything
after each kill, and lets the command finish from time to time. `KEK` is created, and renewed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path

from tests.support.forks import child
from verdictd_py.cli.main import main as command
from verdictd_py.cli.store.newkey import create
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Database
from verdictd_py.postgres.objects import Objects
from verdictd_py.postgres.resealing import DatabaseResealing
from verdictd_py.postgres.stores import PostgresKeyStore
from verdictd_py.sealing.keyfile import KeyFile
from verdictd_py.sealing.sealer import EnvelopeSealer

PRELOADED = ("verdictd_py.config", "verdictd_py.daemon.sealing", "verdictd_py.daemon.database")
"""What the command imports late: the time of a kill is to be within its work."""

NAMES = [KeyId.parse(f"default/key/{number}") for number in range(12)]


def value(number: int) -> SecretBytes:
    return SecretBytes(bytes([number]) * 32)


class Site:
    """The database, as the command and as a broker that starts now see it."""

    def __init__(self, url: str, password: Path, kek: Path, unsafe: list[str]) -> None:
        self._address = Address.parse(url, password_file=password, unsafe_tls=bool(unsafe))
        self._kek = kek
        self._options = (
            *("--store", url, "--store-password-file", str(password), "--seal", f"file:{kek}"),
            *unsafe,
        )

    def rotate(self) -> None:
        self._run("rotate")

    def verify(self) -> None:
        self._run("verify")

    def create(self) -> None:
        asyncio.run(self._with(self._create_all))

    def read(self) -> None:
        asyncio.run(self._with(self._read_all))

    def _run(self, action: str) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = command(["store", action, *self._options])
        assert status == 0, status

    async def _create_all(self, objects: Objects, current: Callable[[], str]) -> None:
        del current
        for number, name in enumerate(NAMES):
            await PostgresKeyStore(objects).create(name, value(number))

    async def _read_all(self, objects: Objects, current: Callable[[], str]) -> None:
        keys = PostgresKeyStore(objects)
        for number, name in enumerate(NAMES):
            assert await keys.get(name) == value(number)
        report = await DatabaseResealing(objects, current=current).verify()
        assert (report.problems, report.missing, report.objects) == ([], 0, len(NAMES))

    async def _with(
        self, work: Callable[[Objects, Callable[[], str]], Coroutine[object, object, None]]
    ) -> None:
        sealer = EnvelopeSealer(KeyFile(self._kek))
        await sealer.check()
        objects = Objects(Database(self._address), sealer)
        try:
            await work(objects, lambda: sealer.key.current)
        finally:
            await objects.close()


def kills(site: Site, kek: Path, number: int, seed: int) -> dict[str, int]:
    """Kill the command again and again; read everything each time."""
    create(kek)
    child(site.create)
    old = create(kek)
    started = time.monotonic()  # window: how long the command takes, decides nothing
    child(site.rotate)
    duration = time.monotonic() - started  # window: as above
    moments = random.Random(seed)  # noqa: S311  # a test's choice
    killed = rounds = 0
    while killed < number:
        assert old is not None
        old.unlink()  # everything was sealed with the newest one
        child(site.read)
        old = create(kek)
        rounds += 1
        while child(site.rotate, moments.uniform(0, duration)):
            killed += 1
            child(site.read)
    assert old is not None
    old.unlink()
    child(site.verify)
    return {"killed": killed, "rounds": rounds}


def main(url: str, password: str, kek: str, number: str, seed: str, *unsafe: str) -> None:
    for module in PRELOADED:
        import_module(module)
    site = Site(url, Path(password), Path(kek), list(unsafe))
    json.dump(kills(site, Path(kek), int(number), int(seed)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
