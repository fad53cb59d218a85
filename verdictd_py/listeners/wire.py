"""Bytes of one connection, read only when they are waited for."""

from __future__ import annotations

import asyncio
import socket
import struct

from verdictd_py.handover import Handover
from verdictd_py.listeners.buffers import READ_BYTES

_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds (socket(7))


class Wire:
    """A connected socket that is registered in the event loop once.

    The streams of asyncio hold up to 384 KiB of a peer that sends faster than it is served. Here,
    bytes that are not waited for stay in the kernel: the socket is then no longer registered.

    Args:
        accepted: a connected socket that does not block; the wire closes it.
    """

    __slots__ = ("_descriptor", "_loop", "_received", "_registered", "_sending", "socket")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        # The event loop makes a text of a socket that it does not know; not of a number.
        self._descriptor = accepted.fileno()
        self._loop = asyncio.get_running_loop()
        self._received: Handover[bytes] | None = None
        self._registered = False
        self._sending = False

    async def read(self) -> bytes:
        """Return at most `READ_BYTES`, after a round of the event loop; none if the peer closed.

        Raises:
            OSError: the connection failed.
        """
        received: Handover[bytes] = Handover(self._loop)
        self._received = received
        if not self._registered:
            self._registered = True
            self._loop.add_reader(self._descriptor, self._readable)
        try:
            return await received
        finally:
            self._received = None

    def arrived(self) -> bytes | None:
        """Return what `read` would return now; None if nothing has arrived.

        Raises:
            OSError: the connection failed.
        """
        try:
            return self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None

    async def send(self, data: bytes, end: float | None = None) -> None:
        """Send all of `data`.

        Args:
            end: time limit, by the clock of the event loop; None for no limit.

        Raises:
            TimeoutError: the peer has not taken it in time.
            OSError: the connection failed.
        """
        self._sending = True  # also if this is cancelled
        rest = self._send_now(data)
        if rest:
            async with asyncio.timeout_at(end):
                await self._loop.sock_sendall(self.socket, rest)
        self._sending = False

    def close(self, last: bytes = b"") -> None:
        """Close the connection now.

        Args:
            last: sent before if that does not block. Instead, the connection is reset if another
                send was interrupted: the kernel need not store what the peer did not take.
        """
        try:
            if self._sending:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif last:
                self.socket.send(last)
        except OSError:
            pass  # the peer has closed it before
        finally:
            self._unregister()
            self.socket.close()

    def _readable(self) -> None:
        received = self._received
        if received is None or received.done():
            self._unregister()
            return
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            received.set_exception(error)
            return
        received.set_result(data)

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            self._loop.remove_reader(self._descriptor)

    def _send_now(self, data: bytes) -> bytes:
        """Send what the kernel takes at once; return the rest."""
        try:
            return data[self.socket.send(data) :]
        except (BlockingIOError, InterruptedError):
            return data
