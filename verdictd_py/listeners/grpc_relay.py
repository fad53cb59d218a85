"""Relay of bytes between two connected sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

CHUNK_BYTES: Final = 32 * 1024
"""Maximum number of bytes of a connection that wait here, in each direction."""

SEND_SECONDS: Final = 60.0
"""Time limit for a client to take the next bytes."""

_LATER: Final = (BlockingIOError, InterruptedError)


class Relay:
    """Relay between a client and gRPC, until one of them closes its connection.

    It consists of callbacks of the event loop, because tasks take several times as long. No
    bytes wait here as long as the receiver takes them; otherwise at most `CHUNK_BYTES` do, and
    nothing more is received until they are sent. Each callback relays one chunk, so that no
    connection delays the others.

    Args:
        client: socket of the client; like the other one, it does not block.
        grpc: socket whose other end gRPC has.
        ended: called once, unless `stop` is called before, with the cause; None if a side closed
            its connection. The sockets are still open.
    """

    __slots__ = ("_answers", "_ended", "_requests")

    def __init__(
        self,
        client: socket.socket,
        grpc: socket.socket,
        ended: Callable[[Exception | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._ended = ended
        self._requests = _Direction(loop, client, grpc, self._end, self._grpc_closed)
        self._answers = _Direction(loop, grpc, client, self._end, self._end, SEND_SECONDS)

    def start(self, first: bytes) -> None:
        """Relay what the client has sent already, and everything that follows."""
        self._answers.start()
        self._requests.start()
        self._requests.send(first)

    def stop(self) -> None:
        """Relay nothing more. Call this before the sockets are closed."""
        self._requests.stop()
        self._answers.stop()

    def _end(self, error: Exception | None) -> None:
        self.stop()
        # gRPC resets its connection if it had not read everything.
        self._ended(None if isinstance(error, ConnectionResetError) else error)

    def _grpc_closed(self, error: Exception) -> None:
        """Wait for the last frames of gRPC, which have the reason why it closed the connection."""
        del error
        self._requests.stop()


class _Direction:
    """One direction of a relay.

    Args:
        ended: called if the source has closed its connection, or with the error.
        failed: called if the target takes no more bytes, with the error.
        seconds: time limit for the target to take a chunk; None for no limit.
    """

    __slots__ = (
        "_ended",
        "_failed",
        "_loop",
        "_rest",
        "_seconds",
        "_source",
        "_source_fd",
        "_target",
        "_target_fd",
        "_timer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        target: socket.socket,
        ended: Callable[[Exception | None], None],
        failed: Callable[[Exception], None],
        seconds: float | None = None,
    ) -> None:
        self._loop = loop
        self._source = source
        self._target = target
        # For a socket, asyncio would format an error with both addresses, by two system calls.
        self._source_fd = source.fileno()
        self._target_fd = target.fileno()
        self._ended = ended
        self._failed = failed
        self._seconds = seconds
        self._rest = b""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop.add_reader(self._source_fd, self._receive)

    def stop(self) -> None:
        self._loop.remove_reader(self._source_fd)
        if self._rest:
            self._finish_rest()

    def send(self, data: bytes) -> None:
        """Send a chunk; receive nothing more until all of it is sent."""
        sent = self._send(data)
        if sent is not None and sent < len(data):
            self._rest = data[sent:]
            self._loop.remove_reader(self._source_fd)
            self._loop.add_writer(self._target_fd, self._send_rest)
            if self._seconds is not None:
                self._timer = self._loop.call_later(self._seconds, self._failed, TimeoutError())

    def _receive(self) -> None:
        try:
            data = self._source.recv(CHUNK_BYTES)
        except _LATER:
            return
        except OSError as error:
            self._ended(error)
            return
        if data:
            self.send(data)
        else:
            self._ended(None)

    def _send_rest(self) -> None:
        sent = self._send(self._rest)
        if sent is None:
            return
        if sent < len(self._rest):
            self._rest = self._rest[sent:]
            return
        self._finish_rest()
        self.start()

    def _finish_rest(self) -> None:
        self._rest = b""
        self._loop.remove_writer(self._target_fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, data: bytes) -> int | None:
        """Return how many bytes the target has taken; None if it takes no more."""
        try:
            return self._target.send(data)
        except _LATER:
            return 0
        except OSError as error:
            self._failed(error)
            return None
