"""Header of the PROXY protocol, version 2: the address of a proxy's client, before its bytes.

Source: HAProxy's doc/proxy-protocol.txt, section 2.2. Version 1, which is text, is refused: its
end must be searched for, and every proxy that is in use can send version 2.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from verdictd_py.errors import RequestError

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
VERSION_1: Final = b"PROXY "

FIXED_BYTES: Final = 16
"""Size of the part of a header that gives the size of the rest."""

MAX_REST_BYTES: Final = 4096
"""Largest rest of a header. Addresses take 12 or 36 bytes; load balancers add their own fields,
such as the name of a server or an endpoint, of some hundred bytes."""

_VERSION: Final = 0x20
_LOCAL, _PROXY = 0x0, 0x1
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_BYTES: Final = {_TCP4: 4, _TCP6: 16}


class ProxyHeaderInvalid(RequestError):
    """A proxy sent no usable header."""

    code = "proxy-header"


@dataclass(frozen=True, slots=True)
class FixedPart:
    """The first 16 bytes of a header.

    Attributes:
        local: whether the connection is the proxy's own, such as a health check.
        transport: address family and transport of the client.
        rest: number of bytes that follow.
    """

    local: bool
    transport: int
    rest: int


def parse_fixed(data: bytes) -> FixedPart:
    """Parse the first 16 bytes of a connection of a proxy.

    Raises:
        ProxyHeaderInvalid: they are not the beginning of a header of version 2.
    """
    if data.startswith(VERSION_1):
        raise ProxyHeaderInvalid(
            "the proxy sent version 1 of the PROXY protocol; configure it to send version 2 "
            "(send-proxy-v2 in HAProxy)"
        )
    if len(data) != FIXED_BYTES or not data.startswith(SIGNATURE):
        raise ProxyHeaderInvalid(
            "the proxy sent no header of the PROXY protocol; configure it to send version 2, or "
            "remove its address from --proxy-protocol-from"
        )
    version, command = data[12] & 0xF0, data[12] & 0x0F
    rest = int.from_bytes(data[14:16], "big")
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise ProxyHeaderInvalid("the header of the PROXY protocol has another version or command")
    if rest > MAX_REST_BYTES:
        raise ProxyHeaderInvalid(
            f"the header of the PROXY protocol has more than {MAX_REST_BYTES} bytes; configure the "
            "proxy to send fewer fields"
        )
    return FixedPart(command == _LOCAL, data[13], rest)


def parse_client(fixed: FixedPart, rest: bytes) -> tuple[str, int] | None:
    """Return address and port of the client; None for a connection of the proxy's own.

    The fields after the addresses are ignored, as the source allows.

    Raises:
        ProxyHeaderInvalid: the client has no TCP address, or the header is too short for it.
    """
    if fixed.local:
        return None
    size = _ADDRESS_BYTES.get(fixed.transport)
    if size is None or len(rest) < 2 * size + 4:
        raise ProxyHeaderInvalid(
            "the header of the PROXY protocol has no client's TCP address; configure the proxy to "
            "accept TCP over IPv4 or IPv6"
        )
    port = int.from_bytes(rest[2 * size : 2 * size + 2], "big")
    return str(ipaddress.ip_address(rest[:size])), port
