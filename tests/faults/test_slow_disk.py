"""A disk that does not answer one type of work does not delay the others, nor guests."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import answer, encoded
from tests.support.channel import send_records as send
from tests.support.clock import until
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.storage import files, pools
from verdictd_py.storage.files import Steps
from verdictd_py.storage.listing import SortedFiles

GET_KEK = encoded({"command": "Get KEK", "kids": [KID]})
KEK = {"status": "OK", "data": {KID: base64.b64encode(KEY).decode()}}
CALLS = 12
"""More than the threads of any pool."""


class Disk:
    """A disk that does not answer until the test ends.

    Attributes:
        waiting: number of calls that wait for it.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._answers = threading.Event()

    def wait(self) -> None:
        self.waiting += 1
        self._answers.wait()

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that waits for the disk, and then calls `call`."""

        def slow(*arguments: object, **more: object) -> object:
            self.wait()
            return call(*arguments, **more)

        return slow

    @contextmanager
    def used(self) -> Iterator[Disk]:
        try:
            yield self
        finally:
            self._answers.set()


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk().used() as disk:
        yield disk


def write_and_wait(disk: Disk) -> Steps[None]:
    disk.wait()
    yield from ()


def write() -> Steps[None]:
    yield from ()


def synchronize(path: Path) -> Steps[None]:
    with path.open("wb") as file:
        yield file.fileno()


WAITING: dict[str, Callable[[Disk, Path], Awaitable[None]]] = {
    "read": lambda disk, _: pools.read(disk.wait),
    "list": lambda disk, _: pools.walk(disk.wait),
    "write": lambda disk, _: pools.write(write_and_wait(disk)),
    "fsync": lambda _, path: pools.write(synchronize(path)),
}
OTHERS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "read": lambda _: pools.read(int),
    "list": lambda _: pools.walk(int),
    "write": lambda _: pools.write(write()),
    "fsync": lambda path: asyncio.get_running_loop().run_in_executor(pools._FSYNC, path.exists),
}


@pytest.mark.parametrize("slow", WAITING)
async def test_each_type_of_work_has_threads_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, slow: str
) -> None:
    monkeypatch.setattr(pools, "failure_of_fsync", disk.before(files.failure_of_fsync))
    calls = [
        asyncio.ensure_future(WAITING[slow](disk, tmp_path / str(number)))
        for number in range(CALLS)
    ]
    await until(lambda: disk.waiting >= 2)  # the smallest pool has two threads
    for other in OTHERS.keys() - {slow}:
        await OTHERS[other](tmp_path)
    assert not any(call.done() for call in calls)
    disk._answers.set()
    await asyncio.gather(*calls)


@contextmanager
def slow_list(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(SortedFiles, "after", disk.before(SortedFiles.after))
        yield


@contextmanager
def slow_unlink(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", disk.before(os.unlink))
        yield


@contextmanager
def slow_fsync(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsync = os.fsync

    def of_a_directory_waits(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            disk.wait()
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", of_a_directory_waits)
        yield


SLOW = {"ListKeys": slow_list, "DeleteKey": slow_unlink, "DeleteKey, fsync": slow_fsync}


@pytest.mark.parametrize("slow", SLOW)
async def test_slow_requests_of_operators_do_not_delay_guests(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, disk: Disk, slow: str
) -> None:
    (broker.data / "keys/a/b").mkdir(mode=0o700, parents=True)
    for number in range(CALLS):
        (broker.data / f"keys/a/b/{number}").write_bytes(KEY)
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        with SLOW[slow](disk, monkeypatch):
            call = call_of(channel, slow.partition(",")[0])
            calls = [asyncio.ensure_future(call(number)) for number in range(CALLS)]
            try:
                await until(lambda: disk.waiting >= 2)
                async with broker.guest() as guest:
                    await send(guest, GET_KEK)
                    assert await answer(guest) == KEK
                assert not any(each.done() for each in calls)
            finally:
                disk._answers.set()
            assert set(await asyncio.gather(*calls)) == {grpc.StatusCode.OK}


def call_of(channel: grpc.aio.Channel, method: str) -> Callable[[int], Awaitable[grpc.StatusCode]]:
    stub = channel.unary_unary(
        f"/verdictd.v1.KeyService/{method}", lambda message: message.SerializeToString(), None
    )

    async def call(number: int) -> grpc.StatusCode:
        delete = v1.DeleteKeyRequest(name=f"a/b/{number}")
        return await stub(v1.ListKeysRequest() if method == "ListKeys" else delete).code()

    return call
