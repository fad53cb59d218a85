"""Connections of a gRPC listener, which the broker accepts itself and relays to gRPC.

gRPC for Python accepts connections until a limit, then closes each new one, and identifies no
client before its first call. Clients that connect and make no call would lock out all others
(ADR 18).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verdictd_py.domain.events import ConnectionRefused, ConnectionTimeout
from verdictd_py.errors import ConfigError, Overloaded
from verdictd_py.listeners import sockets
from verdictd_py.listeners.callers import Peer
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.shares import Share, ShareLimits, Shares, Source, source_of
from verdictd_py.ports import Events

DESCRIPTORS: Final = 3
"""File descriptors of a connection: that of the client, and two between the relay and gRPC."""

FIRST_BYTE_SECONDS: Final = 10.0
"""Time limit for the first byte of a client. gRPC limits the rest of the handshake."""

SEND_SECONDS: Final = 60.0
"""Time limit for a client to take the next bytes."""

CHUNK_BYTES: Final = 32 * 1024
"""Maximum number of bytes of a connection that wait here, in each direction."""

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # a new directory with mode 0700 in it is used
"""Directory that containers can write even if their root and /tmp are read-only."""

_UNTIL_CLOSED_SECONDS: Final = 0.5
"""Time for clients to take what gRPC sent before it stopped."""


class PrivateSocket:
    """Unix socket on which gRPC listens, and to which only this process connects.

    Its file exists only while gRPC binds it. Afterwards it is reached by a descriptor of this
    process (open(2), "O_PATH").
    """

    def __init__(self, listen: Callable[[str], object]) -> None:
        """Let gRPC bind the socket.

        Args:
            listen: binds a gRPC server to an address.

        Raises:
            ConfigError: there is no directory in which it can be bound.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="verdictd-py-", dir=_place()) as directory:
                path = Path(directory) / "grpc"
                listen(f"unix:{path}")
                self._file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"cannot create a temporary socket: {error}; set TMPDIR to a directory with a "
                "short name in which this user can create files"
            ) from error

    def connect(self, name: str) -> socket.socket:
        """Return a connection to gRPC, which knows it by its name in the abstract namespace.

        Raises:
            OSError: gRPC does not accept it.
        """
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.setblocking(False)
            connected.bind(f"\0{name}")
            connected.connect(f"/proc/self/fd/{self._file}")
        except BaseException:
            connected.close()
            raise
        return connected

    def close(self) -> None:
        os.close(self._file)


