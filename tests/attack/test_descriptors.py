"""Attack: connections take every file descriptor of the broker."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import elapse, until
from tests.support.command import environment
from tests.support.events import RecordedEvents
from verdictd_py.config import Settings
from verdictd_py.daemon import composition, descriptors
from verdictd_py.daemon.descriptors import RESERVE, Connections, divide
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import accepting
from verdictd_py.listeners.grpc_connections import DESCRIPTORS
from verdictd_py.listeners.grpc_listener import MAX_CONNECTIONS


async def test_the_soft_limit_is_raised_to_the_hard_limit(tmp_path: Path) -> None:
    text = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (700, 1100))\n"
        "from verdictd_py.daemon import descriptors\n"
        "descriptors.raise_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], descriptors.limit())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", text, stdout=asyncio.subprocess.PIPE, env=environment()
    )
    assert (await process.communicate())[0].split() == [b"1100", b"1100"]


def test_limits_that_fit_are_those_of_the_settings() -> None:
    fits = RESERVE + 2 * 4096 + 2 * DESCRIPTORS * MAX_CONNECTIONS
    assert divide(fits, guests=4096, guest_listeners=2, grpc_listeners=2) == Connections(
        4096, MAX_CONNECTIONS
    )


@pytest.mark.parametrize("open_files", [640, 1024, 4096, 14_591])
def test_lower_limits_leave_the_reserve_and_are_reported(open_files: int) -> None:
    found = divide(open_files, guests=4096, guest_listeners=2, grpc_listeners=2)
    assert 2 * found.guests + 2 * DESCRIPTORS * found.grpc + RESERVE <= open_files
    assert min(found.guests, found.grpc) >= 32
    assert f"may open {open_files} files" in found.warning
    assert "LimitNOFILE=" in found.warning


def test_too_few_descriptors_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 512"):
        divide(300, guests=4096, guest_listeners=2, grpc_listeners=2)


def test_a_broker_with_workers_says_at_once_what_is_enough_for_every_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, kbs_http="127.0.0.1:0", workers=2)
    monkeypatch.setattr(descriptors, "limit", lambda: 256)
    with pytest.raises(ConfigError, match="at least 352"):
        composition._connections(settings, separate=True)
    monkeypatch.setattr(descriptors, "limit", lambda: 352)
    assert composition._connections(settings, separate=True).guests >= 32


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: 1024)


@pytest.mark.usefixtures("few_files")
class TestStart:
    async def test_the_broker_reports_lower_limits_at_its_start(
        self, broker: RunningBroker
    ) -> None:
        (fields,) = broker.events.named("warning.limits")
        assert "may open 1024 files" in str(fields["reason"])
        assert broker.attested._limits.connections == 1024 - RESERVE - 3 * 64


class NoDescriptors(socket.socket):
    """Listening socket of a process without descriptors, until the test gives some."""

    calls = 0
    empty = True

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.empty:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_accepting_pauses_without_descriptors() -> None:
    listening = NoDescriptors()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    events = RecordedEvents()
    taken: list[socket.socket] = []
    task = asyncio.create_task(
        accepting.accept(listening, lambda accepted, _: taken.append(accepted), events)
    )
    clients = [socket.create_connection(listening.getsockname()) for _ in range(20)]
    for seconds in range(1, 5):
        await until(lambda seconds=seconds: listening.calls >= seconds)  # type: ignore[misc]
        await elapse(0)
        assert listening.calls == len(events.named("connection.refused")) == seconds
        await elapse(accepting.PAUSE_SECONDS)
    listening.empty = False
    await elapse(accepting.PAUSE_SECONDS)
    await until(lambda: len(taken) == len(clients))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for each in (*clients, *taken, listening):
        each.close()


async def test_one_connection_is_accepted_in_each_round_of_the_loop() -> None:
    """What was accepted before is served in between."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        clients = [socket.create_connection(listening.getsockname()) for _ in range(5)]
        rounds: list[int] = []
        current = 0

        def take(accepted: socket.socket, _: object) -> None:
            accepted.close()
            rounds.append(current)

        task = asyncio.create_task(accepting.accept(listening, take, RecordedEvents()))
        while len(rounds) < len(clients):
            await asyncio.sleep(0)
            current += 1
        assert len(set(rounds)) == len(clients)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for client in clients:
            client.close()


def fail_after(most: int, events: RecordedEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an accept loop without a pause fail; it would fill the memory with its events."""
    record = events.record

    def bounded(event: Event) -> None:
        record(event)
        assert len(events.named("connection.refused")) <= most

    monkeypatch.setattr(events, "record", bounded)


@pytest.mark.broker(kbs=True)
@pytest.mark.parametrize(
    "address",
    [
        lambda broker: broker.address,
        lambda broker: broker.kbs.address,
        lambda broker: broker.daemon.listener("client_api").address,
    ],
)
async def test_each_listener_pauses(
    broker: RunningBroker,
    address: Callable[[RunningBroker], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process may open no descriptor; each listener reports that once a second."""
    found = address(broker)
    where = (found.host, found.port) if hasattr(found, "host") else found
    fail_after(20, broker.events, monkeypatch)
    client = socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Not the lowest free number: another thread may close a lower one in the meantime.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, where)
        await until(lambda: broker.events.named("connection.refused"))
        for _ in range(3):
            await elapse(accepting.PAUSE_SECONDS)
        refused = broker.events.named("connection.refused")
        assert 2 <= len(refused) <= 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
