"""Closing of a guest's connection, whatever the guest does."""

from __future__ import annotations

import socket
import struct

import pytest

from verdictd_py.listeners.link import Link
from verdictd_py.listeners.shares import ShareLimits, Shares, source_of
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.session import TlsSession, server_context

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds (socket(7))


async def test_a_connection_that_the_guest_reset_is_closed_without_error() -> None:
    """The half-close then fails, and a later write would raise another error."""
    identity = ServerIdentity.create()
    context = server_context(identity.certificate, identity.private_key, require_certificate=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    accepted.setblocking(False)
    share = Shares(lambda: ShareLimits.of(1)).enter(source_of("127.0.0.1"), lambda: None)
    link = Link(accepted, TlsSession(context, server=True), share)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    client.close()  # a reset, which nobody here has noticed yet
    with pytest.raises(OSError, match="not connected"):
        await link.goodbye()
    link.drop()
    assert accepted.fileno() == -1
