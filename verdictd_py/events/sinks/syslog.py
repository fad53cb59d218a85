"""Sink for syslog: a unix socket, TCP or TLS.

Sources: RFC 5424 (messages), RFC 6587, 3.4.1 (octet counting over TCP), RFC 5425 (TLS).
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from verdictd_py.events.sinks.datagrams import Datagrams
from verdictd_py.events.sinks.journald import member_of, severity_of

SECONDS: Final = 5.0
"""Time limit for a connection, and for each write."""

END_SECONDS: Final = 1.0
"""Time limit for the server to confirm the end of a connection."""

TLS_PORT: Final = 6514
TCP_PORT: Final = 601

_AUDIT_FACILITY: Final = 13
_MAX_NAME: Final = 32  # MSGID
_MAX_HOST: Final = 255
_MAX_TIME: Final = 64
_EVENTS: Final = 256
"""Events whose headers are kept; a plug-in may have some of its own."""


def messages(lines: Sequence[bytes]) -> list[bytes]:
    """Return the message of each record: its time and event in the header, the line as the text."""
    host = _word(socket.gethostname(), _MAX_HOST)
    program = f"{host} verdictd-py {os.getpid()}"
    result = []
    for line in lines:
        event = member_of(line, "event")
        priority, name = _header_of(event)
        time = _word(member_of(line, "time"), _MAX_TIME)
        result.append(f"<{priority}>1 {time} {program} {name} - ".encode() + line)
    return result


@lru_cache(maxsize=_EVENTS)
def _header_of(event: str) -> tuple[int, str]:
    """Return priority and MSGID of the records of an event."""
    name = _word(event, _MAX_NAME)
    return _AUDIT_FACILITY * 8 + severity_of(name), name


def _word(text: str, limit: int) -> str:
    """Return printable ASCII without spaces; `-` for nothing."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        text = "".join(c for c in text if "!" <= c <= "~")
    return text[:limit] or "-"


class UnixSyslog:
    """Sends datagrams to a unix socket such as `/dev/log`."""

    def __init__(self, path: Path) -> None:
        self._datagrams = Datagrams(str(path))

    def send(self, lines: Sequence[bytes]) -> int:
        return self._datagrams.send(messages(lines))

    def close(self) -> None:
        self._datagrams.close()


class StreamSyslog:
    """Sends messages over TCP or TLS, each after its length.

    Args:
        connect: opens a connection.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None

    def send(self, lines: Sequence[bytes]) -> int:
        data = b"".join(b"%d %b" % (len(text), text) for text in messages(lines))
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.sendall(data)
        except OSError:
            self.close()
            raise
        return 0

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                _end(self._socket)
            self._socket.close()
            self._socket = None


def _end(connection: socket.socket) -> None:
    """End a connection so that the server gets all that was sent.

    If data of the server were unread, such as TLS session tickets, the kernel would reset the
    connection, and the server could lose what it has not read yet.
    """
    connection.settimeout(END_SECONDS)
    if isinstance(connection, ssl.SSLSocket):
        connection = connection.unwrap()
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        pass


def over_tcp(host: str, port: int) -> Callable[[], socket.socket]:
    """Return a function that connects to a server."""
    return lambda: socket.create_connection((host, port), SECONDS)


def over_tls(host: str, port: int, context: ssl.SSLContext) -> Callable[[], socket.socket]:
    """Return a function that connects to a server, and verifies its certificate."""

    def connect() -> socket.socket:
        plain = socket.create_connection((host, port), SECONDS)
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except OSError:
            plain.close()
            raise

    return connect
