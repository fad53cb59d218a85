"""TLS session over the connection of a guest, with bounds on the bytes that it holds."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Final

from verdictd_py.listeners import sockets
from verdictd_py.listeners.shares import Share
from verdictd_py.listeners.wire import Wire
from verdictd_py.protocols.ratstls.session import RECORD_BYTES, TlsSession

LINGER_SECONDS: Final = 1.0
"""Time for a refused peer to read the reason, before its connection is closed."""

_TLS_13: Final = "TLSv1.3"

_WRITE_BYTES: Final = 4 * RECORD_BYTES
"""Plaintext that is encrypted at a time: whole records, so that a long answer has the same
records as if it were written at once."""


class Link:
    """TLS session over a connection.

    Args:
        wire: the connection; the link closes it.
        share: the connection's share of its listener.
    """

    __slots__ = ("_ended", "_first", "_loop", "_share", "_wire", "session")

    def __init__(self, wire: Wire, session: TlsSession, share: Share) -> None:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wire = wire
        self._share = share
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._first = True

    def detect_dead_peer(self) -> None:
        """Have the kernel close the connection if the peer vanishes."""
        sockets.detect_dead_peer(self._wire.socket)

    async def handshake(self, first: bytes) -> None:
        """Complete the handshake; before it raises an error, it sends the TLS alert.

        What TLS 1.3 sends after the handshake, no peer waits for: it is sent with the answer to a
        request that has arrived meanwhile, or before the broker waits for one.

        The peer's bytes are counted as held, since its certificate is stored.

        Args:
            first: the first bytes of the peer, empty if it has closed the connection.
        """
        answered = completed = False
        data = first
        try:
            while True:
                self._share.held.add(len(data))
                if answered and data:
                    self._share.prove()  # its certificate, which has the evidence
                self.session.receive(data)
                if self.session.handshake():
                    completed = self.session.version == _TLS_13
                    return
                answered = await self._flush() or answered
                await self._share.held.room()
                data = await self._wire.read()
        finally:
            if not completed:
                await self._flush()

    async def receive(self) -> bytes:
        """Receive at least one byte of plaintext, at most one record.

        Other guests are served before each record but the first, which follows the appraisal: a
        guest can send thousands of small ones at once.
        """
        plaintext = self.session.read() if self.session.has_input else b""
        if plaintext:
            await asyncio.sleep(0)
        elif self._first:
            plaintext = self._arrived()
        self._first = False
        while not plaintext:
            if self.session.has_output:
                await self._flush()
            self.session.release_buffers()
            self.session.receive(await self._wire.read())
            plaintext = self.session.read()
        return plaintext

    def _arrived(self) -> bytes:
        """Return plaintext that has arrived while the guest was appraised; empty if there is none.

        Guests send their first request at once. Later ones are waited for.
        """
        data = self._wire.arrived()
        if data is None:
            return b""
        self.session.receive(data)
        return self.session.read()

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
                self._wire.socket.shutdown(socket.SHUT_WR)
                while await self._wire.read():
                    pass

    def drop(self) -> None:
        """Close the connection now; send close_notify if that does not block."""
        last = b""
        if not self._ended:
            self.session.close()
            last = self.session.outgoing()
        self._wire.close(last)

    async def _flush(self, end: float | None = None) -> bool:
        """Send what TLS has to send; return whether there was any.

        Args:
            end: time limit, by the clock of the event loop; None for no limit.

        Raises:
            TimeoutError: the peer has not taken it in time.
        """
        data = self.session.outgoing()
        if data:
            await self._wire.send(data, end)
        return bool(data)
