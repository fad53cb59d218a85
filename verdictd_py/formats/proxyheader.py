"""Header of the PROXY protocol, version 2: the address of a proxy's client, before its bytes.

Source: HAProxy's doc/proxy-protocol.txt, section 2.2. Version 1, which is text, is refused: its
end must be searched for, and every proxy that is in use can send version 2.

A header may have a checksum, a field of the type PP2_TYPE_CRC32C (section 2.2.4). A receiver that
supports it must abort a connection whose checksum is wrong. It detects damage, and no forgery.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
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

_FIELD_HEAD_BYTES: Final = 3  # type, and size in two bytes
_CRC32C: Final = 0x03
_CRC32C_BYTES: Final = 4
_CASTAGNOLI: Final = 0x82F63B78
"""Polynomial of CRC32C, with the lowest bit first (RFC 4960, appendix B)."""


class ProxyHeaderInvalid(RequestError):
    """A proxy sent no usable header."""

    code = "proxy-header"


@dataclass(frozen=True, slots=True)
class FixedPart:
    """The first 16 bytes of a header.

    Attributes:
        data: the bytes themselves, which the checksum covers.
        local: whether the connection is the proxy's own, such as a health check.
        transport: address family and transport of the client.
        rest: number of bytes that follow.
    """

    data: bytes
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
    return FixedPart(data, command == _LOCAL, data[13], rest)


def parse_client(fixed: FixedPart, rest: bytes) -> tuple[str, int] | None:
    """Return address and port of the client; None for a connection of the proxy's own.

    Of the fields after the addresses, only the checksum is read. The source lets a receiver ignore
    the others, and the whole rest of a header of the proxy's own.

    Raises:
        ProxyHeaderInvalid: the client has no TCP address, the header is too short for it, its
            fields cannot be read, or its checksum is wrong.
    """
    if fixed.local:
        return None
    size = _ADDRESS_BYTES.get(fixed.transport)
    if size is None or len(rest) < 2 * size + 4:
        raise ProxyHeaderInvalid(
            "the header of the PROXY protocol has no client's TCP address; configure the proxy to "
            "accept TCP over IPv4 or IPv6"
        )
    _require_checksum(fixed.data + rest, FIXED_BYTES + 2 * size + 4)
    port = int.from_bytes(rest[2 * size : 2 * size + 2], "big")
    return str(ipaddress.ip_address(rest[:size])), port


def _require_checksum(header: bytes, fields: int) -> None:
    """Verify the checksum of a header, if it has one.

    Args:
        header: the whole header.
        fields: offset of the first field after the addresses.

    Raises:
        ProxyHeaderInvalid: the fields cannot be read, or the checksum is wrong.
    """
    checksums = [start for kind, start, size in _fields(header, fields) if _is_checksum(kind, size)]
    if not checksums:
        return
    if len(checksums) > 1:
        raise ProxyHeaderInvalid("the header of the PROXY protocol has more than one checksum")
    (start,) = checksums
    end = start + _CRC32C_BYTES
    zeroed = header[:start] + bytes(_CRC32C_BYTES) + header[end:]
    if crc32c(zeroed) != int.from_bytes(header[start:end], "big"):
        raise ProxyHeaderInvalid(
            "the checksum of the PROXY protocol's header is wrong: the header was damaged on its "
            "way; check the proxy, and the network between the proxy and this host"
        )


def _fields(header: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, offset and size of each field after the addresses.

    As in HAProxy, fewer bytes at the end than a field has are ignored.
    """
    while start + _FIELD_HEAD_BYTES <= len(header):
        size = int.from_bytes(header[start + 1 : start + _FIELD_HEAD_BYTES], "big")
        content = start + _FIELD_HEAD_BYTES
        if content + size > len(header):
            raise ProxyHeaderInvalid(
                "a field of the PROXY protocol's header is longer than the header"
            )
        yield header[start], content, size
        start = content + size


def _is_checksum(kind: int, size: int) -> bool:
    if kind == _CRC32C and size != _CRC32C_BYTES:
        raise ProxyHeaderInvalid(
            f"the checksum of the PROXY protocol's header has {size} bytes instead of "
            f"{_CRC32C_BYTES}"
        )
    return kind == _CRC32C


def crc32c(data: bytes) -> int:
    """Return the CRC32C of `data` (RFC 4960, appendix B), as an unsigned number of 32 bits."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_TABLE: Final = tuple(map(_remainder, range(256)))
