"""Closing of a guest's connection, whatever the guest does."""

from __future__ import annotations

import asyncio
import select
import socket
import struct

import pytest
from OpenSSL import SSL

from tests.support.clock import elapse, until
from tests.tees.support import NOW, platform
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.listeners.buffers import ALLOWANCE_BYTES, READ_BYTES, Buffers
from verdictd_py.listeners.link import Link
from verdictd_py.listeners.shares import Share, ShareLimits, Shares, source_of
from verdictd_py.listeners.wire import Wire
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.protocols.ratstls.session import TlsSession, server_context

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds (socket(7))


def linked(share: Share) -> tuple[Link, socket.socket]:
    """Return the broker's side of a new connection, and the guest's socket."""
    identity = ServerIdentity.create()
    context = server_context(identity.certificate, identity.private_key, require_certificate=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    accepted.setblocking(False)
    return Link(Wire(accepted), TlsSession(context, server=True), share), client


async def test_a_connection_that_the_guest_reset_is_closed_without_error() -> None:
    """The half-close then fails, and a later write would raise another error."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client = linked(share)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    client.close()  # a reset, which nobody here has noticed yet
    with pytest.raises(OSError, match="not connected"):
        await link.goodbye()
    link.drop()
    assert link._wire.socket.fileno() == -1


async def test_bytes_of_a_handshake_are_counted_and_wait_for_room() -> None:
    """Peers that send parts of certificates would fill the memory otherwise."""
    buffers = Buffers(8 * READ_BYTES)
    share = Shares(lambda: ShareLimits.of(1), buffers).enter(source_of("::1"), lambda: None)
    link, client = linked(share)
    share.held.add(ALLOWANCE_BYTES)
    with client:
        hello = TlsSession(guest_context(None, Form.CURRENT, now=app.utc_now()), server=False)
        hello.handshake()
        sent = hello.outgoing()
        client.sendall(sent)
        handshake = asyncio.create_task(link.handshake(sent[:10]))
        await elapse(0)
        waiting = link._wire.socket.recv(READ_BYTES, socket.MSG_PEEK)
        assert waiting == sent  # it is still in the kernel
        share.held.add(-ALLOWANCE_BYTES)
        link._wire.socket.recv(10)
        answer = select.poll()  # `select` fails with descriptors above 1023
        answer.register(client, select.POLLIN)
        await until(lambda: bool(answer.poll(0)))
        assert share.held.size == len(sent)
        handshake.cancel()
        await asyncio.gather(handshake, return_exceptions=True)
    link.drop()


async def attested(share: Share) -> tuple[Link, socket.socket, TlsSession]:
    """Return a connection after the handshake: the broker's side, the guest's socket and TLS."""
    link, client = linked(share)
    client.setblocking(False)
    certificate = guest_context(SimulatedAttester(platform()), Form.CURRENT, now=NOW)
    guest = TlsSession(certificate, server=False)
    loop = asyncio.get_running_loop()
    assert not guest.handshake()
    handshake = asyncio.create_task(link.handshake(guest.outgoing()))
    while not guest.handshake():
        await loop.sock_sendall(client, guest.outgoing())
        guest.receive(await loop.sock_recv(client, READ_BYTES))
    await loop.sock_sendall(client, guest.outgoing())
    await handshake
    return link, client, guest


async def test_bytes_that_are_not_waited_for_stay_in_the_kernel() -> None:
    """Otherwise a guest that sends faster than it is served would fill the memory."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client, guest = await attested(share)
    loop = asyncio.get_running_loop()
    with client:
        receiving = asyncio.create_task(link.receive())
        guest.write(b"one")
        await loop.sock_sendall(client, guest.outgoing())
        assert await receiving == b"one"
        guest.write(b"two")
        sent = guest.outgoing()
        await loop.sock_sendall(client, sent)
        await until(lambda: not loop._selector.get_map().get(link._wire.socket))  # type: ignore[attr-defined]
        assert link._wire.socket.recv(READ_BYTES, socket.MSG_PEEK) == sent
        assert await link.receive() == b"two"
    link.drop()
    assert link._wire.socket.fileno() == -1


async def test_other_tasks_run_between_two_records_of_one_read() -> None:
    """A guest can send hundreds of records in one segment."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client, guest = await attested(share)
    with client:
        for record in (b"1", b"2", b"3"):
            guest.write(record)
        await asyncio.get_running_loop().sock_sendall(client, guest.outgoing())
        rounds = 0

        async def others() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        assert await link.receive() == b"1"  # the guest was appraised before it
        for record in (b"2", b"3"):
            before = rounds
            assert await link.receive() == record
            assert rounds > before
        task.cancel()
    link.drop()


async def test_what_tls_sends_after_the_handshake_goes_out_with_the_first_answer() -> None:
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client, guest = await attested(share)
    with client:
        guest.write(b"request")
        client.sendall(guest.outgoing())
        assert await link.receive() == b"request"
        with pytest.raises(BlockingIOError):
            client.recv(READ_BYTES)
        await link.send(b"answer")
        guest.receive(client.recv(READ_BYTES))
        assert guest.read() == b"answer"
    link.drop()


async def test_what_tls_sends_after_the_handshake_goes_out_before_a_wait() -> None:
    """Otherwise its buffer would stay in memory as long as the guest is silent."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client, _ = await attested(share)
    with client:
        receiving = asyncio.create_task(link.receive())
        assert await asyncio.get_running_loop().sock_recv(client, READ_BYTES)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
    link.drop()


async def test_the_last_flight_of_tls_12_is_sent_at_once() -> None:
    """The guest's handshake ends with it."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client = linked(share)
    context = guest_context(SimulatedAttester(platform()), Form.CURRENT, now=NOW)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    guest = TlsSession(context, server=False)
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    with client:
        assert not guest.handshake()
        handshake = asyncio.create_task(link.handshake(guest.outgoing()))
        guest.receive(await loop.sock_recv(client, READ_BYTES))
        assert not guest.handshake()
        await loop.sock_sendall(client, guest.outgoing())
        await handshake
        guest.receive(client.recv(READ_BYTES))
        assert guest.handshake()
    link.drop()


async def test_a_guest_that_takes_no_bytes_is_disconnected_in_time() -> None:
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client, _ = await attested(share)
    with client:
        sending = asyncio.create_task(link.send(bytes(32 << 20), seconds=60))
        await elapse(59)
        assert not sending.done()
        await elapse(2)
        assert sending.done()
        with pytest.raises(TimeoutError):
            await sending
        assert share.held.size < 32 << 20
        link.drop()
        with pytest.raises(ConnectionResetError):  # the stream ended within a record
            await _receive_all(client)


async def _receive_all(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, READ_BYTES):
        pass


async def test_buffers_are_released_before_a_guest_is_waited_for() -> None:
    """Its handshake has 10 KiB, and the connection may be idle for months."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("::1"), lambda: None)
    link, client = linked(share)
    released: list[None] = []
    link.session.release_buffers = lambda: released.append(None)  # type: ignore[method-assign]
    with client:
        receiving = asyncio.ensure_future(link.receive())
        await until(lambda: released)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
    link.drop()
