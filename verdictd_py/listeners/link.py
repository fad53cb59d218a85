"""TLS session over the socket of a guest, with bounds on the bytes that it holds."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final

from verdictd_py.listeners import sockets
from verdictd_py.listeners.buffers import READ_BYTES
from verdictd_py.listeners.shares import Share
from verdictd_py.protocols.ratstls.session import RECORD_BYTES, TlsSession

LINGER_SECONDS: Final = 1.0
"""Time for a refused peer to read the reason, before its connection is closed."""

_WRITE_BYTES: Final = 4 * RECORD_BYTES
"""Plaintext that is encrypted at a time: whole records, so that a long answer has the same
records as if it were written at once."""

_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds (socket(7))


class Link:
    """TLS session over a socket.

    It uses the socket itself, because the streams of asyncio hold up to 384 KiB of a peer that
    sends faster than it is served.

    Args:
        accepted: a connected socket that does not block; the link closes it.
        share: the connection's share of its listener.
    """

    def __init__(self, accepted: socket.socket, session: TlsSession, share: Share) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted
        self._share = share
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._sending = False
        self._ended = False

    def detect_dead_peer(self) -> None:
        """Have the kernel close the connection if the peer vanishes."""
        sockets.detect_dead_peer(self._socket)

    async def handshake(self) -> None:
        """Complete the handshake; before it raises an error, it sends the TLS alert.

        The peer's bytes are counted as held, since its certificate is stored.
        """
        answered = False
        try:
            while not self.session.handshake():
                answered = await self._flush() or answered
                await self._share.held.room()
                data = await self._read()
                self._share.held.add(len(data))
                if answered and data:
                    self._share.prove()  # its certificate, which has the evidence
                self.session.receive(data)
        finally:
            await self._flush()

    async def receive(self) -> bytes:
        """Receive at least one byte of plaintext."""
        while not (plaintext := self.session.read()):
            await self._flush()
            self.session.receive(await self._read())
        return plaintext

    async def send(self, plaintext: bytes) -> None:
        """Send `plaintext` as one TLS write; it is counted as held until then."""
        held = len(plaintext)
        self._share.held.add(held)
        try:
            for start in range(0, held, _WRITE_BYTES):
                self.session.write(plaintext[start : start + _WRITE_BYTES])
                await self._flush()
        finally:
            self._share.held.add(-held)

    async def goodbye(self) -> None:
        """Close the sending side, then wait for the peer to close its own, with a time limit.

        Closing a socket with unread bytes resets the connection, and the peer could lose an
        answer that it has not read yet.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                self.session.close()
                await self._flush()
                self._ended = True  # even if the next line fails: nothing is written after it
                self._socket.shutdown(socket.SHUT_WR)
                while await self._read():
                    pass

    def drop(self) -> None:
        """Close the connection now; send close_notify if that does not block."""
        with suppress(OSError):
            if self._sending:  # the kernel need not store what the peer did not take
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif not self._ended:
                self.session.close()
                self._socket.send(self.session.outgoing())
        self._socket.close()

    async def _read(self) -> bytes:
        return await self._loop.sock_recv(self._socket, READ_BYTES)

    async def _flush(self) -> bool:
        """Send what TLS has to send; return whether there was any."""
        data = self.session.outgoing()
        if data:
            self._sending = True  # also if it is cancelled: then the stream ends within a record
            await self._loop.sock_sendall(self._socket, data)
            self._sending = False
        return bool(data)
