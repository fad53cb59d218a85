"""Origin of a connection: its peer, or the client for which a named proxy has opened it.

Only proxies that the operator names are believed. A header of the PROXY protocol from any other
peer is refused; `X-Forwarded-For` from any other peer is ignored.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from verdictd_py.config import Network
from verdictd_py.errors import RequestError
from verdictd_py.formats import proxyheader
from verdictd_py.formats.proxyheader import ProxyHeaderInvalid
from verdictd_py.listeners.shares import Source, source_of
from verdictd_py.listeners.sockets import peer_text

_SOURCES: Final = 4096  # maximum number of addresses whose source is cached
MAX_HOPS: Final = 32
"""Maximum number of addresses of `X-Forwarded-For` that are read, from the right."""


class ForwardedForInvalid(RequestError):
    """A named proxy sent `X-Forwarded-For` without a usable address."""

    code = "forwarded-for"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection or a request comes from.

    Attributes:
        text: address for log and audit; `host:port`, or `host` if a proxy named no port.
        host: the address alone, empty if there is none.
        source: what its connections are counted under.
    """

    text: str
    host: str
    source: Source


@dataclass(frozen=True, slots=True)
class Proxies:
    """Networks of the proxies that the operator names.

    Attributes:
        proxy_protocol: proxies that begin each connection with a header of the PROXY protocol.
        forwarded_for: HTTP proxies that add to `X-Forwarded-For`. They send no other header, also
            if they are in `proxy_protocol`, which may name a whole network of proxies.
    """

    proxy_protocol: tuple[Network, ...] = ()
    forwarded_for: tuple[Network, ...] = ()

    def peer(self, name: object) -> Origin:
        """Return the origin of a connection as its socket gives it."""
        host = str(name[0]) if isinstance(name, tuple) else ""
        named = _is_in(host, self.proxy_protocol) or _is_in(host, self.forwarded_for)
        return Origin(peer_text(name), host, _source(host, limited=not named))

    async def identify(self, accepted: socket.socket, peer: Origin) -> Origin:
        """Wait for the first byte of a connection; return its origin.

        No byte is taken from the socket except a proxy's header. The caller sets a time limit.

        Raises:
            ProxyHeaderInvalid: a named proxy sent no header, or another peer sent one.
            OSError: the connection failed.
        """
        if self.sends_header(peer):
            client = await _header(accepted)
            await peek(accepted, 1)
            return peer if client is None else self._client(*client)
        self.require_no_header(await peek(accepted, proxyheader.FIXED_BYTES))
        return peer

    def sends_header(self, peer: Origin) -> bool:
        """Return whether a peer is a proxy whose connections begin with a header."""
        return _is_in(peer.host, self.proxy_protocol) and not _is_in(peer.host, self.forwarded_for)

    @staticmethod
    def require_no_header(beginning: bytes) -> None:
        """Require that a peer that is not a named proxy sent no header.

        Args:
            beginning: its first bytes.

        Raises:
            ProxyHeaderInvalid: it sent one.
        """
        if beginning.startswith((proxyheader.SIGNATURE, proxyheader.VERSION_1)):
            raise ProxyHeaderInvalid(
                "the peer sent a header of the PROXY protocol and is not a named proxy; give "
                "--proxy-protocol-from its address if it is one"
            )

    def forwarded(self, peer: Origin, fields: Sequence[str]) -> Origin:
        """Return the origin of a request.

        It is the right-most address in `X-Forwarded-For` that is not a named proxy's: further to
        the left, a client can write what it wants.

        Args:
            fields: values of all `X-Forwarded-For` headers of the request, in order.

        Raises:
            ForwardedForInvalid: an address that a named proxy added cannot be read.
        """
        if not fields or not _is_in(peer.host, self.forwarded_for):
            return peer
        hops = ",".join(fields).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        host = peer.host
        for hop in reversed(hops):
            host = _address(hop)
            if not _is_in(host, self.forwarded_for):
                break
        return Origin(host, host, source_of(host))

    def _client(self, host: str, port: int) -> Origin:
        return Origin(peer_text((host, port)), host, source_of(host))


@lru_cache(maxsize=_SOURCES)
def _source(host: str, *, limited: bool) -> Source:
    return source_of(host, limited=limited)


async def peek(accepted: socket.socket, size: int) -> bytes:
    """Wait for bytes, and return some of them without taking them; empty if the peer closed.

    Raises:
        OSError: the connection failed.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return accepted.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(accepted, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(accepted)


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


async def _header(accepted: socket.socket) -> tuple[str, int] | None:
    """Take a header from the socket, and no byte after it; return the client in it.

    A proxy that closes the connection before its first byte checks only whether it can connect.
    """
    if not await peek(accepted, 1):
        return None
    fixed = proxyheader.parse_fixed(await _exactly(accepted, proxyheader.FIXED_BYTES))
    return proxyheader.parse_client(fixed, await _exactly(accepted, fixed.rest))


async def _exactly(accepted: socket.socket, size: int) -> bytes:
    """Take `size` bytes from the socket, or fewer if the peer closes."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size and (more := await loop.sock_recv(accepted, size - len(data))):
        data += more
    return data


def _address(text: str) -> str:
    """Return the address in one entry of `X-Forwarded-For`, which may have a port."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ForwardedForInvalid(
            "X-Forwarded-For of a named proxy has an entry that is not an address; configure the "
            "proxy to add the address of its client"
        ) from None


def _is_in(host: str, networks: tuple[Network, ...]) -> bool:
    if not networks:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
