"""Attack: work on large inputs occupies the thread of the event loop.

These tests compare threads, not times, so that no machine is too fast or too slow for them.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import store
from tests.support.clock import elapse, until
from tests.support.command import environment
from tests.support.refused_guests import HONEST
from verdictd_py import encoding
from verdictd_py._generated import clientapi_pb2 as api
from verdictd_py._generated import clientapi_pb2_grpc as api_services
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_services
from verdictd_py.broker.administration import KEYRING
from verdictd_py.encoding import MAX_DEPTH, decode_value
from verdictd_py.formats.openpgp import SequoiaKeyringEditor
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.offload import SMALL_BYTES, offload
from verdictd_py.policy import appraisal, report, sets

LARGE: Final = 2 * SMALL_BYTES
POLICY: Final = b"package policy\nimport rego.v1\ndefault allow := false\n"


class Watched:
    """Replaces a function by one that also records the threads in which it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.threads: set[int] = set()
        original = getattr(owner, name)

        def recorded(*args: Any, **more: Any) -> object:
            self.threads.add(threading.get_ident())
            return original(*args, **more)

        monkeypatch.setattr(owner, name, recorded)

    def require_other_threads(self) -> None:
        """Fail unless it has run, and never in this thread."""
        assert self.threads
        assert threading.get_ident() not in self.threads


async def _check_policy(broker: RunningBroker) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub: Any = v1_services.PolicyTestServiceStub(channel)
        request = v1.CheckPolicyRequest(name="tdxPolicy.rego", content=POLICY)
        assert (await stub.CheckPolicy(request)).rules


async def _test_policy(broker: RunningBroker) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub: Any = v1_services.PolicyTestServiceStub(channel)
        request = v1.TestPolicyRequest(policy_content=POLICY, claims=b'{"mrTd":"00"}', tee="tdx")
        await stub.TestPolicy(request)


async def _connect_guest(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def _refuse_guest(broker: RunningBroker) -> None:
    """Refuse a guest for a list whose comparison takes as long as reading one of `LARGE` bytes."""
    others = [f"{number:096x}" for number in range(16 * LARGE // 96)]
    store(broker, "opa/tdxData", json.dumps({"rtmr1": others}).encode())
    with pytest.raises(BrokerRefused):
        async with broker.guest() as guest:
            await guest.keks([KID])


async def _import_certificates(broker: RunningBroker) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub: Any = api_services.GpgServiceStub(channel)
        with pytest.raises(grpc.RpcError):  # these are no certificates
            await stub.importGpgKey(api.ImportGpgKeyRequest(key=bytes(LARGE)))


async def _list_certificates(broker: RunningBroker) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub: Any = api_services.GpgServiceStub(channel)
        with pytest.raises(grpc.RpcError):  # as above
            await stub.listGpgKeys(api.ListGpgKeysRequest())


Work = Callable[[RunningBroker], Awaitable[None]]


@pytest.mark.parametrize(
    ("owner", "name", "work"),
    [
        (report, "outline", _check_policy),
        (report, "report", _test_policy),
        (sets, "_combine", _connect_guest),
        (appraisal, "refusals", _refuse_guest),
        (SequoiaKeyringEditor, "add", _import_certificates),
        (SequoiaKeyringEditor, "describe", _list_certificates),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_large_inputs_are_handled_in_a_thread(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, work: Work
) -> None:
    many = [HONEST, *(f"{number:096x}" for number in range(LARGE // 96))]
    store(broker, "opa/tdxData", json.dumps({"rtmr1": many}).encode())
    store(broker, f"resources/{KEYRING}", bytes(LARGE))
    watched = Watched(monkeypatch, owner, name)
    await work(broker)
    watched.require_other_threads()


async def test_cancelled_work_lasts_until_its_thread_has_finished() -> None:
    """Otherwise a client could begin any amount of work by cancelling its calls."""
    begun, release = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()
        raise ValueError

    waiting = asyncio.ensure_future(offload(LARGE, work))
    await until(begun.is_set)
    waiting.cancel()
    await elapse(60)
    try:
        assert not waiting.done()
    finally:
        release.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


class Steps:
    """Pattern that records how many bytes one call may read; a call holds the interpreter lock."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.largest = 0

    def match(self, data: bytes, start: int, end: int) -> re.Match[bytes] | None:
        self.largest = max(self.largest, end - start)
        return self._pattern.match(data, start, end)

    def search(self, data: bytes, start: int, end: int) -> re.Match[bytes] | None:
        self.largest = max(self.largest, end - start)
        return self._pattern.search(data, start, end)


@pytest.mark.parametrize("name", ["_TO_BRACKET", "_STRING_BODY", "_SURROGATE"])
def test_json_is_scanned_in_small_steps(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    steps = Steps(getattr(encoding, name))
    monkeypatch.setattr(encoding, name, steps)
    text = '["' + "x" * 1_000_000 + '"' + " " * 1_000_000 + ",[]" * MAX_DEPTH + "]"
    assert decode_value(text.encode(), "the request") == ["x" * 1_000_000, *[[]] * MAX_DEPTH]
    assert 0 < steps.largest <= SMALL_BYTES + 3  # an escape may begin in one step


_DAEMON: Final = """
import asyncio, gc, json, os, signal, sys, threading
from pathlib import Path
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon import process
from verdictd_py.daemon.http import http_client
settings = Settings(
    listen="127.0.0.1:0", client_api="127.0.0.1:0", collateral_url=(), data_dir=Path(sys.argv[1])
)

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    running = asyncio.create_task(process.run(settings, Unsafe()))
    while not gc.get_freeze_count() and not running.done() and not started():
        await asyncio.sleep(0.01)
    for thread in threading.enumerate():
        if thread.name == "import":
            await asyncio.to_thread(thread.join)
    before = set(sys.modules)
    async with http_client(settings) as client:
        host, port = server.sockets[0].getsockname()
        await client.get(f"http://{host}:{port}/")
    imported = sorted(set(sys.modules) - before)
    found = {"imported": imported, "frozen": gc.get_freeze_count(), "alive": len(gc.get_objects())}
    print(json.dumps(found | {"switch": sys.getswitchinterval()}), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    await running

def started():
    return any("count floods" in task.get_name() for task in asyncio.all_tasks())

async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
    writer.close()

asyncio.run(main())
"""


def test_a_started_daemon_favours_its_event_loop(tmp_path: Path) -> None:
    """The collector skips what exists, nothing is imported late, threads release the lock soon."""
    ended = subprocess.run(
        [sys.executable, "-c", _DAEMON, str(tmp_path / "data")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["imported"] == []
    assert found["frozen"] > 50_000
    assert found["alive"] < found["frozen"] / 2
    assert found["switch"] == pytest.approx(0.001)
