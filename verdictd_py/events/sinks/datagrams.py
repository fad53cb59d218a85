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
import time
from collections.abc import Callable, Sequence
from typing import Final

SECONDS: Final = 5.0
"""Time limit for the receiver to take a datagram, so that there is space for the next one."""

_AT_ONCE: Final = 64
"""Datagrams of one system call."""

_DRAIN_SECONDS: Final = 0.002

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
        self._vector = _Vector()

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
        was_full = False
        while at < len(datagrams):
            wanted = min(len(datagrams) - at, _AT_ONCE)
            sent = self._vector.send(to.fileno(), datagrams[at : at + wanted])
            number = 0 if sent >= 0 else ctypes.get_errno()
            at += max(sent, 0)
            if number in self._too_large:
                lost += self._is_lost(to, datagrams[at])
                at += 1
            elif number not in (0, errno.EAGAIN, errno.EINTR):
                raise OSError(number, os.strerror(number))
            is_full = number == errno.EAGAIN or 0 < sent < wanted
            if is_full:
                _await_room(to, is_slow=was_full and sent <= 0)
            was_full = is_full
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


def _await_room(to: socket.socket, *, is_slow: bool) -> None:
    """Wait for a moment in which the receiver usually takes some datagrams, or until it takes one.

    A queue has 10 datagrams by default. Who waits until there is room sends one at a time.

    Raises:
        TimeoutError: the receiver takes none.
    """
    if not is_slow:
        time.sleep(_DRAIN_SECONDS)
        return
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


class _Vector:
    """Messages of one call, which are used again: to make them takes longer than the call."""

    def __init__(self) -> None:
        self._buffers = (_Buffer * _AT_ONCE)()
        self._messages = (_Message * _AT_ONCE)()
        for message, buffer in zip(self._messages, self._buffers, strict=True):
            message.header.buffers = ctypes.pointer(buffer)
            message.header.buffers_length = 1

    def send(self, descriptor: int, datagrams: Sequence[bytes]) -> int:
        """Send datagrams, at most `_AT_ONCE`; return how many were sent, or -1 (see errno)."""
        for buffer, datagram in zip(self._buffers, datagrams, strict=False):
            buffer.base, buffer.length = datagram, len(datagram)
        sent: int = _LIBC.sendmmsg(descriptor, self._messages, len(datagrams), _FLAGS)
        return sent


_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
