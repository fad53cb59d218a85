"""Accept loop of the listeners of guests, which pauses when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
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


async def accept(
    listening: socket.socket, take: Callable[[socket.socket, object], None], events: Events
) -> None:
    """Accept connections on a bound socket until cancelled.

    asyncio's own server calls accept(2) 1,024 times a round, and reports each failure.

    Args:
        take: starts to serve a connection; it gets the socket and the name of the peer.

    Raises:
        OSError: the socket can no longer be used.
    """
    listening.setblocking(False)
    listening.listen(BACKLOG)
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, name = await loop.sock_accept(listening)
        except OSError as error:
            if error.errno in _UNUSABLE:
                raise
            if error.errno != errno.ECONNABORTED:  # the client closed it before
                events.record(ConnectionRefused(reason=f"cannot accept: {error.strerror}"))
                await asyncio.sleep(PAUSE_SECONDS)
            continue
        try:
            take(accepted, name)
        except Exception as error:  # noqa: BLE001  # other clients must still be served
            accepted.close()
            report_bug(events, error, doing="accept a connection")
        await asyncio.sleep(0)  # a flood of connections must not delay those accepted before
