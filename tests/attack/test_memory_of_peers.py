"""Attack: peers that send nothing, or a ClientHello only, fill the memory of the broker."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from OpenSSL import SSL

from tests.support.broker import HANDSHAKE_SECONDS, RunningBroker
from tests.support.clock import elapse, until
from tests.support.command import RunningDaemon, port_of, running_daemon
from verdictd_py.listeners.kbs import transports

PEERS: Final = 300
IDLE_KIB: Final = 16
"""A peer that has sent nothing takes 4 KiB; it took 53 KiB on RATS-TLS and 293 KiB on HTTPS."""

HELLO_KIB: Final = 96
"""A peer that has sent its ClientHello takes 55 and 66 KiB, of which OpenSSL's own state has 45 to
52; it took 64 and 295 KiB."""


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def memory(daemon: RunningDaemon) -> int:
    """KiB that only this process has."""
    text = Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("Private_Dirty")]
    return int(line.split()[1])


def connect(port: int, hello: bytes, count: int) -> list[socket.socket]:
    """Connect peers, and wait until the broker has accepted, or answered, each of them."""
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for peer in peers:
        peer.settimeout(60)
        if hello:
            peer.sendall(hello)
            assert peer.recv(1)
    last = socket.create_connection(("127.0.0.1", port))  # accepted after all others
    last.sendall(b"GET / HTTP/1.1\r\n\r\n")  # not TLS
    last.settimeout(60)
    last.recv(1)
    last.close()
    return peers


@pytest.mark.parametrize(("hello", "most"), [(False, IDLE_KIB), (True, HELLO_KIB)])
@pytest.mark.parametrize("listener", ["listen", "kbs_http"])
def test_a_peer_takes_little_memory(tmp_path: Path, listener: str, hello: bool, most: int) -> None:
    addresses = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--kbs-http")
    options = ("0.0.0.0:0", "--data-dir", str(tmp_path / "data"), "--collateral-url=")
    with running_daemon(*addresses, *options, "--handshake-timeout", "3600") as daemon:
        port = port_of(daemon.wait_for("listener.started", name=listener)["endpoint"])
        daemon.wait_for("daemon.started")
        sent = client_hello() if hello else b""
        warm = connect(port, sent, 20)
        before = memory(daemon)
        peers = connect(port, sent, PEERS)
        grown = (memory(daemon) - before) / PEERS
        for peer in (*warm, *peers):
            peer.close()
    assert grown < most


Addresses = Callable[[RunningBroker], tuple[str, int]]


@pytest.mark.broker(kbs=True, kbs_http="0.0.0.0:0")
class TestFirstByte:
    async def test_no_tls_state_exists_before_the_first_byte(
        self, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        created: list[str] = []
        context = broker.attested._context
        tls = transports._SmallTls.__init__

        def counted(self: Any, *arguments: Any, **more: Any) -> None:
            created.append("https")
            tls(self, *arguments, **more)

        monkeypatch.setattr(transports._SmallTls, "__init__", counted)

        def counted_context() -> SSL.Context:
            created.append("rats-tls")
            return context()

        monkeypatch.setattr(broker.attested, "_context", counted_context)
        kbs = "127.0.0.1", broker.kbs.address.port
        peers = [socket.create_connection(where) for where in (broker.address, kbs)]
        await until(lambda: broker.attested._tasks and broker.kbs._acceptor._tasks)
        await elapse(HANDSHAKE_SECONDS / 2)
        assert created == []
        for peer in peers:
            peer.sendall(b"\x16")
        await until(lambda: sorted(created) == ["https", "rats-tls"])
        for peer in peers:
            peer.close()

    async def test_no_http_state_exists_before_the_handshake_is_complete(
        self, broker: RunningBroker
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.kbs.address.port)
        writer.write(client_hello())
        assert await reader.read(1)
        assert list(broker.kbs._acceptor._tasks.values()) == [None]
        writer.close()

    async def test_the_time_limit_of_the_handshake_begins_at_the_connection(
        self, broker: RunningBroker
    ) -> None:
        kbs = "127.0.0.1", broker.kbs.address.port
        peers = [socket.create_connection(where) for where in (broker.address, kbs)]
        await until(lambda: broker.attested._tasks and broker.kbs._acceptor._tasks)
        await elapse(HANDSHAKE_SECONDS - 20)
        for peer in peers:
            peer.sendall(b"\x16")
        await elapse(0)
        assert broker.attested._tasks
        assert broker.kbs._acceptor._tasks
        await elapse(20)
        await until(lambda: not broker.attested._tasks and not broker.kbs._acceptor._tasks)
        for peer in peers:
            peer.close()
