"""Closing of a guest's connection, whatever the guest does."""

from __future__ import annotations

import asyncio
import select
import socket
import struct

import pytest

from tests.support.clock import elapse, until
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import guest_context
from verdictd_py.listeners.buffers import ALLOWANCE_BYTES, READ_BYTES, Buffers
from verdictd_py.listeners.link import Link
from verdictd_py.listeners.shares import Share, ShareLimits, Shares, source_of
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
    return Link(accepted, TlsSession(context, server=True), share), client


async def test_a_connection_that_the_guest_reset_is_closed_without_error() -> None:
    """The half-close then fails, and a later write would raise another error."""
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link, client = linked(share)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    client.close()  # a reset, which nobody here has noticed yet
    with pytest.raises(OSError, match="not connected"):
        await link.goodbye()
    link.drop()
    assert link._socket.fileno() == -1


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
        handshake = asyncio.create_task(link.handshake())
        await elapse(0)
        assert link._socket.recv(1, socket.MSG_PEEK) == sent[:1]  # it is still in the kernel
        share.held.add(-ALLOWANCE_BYTES)
        await until(lambda: select.select([client], [], [], 0)[0])  # the answer has arrived
        assert share.held.size == len(sent)
        handshake.cancel()
        await asyncio.gather(handshake, return_exceptions=True)
    link.drop()
