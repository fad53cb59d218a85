"""Connections of a gRPC listener, which the broker accepts itself and relays to gRPC.

gRPC for Python accepts connections until a limit, then closes each new one, and identifies no
client before its first call. Clients that connect and make no call would lock out all others
(ADR 18).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from verdictd_py.domain import correlation
from verdictd_py.domain.correlation import Correlation
from verdictd_py.domain.events import ConnectionRefused, ConnectionTimeout
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import Overloaded
from verdictd_py.listeners import sockets
from verdictd_py.listeners.callers import Peer
from verdictd_py.listeners.deadlines import Deadlines
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.grpc_relay import CHUNK_BYTES, Relay
from verdictd_py.listeners.private_socket import PrivateSocket
from verdictd_py.listeners.shares import Proof, Share, ShareLimits, Shares, Source, source_of
from verdictd_py.ports import Events
from verdictd_py.stages import Meter, begin, end, of_call

DESCRIPTORS: Final = 3
"""File descriptors of a connection: that of the client, and two between the relay and gRPC."""

FIRST_BYTE_SECONDS: Final = 10.0
"""Time limit for the first byte of a client. gRPC limits the rest of the handshake."""

_UNTIL_CLOSED_SECONDS: Final = 0.5
"""Time for clients to take what gRPC sent before it stopped."""


class GrpcConnections:
    """Open connections of a gRPC listener.

    The connections of a user on loopback, or of an address elsewhere, have a share. If there are
    too many, the oldest one without a call in progress is closed (`listeners.shares`); its client
    connects again at its next call.

    Args:
        limits: maximum numbers of connections.

        listener: name of the listener.
        meter: measures connections; None if nothing is measured.

    Attributes:
        shares: the connections by source.
        first_bytes: time limits for the first bytes of clients.
    """

    def __init__(
        self, limits: ShareLimits, events: Events, *, listener: str, meter: Meter | None = None
    ) -> None:
        self._listener = listener
        self._meter = meter
        self._events = events
        self.shares = Shares(lambda: limits)
        self._open: dict[str, _Connection] = {}
        self._idle: OrderedDict[_Connection, None] = OrderedDict()  # protected, without calls
        self._waiting: set[_Connection] = set()
        self._taken: set[_Connection] = set()
        self._grpc: PrivateSocket | None = None
        self._in_threads = False
        self._closed: asyncio.Future[None] | None = None
        self.first_bytes = Deadlines(FIRST_BYTE_SECONDS)

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

    def correlate(self, name: str) -> None:
        """Set the correlation of the current task, which handles a call on a connection.

        Calls at the same time have objects of their own, because each measures its stages.
        """
        connection = self._find(name)
        if connection is not None:
            correlation.enter(of_call(connection.correlation))

    def begin_call(self, name: str) -> Callable[[], None]:
        """Protect the connection of a call until the returned function is called.

        Args:
            name: name of the connection in gRPC.
        """
        connection = self._find(name)
        if connection is None:  # it is closed already
            return _do_nothing
        self._idle.pop(connection, None)
        if not connection.begin_call():
            self.expose_idle()  # they may take the places of connections that have calls
            connection.prove()
        return connection.end_call

    def end_last_call(self, connection: _Connection) -> None:
        """Note that a connection has no call in progress."""
        self._idle[connection] = None

    def expose_idle(self) -> None:
        """Protect connections without calls no longer; done before one may have to be closed.

        Clients with one call after the other would otherwise be counted again at each of them.
        """
        while self._idle:
            connection, _ = self._idle.popitem(last=False)
            connection.expose()

    def take(self, accepted: socket.socket, name: object) -> None:
        """Serve an accepted connection, unless there are too many."""
        text = sockets.peer_text(name)
        begun = begin(self._listener, self._meter)
        connection = _Connection(self, accepted, text, begun)
        host = name[0] if isinstance(name, tuple) else "unix socket"
        self.expose_idle()
        try:
            connection.share = self.shares.enter(source_of(host), connection.end)
        except Overloaded as error:
            accepted.close()
            self._events.record(ConnectionRefused(peer=text, reason=str(error), limit=error.limit))
            return
        self._taken.add(connection)
        self._waiting.add(connection)
        connection.start(in_thread=self._in_threads)

    def close_waiting(self) -> None:
        """Close the connections whose clients have sent nothing."""
        for connection in tuple(self._waiting):
            connection.end()

    async def close(self) -> None:
        """Close all connections, once gRPC has closed its end of them or after a short time."""
        if self._taken:
            self._closed = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._closed,), timeout=_UNTIL_CLOSED_SECONDS)
            for connection in tuple(self._taken):
                connection.end()
        self.first_bytes.close()
        if self._grpc is not None:
            self._grpc.close()
            self._grpc = None

    def connect(self, connection: _Connection) -> tuple[str, socket.socket]:
        """Return a connection to gRPC for an accepted one, and its name in gRPC.

        Raises:
            OSError: gRPC does not accept it, or serves no more.
        """
        if self._grpc is None:
            raise ConnectionAbortedError
        # No name is used twice: a call that gRPC still holds when its connection ends is never
        # attributed to another connection. Every user can read the names in use (/proc/net/unix),
        # so the next one must not follow from them: a user who binds it first would block it.
        name = f"verdictd-py-{secrets.token_hex(16)}"
        inner = self._grpc.connect(name)
        self._waiting.discard(connection)
        self._open[name] = connection
        return name, inner

    def remove(self, connection: _Connection, name: str) -> None:
        """Forget an ended connection."""
        self._open.pop(name, None)
        self._idle.pop(connection, None)
        self._waiting.discard(connection)
        self._taken.discard(connection)
        if not self._taken and self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def record(self, event: Event) -> None:
        self._events.record(event)

    def report_bug(self, error: Exception) -> None:
        report_bug(self._events, error, doing="relay a connection")

    def _find(self, name: str) -> _Connection | None:
        return self._open.get(name.removeprefix("unix-abstract:"))


class _Connection:
    """An accepted connection: it is identified, sends its first bytes, and is then relayed.

    It consists of callbacks of the event loop, as its relay does.

    Args:
        text: address of the client, for events.

    Attributes:
        correlation: what its events and calls have in common.
        peer: its client, once it is identified.
        share: its share.
    """

    __slots__ = (
        "_accepted",
        "_calls",
        "_connections",
        "_ended",
        "_inner",
        "_loop",
        "_name",
        "_relay",
        "_text",
        "correlation",
        "peer",
        "share",
    )

    share: Share

    def __init__(
        self,
        connections: GrpcConnections,
        accepted: socket.socket,
        text: str,
        begun: Correlation,
    ) -> None:
        self.correlation = begun
        self._connections = connections
        self._accepted = accepted
        self._text = text
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._ended = False
        self._name = ""
        self._inner: socket.socket | None = None
        self._relay: Relay | None = None
        self.peer: Peer | None = None

    def start(self, *, in_thread: bool) -> None:
        """Identify the client, and wait for its first bytes."""
        if in_thread:
            identifying = self._loop.run_in_executor(None, Peer.of, self._accepted)
            identifying.add_done_callback(self._identify)
            return
        try:
            peer = Peer.of(self._accepted)
        except Exception as error:  # noqa: BLE001  # `end` reports it
            self.end(error)
        else:
            self._wait(peer)

    def begin_call(self) -> bool:
        """Protect the connection while it has calls; return whether that was possible."""
        self._calls += 1
        return self.prove()

    def end_call(self) -> None:
        self._calls -= 1
        if not self._calls and not self._ended:
            self._connections.end_last_call(self)

    def prove(self) -> bool:
        """Protect the connection, unless too many are; return whether it is protected."""
        self.share.prove()
        return self.share.proof is not Proof.NONE

    def expose(self) -> None:
        """Protect the connection no longer."""
        self.share.move(self.share.source)

    def end(self, error: Exception | None = None) -> None:
        """Close the connection, and record why.

        Args:
            error: cause; None if a side closed it, or it was closed for another one.
        """
        if self._ended:
            return
        self._ended = True
        if self._relay is not None:
            self._relay.stop()
        else:
            self._connections.first_bytes.stop(self)
            self._loop.remove_reader(self._accepted.fileno())
        if self._inner is not None:
            self._inner.close()
        self._accepted.close()
        self._connections.remove(self, self._name)
        self._record(error)
        end(self.correlation)
        self.share.leave()

    def _identify(self, identifying: asyncio.Future[Peer]) -> None:
        """Continue with the result of another thread."""
        if identifying.cancelled():
            self.end()
            return
        error = identifying.exception()
        if error is not None:
            self.end(error if isinstance(error, Exception) else None)
        elif not self._ended:
            self._wait(identifying.result())

    def _wait(self, peer: Peer) -> None:
        """Wait for the first bytes; until then, a connection takes nothing of gRPC."""
        self.peer = peer
        self._connections.expose_idle()
        try:
            self.share.move(_source(peer))
        except Overloaded as error:
            self.end(error)
            return
        if self._ended:  # closed for another one
            return
        self._receive_first()  # a client of gRPC sends at once: no round of the event loop
        if self._relay is None and not self._ended:
            self._loop.add_reader(self._accepted.fileno(), self._receive_first)
            self._connections.first_bytes.start(self, self._expire)

    def _expire(self) -> None:
        self.end(TimeoutError())

    def _receive_first(self) -> None:
        """Receive the first bytes, and relay from now on."""
        try:
            first = self._accepted.recv(CHUNK_BYTES)
            if first:
                self._begin_relay(first)
            else:
                self.end()
        except (BlockingIOError, InterruptedError):
            return
        except Exception as error:  # noqa: BLE001  # `end` reports it
            self.end(error)

    def _begin_relay(self, first: bytes) -> None:
        self._connections.first_bytes.stop(self)
        self._name, self._inner = self._connections.connect(self)
        self._relay = Relay(self._accepted, self._inner, self.end, self._loop)
        self._relay.start(first)

    def _record(self, error: Exception | None) -> None:
        if self.share.evicted:
            self._refused(self.share.evicted, self.share.limit)
        if isinstance(error, Overloaded):
            self._refused(str(error), error.limit)
        elif isinstance(error, TimeoutError):
            event = ConnectionTimeout(peer=self._text, reason="the peer was too slow")
            self._connections.record(event)
        elif error is not None and not isinstance(error, OSError):
            self._connections.report_bug(error)

    def _refused(self, reason: str, limit: str) -> None:
        event = ConnectionRefused(peer=self._text, reason=reason, limit=limit)
        self._connections.record(event)


def _do_nothing() -> None:
    pass


def _source(peer: Peer) -> Source:
    """Return by what the connections of a peer are counted; a trusted one has no limit."""
    if peer.unix:
        return Source("unix socket", limited=False)
    if not peer.loopback:
        return source_of(peer.host)
    if peer.uid is None:
        return Source("unknown user on loopback")
    return Source(f"uid {peer.uid}", limited=not peer.trusted)
