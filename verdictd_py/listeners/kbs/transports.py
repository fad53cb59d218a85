"""Transports of HTTP connections that hold few bytes of a peer.

asyncio has no settings for the sizes of its buffers. This module therefore uses three parts of it
that are not documented, and that were compared for CPython 3.11.7, 3.12.1 and 3.13.0:

* `sslproto.SSLProtocol`: `max_size` is the size of the buffer that its constructor allocates;
* the arguments of that constructor;
* `max_size` of the transport of a socket: the size of one read.

`tests/listeners/test_transports.py` fails with a Python in which one of them differs. A Python that
ignored `max_size` would serve every client, and take more memory for each.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, cast

from verdictd_py.listeners.buffers import READ_BYTES

LINGER_SECONDS: Final = 1.0
"""Time for a refused client to read the answer."""


class Pause(Enum):
    """Reason for which a connection is not read."""

    ANSWERING = auto()
    """A complete request has no answer yet. Requests after it wait in the kernel, except one read
    of a connection without TLS."""
    MEMORY = auto()
    """The listener's connections hold too many bytes."""
    LIBRARY = auto()
    """The HTTP library has received enough for now."""


class GatedTransport:
    """Transport that is read only while no reason to pause applies.

    The HTTP library pauses and resumes its transport by itself, and would end other pauses.

    Args:
        transport: the transport; everything but pauses is passed on to it.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pauses: set[Pause] = set()
        # For each answer; `__getattr__` takes ten times as long.
        self.is_closing = transport.is_closing
        self.write = transport.write
        self.writelines = transport.writelines

    def pause(self, reason: Pause) -> None:
        self._pauses.add(reason)
        self._transport.pause_reading()

    def resume(self, reason: Pause) -> None:
        if reason in self._pauses:
            self._pauses.discard(reason)
            if not self._pauses:
                self._transport.resume_reading()

    def pause_reading(self) -> None:
        self.pause(Pause.LIBRARY)

    def resume_reading(self) -> None:
        self.resume(Pause.LIBRARY)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of any type
        return getattr(self._transport, name)


class _SmallTls(sslproto.SSLProtocol):
    """asyncio's TLS, whose buffer of 256 KiB for each connection is not configurable."""

    max_size = READ_BYTES


class _Starter(asyncio.Protocol):
    """Creates the protocol of a connection when its handshake is complete."""

    def __init__(self, create: Callable[[], asyncio.Protocol]) -> None:
        self._create = create

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._create()
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(transport)


async def connect(
    accepted: socket.socket,
    create: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None,
    *,
    seconds: float,
) -> None:
    """Connect an accepted socket with its protocol; complete the TLS handshake first.

    Args:
        seconds: time limit of the handshake.

    Raises:
        OSError: the handshake failed, or the connection.
    """
    loop = asyncio.get_running_loop()
    if tls is None:
        transport, _ = await loop.connect_accepted_socket(create, accepted)
        # The largest read of asyncio's transport; it has no public setting.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        return
    complete: asyncio.Future[None] = loop.create_future()
    protocol = _SmallTls(
        loop,
        _Starter(create),
        tls,
        complete,
        server_side=True,
        ssl_handshake_timeout=math.ceil(seconds),
        ssl_shutdown_timeout=math.ceil(LINGER_SECONDS),
    )
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
    try:
        await complete
    except BaseException:
        transport.abort()
        raise