def _place() -> str:
    """Return a directory for temporary files, also where a container has a read-only root."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return _SHARED_MEMORY


@dataclass(slots=True)
class _Connection:
    """An open connection.

    Attributes:
        calls: number of its calls in progress.
    """

    peer: Peer
    share: Share
    calls: int = 0


class GrpcConnections:
    """Open connections of a gRPC listener.

    The connections of a user on loopback, or of an address elsewhere, have a share. If there are
    too many, the oldest one without a call in progress is closed (`listeners.shares`); its client
    connects again at its next call.

    Args:
        limits: maximum numbers of connections.
    """

    def __init__(self, limits: ShareLimits, events: Events) -> None:
        self._events = events
        self._shares = Shares(lambda: limits)
        self._open: dict[str, _Connection] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._grpc: PrivateSocket | None = None
        self._in_threads = False

    def serve(self, grpc: PrivateSocket, *, in_threads: bool) -> None:
        """Relay connections to gRPC from now on.

        Args:
            in_threads: whether to identify clients in threads, because that takes milliseconds.
        """
        self._grpc = grpc
        self._in_threads = in_threads

    def peer(self, name: str) -> Peer | None:
        """Return the peer of an open connection by its name in gRPC; None if there is none."""
        connection = self._find(name)
        return None if connection is None else connection.peer

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Protect the connection of a call while the call lasts.

        Args:
            name: name of the connection in gRPC.
        """
        if (connection := self._find(name)) is None:
            yield
            return
        connection.calls += 1
        connection.share.prove()
        try:
            yield
        finally:
            connection.calls -= 1
            if not connection.calls:
                connection.share.move(connection.share.source)

    def take(self, accepted: socket.socket, name: object) -> None:
        """Serve an accepted connection, unless there are too many."""
        host = name[0] if isinstance(name, tuple) else "unix socket"

        def close() -> None:
            task.cancel()  # it has begun before the next connection is accepted

        try:
            share = self._shares.enter(source_of(host), close)
        except Overloaded as error:
            accepted.close()
            self._events.record(ConnectionRefused(peer=sockets.peer_text(name), reason=str(error)))
            return
        task = asyncio.ensure_future(self._serve(accepted, share, sockets.peer_text(name)))
        for tasks in (self._tasks, self._waiting):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def close_waiting(self) -> None:
        """Close the connections whose clients have sent nothing."""
        for task in tuple(self._waiting):
            task.cancel()

    async def close(self) -> None:
        """Close all connections, once gRPC has closed its end of them or after a short time."""
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=_UNTIL_CLOSED_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._grpc is not None:
            self._grpc.close()
            self._grpc = None

    def _find(self, name: str) -> _Connection | None:
        return self._open.get(name.removeprefix("unix-abstract:"))

    async def _serve(self, accepted: socket.socket, share: Share, text: str) -> None:
        try:
            with accepted:
                peer = await self._identify(accepted)
                share.move(_source(peer))
                first = await self._first_bytes(accepted)
                if first:
                    await self._relay(accepted, first, _Connection(peer, share))
        except Overloaded as error:
            self._events.record(ConnectionRefused(peer=text, reason=str(error)))
        except TimeoutError:
            self._events.record(ConnectionTimeout(peer=text, reason="the peer was too slow"))
        except OSError:
            pass  # the client, or gRPC, has closed the connection
        except Exception as error:  # noqa: BLE001  # other clients must still be served
            report_bug(self._events, error, doing="relay a connection")
        finally:
            if share.evicted:
                self._events.record(ConnectionRefused(peer=text, reason=share.evicted))
            share.leave()

    async def _identify(self, accepted: socket.socket) -> Peer:
        if self._in_threads:
            return await asyncio.to_thread(Peer.of, accepted)
        return Peer.of(accepted)

    async def _first_bytes(self, accepted: socket.socket) -> bytes:
        """Receive the first bytes; until then, a connection takes nothing of gRPC."""
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets.detect_dead_peer(accepted)
        async with asyncio.timeout(FIRST_BYTE_SECONDS):
            first = await asyncio.get_running_loop().sock_recv(accepted, CHUNK_BYTES)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # always true inside a coroutine
        self._waiting.discard(task)
        return first

    async def _relay(self, accepted: socket.socket, first: bytes, connection: _Connection) -> None:
        """Relay bytes until the client or gRPC closes the connection."""
        if self._grpc is None:
            return
        # No name is used twice: a call that gRPC still holds when its connection ends is never
        # attributed to another connection. Every user can read the names in use (/proc/net/unix),
        # so the next one must not follow from them: a user who binds it first would block it.
        name = f"verdictd-py-{secrets.token_hex(16)}"
        self._open[name] = connection
        try:
            with self._grpc.connect(name) as inner:
                answers = asyncio.ensure_future(_answers(inner, accepted))
                requests = asyncio.ensure_future(_requests(accepted, first, inner, answers))
                directions = (answers, requests)
                try:
                    await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for direction in directions:
                        direction.cancel()
                    results = await asyncio.gather(*directions, return_exceptions=True)
                for error in results:
                    if isinstance(error, Exception):
                        raise error
        finally:
            del self._open[name]


async def _requests(
    client: socket.socket, data: bytes, grpc: socket.socket, answers: asyncio.Task[None]
) -> None:
    """Relay what the client sends until it closes the connection."""
    loop = asyncio.get_running_loop()
    while data:
        try:
            await loop.sock_sendall(grpc, data)
        except OSError:  # gRPC has closed the connection: its last frames have the reason
            await asyncio.wait((answers,))
            return
        await asyncio.sleep(0)  # neither call waits while there are bytes and space
        data = await loop.sock_recv(client, CHUNK_BYTES)


async def _answers(grpc: socket.socket, client: socket.socket) -> None:
    """Relay what gRPC sends until it closes the connection."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionResetError):  # gRPC had not read everything
        while data := await loop.sock_recv(grpc, CHUNK_BYTES):
            async with asyncio.timeout(SEND_SECONDS):
                await loop.sock_sendall(client, data)
            await asyncio.sleep(0)  # as above


def _source(peer: Peer) -> Source:
    """Return by what the connections of a peer are counted; a trusted one has no limit."""
    if peer.unix:
        return Source("unix socket", limited=False)
    if not peer.loopback:
        return source_of(peer.host)
    if peer.uid is None:
        return Source("unknown user on loopback")
    return Source(f"uid {peer.uid}", limited=not peer.trusted)
