"""Accept loop of the listeners of guests, which pauses when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextvars import copy_context
from typing import Final

from verdictd_py.domain.events import ConnectionRefused
from verdictd_py.listeners.errors import report_bug
from verdictd_py.ports import Events

BACKLOG: Final = 1024

PAUSE_SECONDS: Final = 1.0
"""Pause after a connection could not be accepted, for example for lack of descriptors."""

OPENING_SECONDS: Final = 1.0
"""Time in which a drain lets connections that were just accepted complete their handshake. With a
socket that outlives the process, their clients would otherwise be the only ones that notice."""

_UNUSABLE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Errors of accept(2) that mean that the socket can no longer be used, so no retry helps."""


Take = Callable[[socket.socket, object], None]
"""Starts to serve a connection; it gets the socket and the name of the peer."""


async def accept(listening: socket.socket, take: Take, events: Events) -> None:
    """Accept connections on a bound socket until cancelled.

    The socket is registered in the event loop once. Each round of the loop accepts one connection,
    so that a flood of connections does not delay those that were accepted before. (asyncio's own
    server calls accept(2) 1,024 times a round, and reports each failure.)

    Raises:
        OSError: the socket can no longer be used.
    """
    listening.setblocking(False)
    listening.listen(BACKLOG)
    acceptor = _Acceptor(listening, take, events)
    acceptor.resume()
    try:
        await acceptor.failed
    finally:
        acceptor.pause()


class _Acceptor:
    """Callbacks of the event loop for one listening socket.

    Attributes:
        failed: has the error for which the socket can no longer be used.
    """

    def __init__(self, listening: socket.socket, take: Take, events: Events) -> None:
        self._listening = listening
        self._take = take
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def resume(self) -> None:
        """Accept connections from now on."""
        self._loop.add_reader(self._listening, self._accept)

    def pause(self) -> None:
        """Accept no connection until `resume`."""
        self._loop.remove_reader(self._listening)
        if self._timer is not None:
            self._timer.cancel()

    def _accept(self) -> None:
        try:
            accepted, name = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # the client closed it before, or another process has accepted it
        except OSError as error:
            self.pause()
            if error.errno in _UNUSABLE:
                self.failed.set_exception(error)
                return
            self._events.record(
                ConnectionRefused(reason=f"cannot accept: {error.strerror}", limit="descriptors")
            )
            self._timer = self._loop.call_later(PAUSE_SECONDS, self.resume)
            return
        accepted.setblocking(False)
        try:
            copy_context().run(self._take, accepted, name)  # each has a correlation of its own
        except Exception as error:  # noqa: BLE001  # other clients must still be served
            accepted.close()
            report_bug(self._events, error, doing="accept a connection")
