"""Other processes that use the memory of one broker's workers, line by line.

A test starts `Worker`s, which inherit the descriptors, and sends each one JSON lines. A worker
executes a line, and answers with one line, so that a test knows when it is done.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from verdictd_py.listeners.census import Census
from verdictd_py.listeners.shares import Share, ShareLimits, Shares, source_of
from verdictd_py.storage.sharedsessions import SharedSessionStore


class Worker:
    """A process that answers lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def __call__(self, name: str, *arguments: Any) -> Any:
        """Have a function of the process called, and return its result."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        return json.loads(await self.process.stdout.readline())

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def worker(kind: str, descriptors: tuple[int, ...], number: int) -> AsyncIterator[Worker]:
    """A worker process of one kind (see `main`), with this number from 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.workers", kind, json.dumps(descriptors)),
        str(number),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=descriptors,
    )
    started = Worker(process)
    try:
        yield started
    finally:
        if process.returncode is None:
            await started.kill()


def connections(descriptors: tuple[int, ...], number: int) -> dict[str, Callable[..., Any]]:
    """Functions of a worker with made-up connections of one listener, by name."""
    census = Census(descriptors, number)
    limits = ShareLimits(8, 4, 2)
    shares = Shares(lambda: limits, census=census.listener("listen"))
    census.start()
    open_: dict[str, Share] = {}
    closed: list[str] = []

    def enter(name: str, address: str) -> str:
        try:
            open_[name] = shares.enter(source_of(address), lambda: closed.append(name))
        except Exception as error:  # noqa: BLE001  # the test compares it
            return str(error)
        return ""

    def attest(name: str, platform: str) -> str:
        try:
            open_[name].attest(platform)
        except Exception as error:  # noqa: BLE001  # as above
            return str(error)
        return ""

    return {
        "enter": enter,
        "attest": attest,
        "prove": lambda name: open_[name].prove(),
        "leave": lambda name: open_[name].leave(),
        "hold": lambda name, size: open_[name].held.add(size),
        "fits": lambda name: open_[name].held.fits(),
        "closed": lambda: closed,
        "total": lambda: shares._total,
    }


def sessions(descriptors: tuple[int, ...], number: int) -> dict[str, Callable[..., Any]]:
    """Functions of a worker with a store of sessions, by name."""
    from tests.conformance.sessions import END, NOW, name  # noqa: PLC0415  # not for connections

    store = SharedSessionStore(descriptors[0], number)

    async def take_all(count: int) -> list[str | None]:
        return [await store.take_challenge(name(each), now=NOW) for each in range(count)]

    return {
        "add_challenge": lambda each, text: store.add_challenge(
            name(each), text, now=NOW, expires=END
        ),
        "add_token": lambda each, text: store.add_token(name(each), text, now=NOW, expires=END),
        "take": lambda each: store.take_challenge(name(each), now=NOW),
        "token": lambda each: store.token(name(each), now=NOW),
        "take_all": take_all,
    }


async def main(kind: str, descriptors: str, number: str) -> None:
    """Answer lines until the input ends."""
    functions = {"connections": connections, "sessions": sessions}[kind](
        tuple(json.loads(descriptors)), int(number)
    )
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        name, *arguments = json.loads(line)
        result = functions[name](*arguments)
        if asyncio.iscoroutine(result):
            result = await result
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
