"""Kind of a server, by the first bytes that it sends."""

from __future__ import annotations

from enum import StrEnum

ANSWER_BYTES = 64
"""First bytes of an answer that decide about its kind."""


class Greeting(StrEnum):
    """What a server's first bytes are, as a sentence names the server."""

    HTTP = "an HTTP server"
    HTTP2 = "a gRPC server"
    TLS = "a TLS server"
    SSH = "an SSH server"
    MAIL = "a mail or FTP server"
    REDIS = "a Redis server"
    OTHER = "a server of an unknown protocol"


_BEGINNINGS = (
    (b"HTTP/", Greeting.HTTP),
    (b"<!DOCTYPE", Greeting.HTTP),
    (b"<html", Greeting.HTTP),
    (b"SSH-", Greeting.SSH),
    (b"220 ", Greeting.MAIL),
    (b"220-", Greeting.MAIL),
    (b"-ERR", Greeting.REDIS),
    (b"-DENIED", Greeting.REDIS),
)
_ALERT, _HANDSHAKE = 0x15, 0x16  # RFC 8446, 5.1
_SETTINGS = 4  # RFC 9113, 6.5


def greeting_of(first: bytes) -> Greeting:
    """Return what the first bytes of a server are, whatever was sent to it."""
    for beginning, greeting in _BEGINNINGS:
        if first.startswith(beginning):
            return greeting
    if len(first) >= 3 and first[0] in (_ALERT, _HANDSHAKE) and first[1] == 3:
        return Greeting.TLS
    if _is_settings(first):
        return Greeting.HTTP2
    return Greeting.OTHER


def _is_settings(first: bytes) -> bool:
    """Return whether this is a SETTINGS frame, with which each HTTP/2 server begins."""
    if len(first) < 9:
        return False
    size, stream = int.from_bytes(first[:3], "big"), int.from_bytes(first[5:9], "big")
    return first[3] == _SETTINGS and size % 6 == 0 and stream == 0
