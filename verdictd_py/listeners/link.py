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
    sends faster than it is served. The socket is registered in the event loop once, and as long as
    the peer sends only what is waited for.

    Args:
        accepted: a connected socket that does not block; the link closes it.
        share: the connection's share of its listener.
    """

    __slots__ = (
        "_ended",
        "_loop",
        "_received",
        "_registered",
        "_sending",
        "_share",
        "_socket",
        "session",
    )

    def __init__(self, accepted: socket.socket, session: TlsSession, share: Share) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted
        self._share = share
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._registered = False
        self._received: asyncio.Future[bytes] | None = None
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
        first = True  # its bytes have arrived already
        try:
            while not self.session.handshake():
                answered = await self._flush() or answered
                await self._share.held.room()
                data = self._read_now() if first else b""
                first = False
                data = data or await self._read()
                self._share.held.add(len(data))
                if answered and data:
                    self._share.prove()  # its certificate, which has the evidence
                self.session.receive(data)
        finally:
            await self._flush()

    async def receive(self) -> bytes:
        """Receive at least one byte of plaintext, at most one record.

        Other guests are served before each record: a guest can send thousands of small ones at
        once.
        """
        plaintext = self.session.read()
        if plaintext:
            await asyncio.sleep(0)
        while not plaintext:
            await self._flush()
            self.session.receive(await self._read())
            plaintext = self.session.read()
        return plaintext

    async def send(self, plaintext: bytes, seconds: float | None = None) -> None:
        """Send `plaintext` as one TLS write; it is counted as held until then.

        Args:
            seconds: time limit for a peer that does not take it; None: the caller sets one.

        Raises:
            TimeoutError: the peer has not taken it in time.
        """
        held = len(plaintext)
        end = None if seconds is None else self._loop.time() + seconds
        self._share.held.add(held)
        try:
            for start in range(0, held, _WRITE_BYTES):
                self.session.write(plaintext[start : start + _WRITE_BYTES])
                await self._flush(end)
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
        self._unregister()
        self._socket.close()

    def _read_now(self) -> bytes:
        """Return what has arrived already; empty if there is nothing, or the peer closed."""
        try:
            received: bytes = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return b""
        return received

    async def _read(self) -> bytes:
        """Return what has arrived, after a round of the event loop; empty if the peer closed."""
        received: asyncio.Future[bytes] = self._loop.create_future()
        self._received = received
        if not self._registered:
            self._registered = True
            self._loop.add_reader(self._socket, self._readable)
        try:
            return await received
        finally:
            self._received = None

    def _readable(self) -> None:
        received = self._received
        if received is None or received.done():
            self._unregister()  # bytes stay in the kernel until they are waited for
            return
        try:
            received.set_result(self._socket.recv(READ_BYTES))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            received.set_exception(error)

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            self._loop.remove_reader(self._socket)

    async def _flush(self, end: float | None = None) -> bool:
        """Send what TLS has to send; return whether there was any.

        Args:
            end: when it has to be sent, by the clock of the event loop; None for no limit.

        Raises:
            TimeoutError: it is not sent in time.
        """
        data = self.session.outgoing()
        if not data:
            return False
        self._sending = True  # also if it is cancelled: then the stream ends within a record
        rest = self._send(data)
        if rest:
            async with asyncio.timeout_at(end):
                await self._loop.sock_sendall(self._socket, rest)
        self._sending = False
        return True

    def _send(self, data: bytes) -> bytes:
        """Send what the kernel takes at once; return the rest."""
        try:
            return data[self._socket.send(data) :]
        except (BlockingIOError, InterruptedError):
            return data
