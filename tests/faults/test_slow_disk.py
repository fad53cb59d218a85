"""A disk that does not answer operators does not delay guests."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import answer, encoded
from tests.support.channel import send_records as send
from tests.support.clock import until
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory

GET_KEK = encoded({"command": "Get KEK", "kids": [KID]})
KEK = {"status": "OK", "data": {KID: base64.b64encode(KEY).decode()}}
CALLS = 40
"""More than the threads of any pool."""


@pytest.mark.parametrize(
    ("slow", "method", "message"),
    [
        ("walk", "KeyService/ListKeys", lambda number: v1.ListKeysRequest()),
        ("create", "KeyService/CreateKey", lambda n: v1.CreateKeyRequest(name=f"a/b/{n}")),
    ],
    ids=["list", "write"],
)
async def test_slow_requests_of_operators_do_not_delay_guests(
    broker: RunningBroker,
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
    method: str,
    message: Callable[[int], object],
) -> None:
    proceed = threading.Event()
    queued: list[Callable[[], object]] = []
    run = pools._run

    async def counting(threads: ThreadPoolExecutor, call: Callable[[], object]) -> object:
        queued.append(call)
        return await run(threads, call)

    monkeypatch.setattr(pools, "_run", counting)
    original = getattr(Directory, slow)

    def waiting(self: Directory, *arguments: object, **more: object) -> object:
        proceed.wait()
        return original(self, *arguments, **more)

    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        monkeypatch.setattr(Directory, slow, waiting)
        call = channel.unary_unary(
            f"/verdictd.v1.{method}", lambda sent: sent.SerializeToString(), None
        )
        calls = [asyncio.ensure_future(_ended(call(message(number)))) for number in range(CALLS)]
        try:
            await until(lambda: len(queued) >= 10)  # more than any pool has threads
            async with broker.guest() as guest:
                await send(guest, GET_KEK)
                assert await answer(guest) == KEK
            assert not any(each.done() for each in calls)
        finally:
            proceed.set()
        await asyncio.gather(*calls)


async def _ended(call: grpc.aio.UnaryUnaryCall[object, object]) -> grpc.StatusCode:
    return await call.code()
