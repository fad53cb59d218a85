"""Signals and the end of the broker: which peers a drain waits for, and how long it takes.

The limit for requests in flight of the broker in this process is so long that a stop that waits
for it never ends.
"""

from __future__ import annotations

import asyncio
import base64
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import answer, encoded, nothing_stays, rest
from tests.support.channel import send_records as send
from tests.support.clock import until
from tests.support.command import environment, running_daemon, wait_for_end
from tests.support.events import RecordedEvents
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.rcar_guests import attest, connected, tdx_guest
from verdictd_py import daemon as app
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.process import EXIT_FAILED
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.protocols.ratstls.session import TlsSession

GET_KEK = encoded({"command": "Get KEK", "kids": [KID]})
KEK = {"status": "OK", "data": {KID: base64.b64encode(KEY).decode()}}


async def stop(broker: RunningBroker) -> asyncio.Task[None]:
    """Stop the broker as SIGTERM does; return when it accepts no connection."""
    task = asyncio.create_task(broker.daemon.stop())
    await until(lambda: broker.attested._draining)
    return task


async def test_a_peer_that_has_just_connected_is_served_in_a_drain(broker: RunningBroker) -> None:
    with socket.create_connection(broker.address) as bare:
        bare.setblocking(False)
        await until(lambda: len(broker.attested._tasks) == 1)
        stopping = await stop(broker)
        await until(lambda: broker.attested._accepting is None or broker.attested._accepting.done())
        reader, writer = await asyncio.open_connection(sock=bare)
        context = broker.context(broker.attester())
        guest = GuestConnection(reader, writer, TlsSession(context, server=False))
        await guest._handshake()
        assert (await guest.keks([KID]))[KID].reveal() == KEY
        guest._close()
    await stopping


async def test_a_silent_peer_is_not_drained(broker: RunningBroker) -> None:
    with socket.create_connection(broker.address) as silent:
        await until(lambda: len(broker.attested._tasks) == 1)
        await broker.daemon.stop()
        silent.setblocking(False)
        await asyncio.get_running_loop().sock_recv(silent, 1000)  # closed
    await nothing_stays(broker)


async def test_an_accepted_guest_gets_its_first_request_served(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        await until(lambda: broker.events.named("guest.accepted"))
        stopping = await stop(broker)
        await send(guest, GET_KEK)
        assert await answer(guest) == KEK
        assert await rest(guest) == b""
    await stopping
    await nothing_stays(broker)


@pytest.fixture
def slow_appraisals(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Appraisals end after this event is set."""
    proceed = asyncio.Event()
    appraise = Appraiser.admit

    async def slow(self: Appraiser, *arguments: object, **more: object) -> Appraisal:
        await proceed.wait()
        return await appraise(self, *arguments, **more)  # type: ignore[arg-type]  # as called

    monkeypatch.setattr(Appraiser, "admit", slow)
    return proceed


async def test_a_guest_that_is_being_appraised_gets_its_first_request_served(
    broker: RunningBroker, slow_appraisals: asyncio.Event
) -> None:
    async with broker.guest() as guest:
        await until(lambda: len(broker.attested._tasks) == 1 and not broker.attested._idle)
        stopping = await stop(broker)
        slow_appraisals.set()
        await send(guest, GET_KEK)
        assert await answer(guest) == KEK
    await stopping


@pytest.mark.broker(kbs=True)
@pytest.mark.parametrize("when", ["before", "during"])
async def test_an_accepted_http_guest_gets_its_first_resource(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whether the drain begins after its attestation, or during it."""
    guest = tdx_guest(broker.platform)
    entered, proceed = asyncio.Event(), asyncio.Event()
    appraise = Appraiser.admit

    async def slow(self: Appraiser, *arguments: object, **more: object) -> Appraisal:
        entered.set()
        await proceed.wait()
        return await appraise(self, *arguments, **more)  # type: ignore[arg-type]  # as called

    monkeypatch.setattr(Appraiser, "admit", slow)
    async with connected(url_of(broker), guest) as session:
        attesting = asyncio.create_task(attest(session))
        await entered.wait()
        if when == "before":
            proceed.set()
            await attesting
        stopping = await stop(broker)
        proceed.set()
        await attesting
        assert (await session.resource(PATH)).reveal() == SECRET
        await stopping


async def test_a_stream_is_not_drained(broker: RunningBroker) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        await broker.daemon.stop()
    assert not broker.events.named("warning.bug")


@pytest.mark.broker(client_api="0.0.0.0:0", unsafe={"insecure_client_api": True})
async def test_a_call_of_an_unknown_caller_without_a_message_is_not_drained(
    broker: RunningBroker,
) -> None:
    listener = broker.daemon.listener("client_api")
    admission = listener._admission  # type: ignore[attr-defined]  # of this listener only
    admission.rules = type(admission.rules)(certificate_roles=dict)
    target = f"127.0.0.1:{listener.address.port}"
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.stream_unary("/grpc.health.v1.Health/Check", lambda sent: b"", None)(None)
        await until(lambda: admission._undrained)
        await broker.daemon.stop()
        del call
    assert not broker.events.named("warning.bug")


def test_a_stop_takes_less_than_eight_seconds_by_default(tmp_path: Path) -> None:
    """Docker kills after ten seconds."""

    settings = Settings(data_dir=tmp_path / "data", collateral_url=())
    daemon = app.build_daemon(settings, Unsafe(), RecordedEvents())
    assert daemon.stop_seconds <= 7.5
    more = settings.model_copy(update={"workers": 2})
    assert app.build_daemon(more, Unsafe(), RecordedEvents()).stop_seconds <= 8.5


def test_a_thread_that_waits_for_a_disk_does_not_keep_the_process_alive() -> None:
    program = (
        "import asyncio, threading\n"
        "from verdictd_py.daemon.process import end_within\n"
        "end_within(0.1)\n"
        "asyncio.run(asyncio.to_thread(threading.Event().wait))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(), timeout=120, check=False
    )
    assert ended.returncode == EXIT_FAILED


def test_a_worker_whose_event_loop_hangs_ends_with_its_parent() -> None:
    child = (
        "from verdictd_py.daemon.process import end_with_parent\n"
        "end_with_parent(0.1)\n"
        "print(flush=True)\n"
        "while True: pass\n"
    )
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", parent],
        env=environment(),
        capture_output=True,
        timeout=120,
        check=True,
    )
    wait_for_end(int(ended.stdout))


def test_signals_that_would_end_a_process_write_where_the_tasks_wait(tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    more = ("--client-api", f"unix:{tmp_path}/api", "--collateral-url", "")
    with running_daemon(*arguments, *more) as daemon:
        daemon.wait_for("daemon.started")
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
            daemon.send(number)
            tasks = daemon.wait_for("daemon.tasks")["tasks"]
            assert [task for task in tasks if task.startswith("listen.accept: Supervisor._sup")]
            assert [task for task in tasks if " > accept:" in task]
        assert daemon.end(signal.SIGTERM)[0] == 0
        assert daemon.seen[-1]["event"] == "audit.closed"
