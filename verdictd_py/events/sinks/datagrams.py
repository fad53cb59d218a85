"""Datagrams to a unix socket, many with one system call.

Each system call of Python gives the interpreter lock away, and a thread that wants it back while
the event loop works costs more than the datagram. sendmmsg(2) sends a batch at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final

SECONDS: Final = 5.0
"""Time limit for the receiver to make room for the next datagram."""

_AT_ONCE: Final = 64
"""Datagrams of one system call."""

_Large = Callable[[socket.socket, bytes], None]


class Datagrams:
    """Sender to the unix socket with a name, which is connected when it is first needed.

    Args:
        large: sends what the kernel refuses because of its size, through the given socket; None
            if there is no other way.
    """

    def __init__(self, path: str, large: _Large | None = None) -> None:
        self._path = path
        self._large = large
        self._too_large = {errno.EMSGSIZE} if large is None else {errno.EMSGSIZE, errno.ENOBUFS}
        self._socket: socket.socket | None = None

    def send(self, datagrams: Sequence[bytes]) -> int:
        """Send datagrams in their order; return how many are too large.

        Raises:
            OSError: the receiver cannot be reached, or makes no room in time; a part may be sent.
        """
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.connect(self._path)
            return self._send(self._socket, datagrams)
        except OSError:
            self.close()
            raise

    def _send(self, to: socket.socket, datagrams: Sequence[bytes]) -> int:
        at = lost = 0
        while at < len(datagrams):
            sent = _LIBC.sendmmsg(to.fileno(), *_vector(datagrams[at : at + _AT_ONCE]), _FLAGS)
            number = 0 if sent >= 0 else ctypes.get_errno()
            if sent >= 0:
                at += sent
            elif number in self._too_large:
                lost += self._is_lost(to, datagrams[at])
                at += 1
            elif number == errno.EAGAIN:
                _await_room(to)
            elif number != errno.EINTR:
                raise OSError(number, os.strerror(number))
        return lost

    def _is_lost(self, to: socket.socket, datagram: bytes) -> bool:
        """Send a datagram that is too large in the other way; return whether there is none."""
        if self._large is not None:
            self._large(to, datagram)
        return self._large is None

    def close(self) -> None:
        """Close the socket; the next datagram connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _await_room(to: socket.socket) -> None:
    """Wait until the receiver has taken something.

    Raises:
        TimeoutError: it does not.
    """
    poll = select.poll()
    poll.register(to, select.POLLOUT)
    if not poll.poll(1000 * SECONDS):
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


class _Buffer(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffers_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


def _vector(datagrams: Sequence[bytes]) -> tuple[ctypes.Array[_Message], int]:
    """Return the messages of a call, and their number."""
    buffers = (_Buffer * len(datagrams))(*((each, len(each)) for each in datagrams))
    messages = (_Message * len(datagrams))(
        *(((None, 0, ctypes.pointer(buffer), 1),) for buffer in buffers)
    )
    return messages, len(datagrams)


_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
