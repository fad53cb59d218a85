"""Binding of sockets, with failures that name the remedy; addresses as text."""

from __future__ import annotations

import errno
import socket
from typing import Final

from verdictd_py.config import Address
from verdictd_py.errors import ConfigError

PROBE_AFTER_SECONDS: Final = 60
PROBE_INTERVAL_SECONDS: Final = 15
PROBES: Final = 8
"""An accepted guest that has vanished is noticed after 3 minutes (tcp(7), "TCP_KEEPIDLE")."""

_REMEDIES: Final = {
    errno.EADDRINUSE: "the address is in use; stop the program that listens there, "
    "or choose another {option}",
    errno.EADDRNOTAVAIL: "this host has no such address; choose another {option}",
    errno.EACCES: "not permitted; choose a port above 1023 for {option}",
    errno.EAFNOSUPPORT: "this host has no IPv6; choose an IPv4 address for {option}",
}


def bind(address: Address, *, option: str) -> socket.socket:
    """Bind a TCP socket. One bound to `[::]` accepts IPv4 too.

    Args:
        option: the command line option that gave the address, for the message.

    Raises:
        ConfigError: it cannot be bound; the message has the cause and the remedy.
    """
    try:
        resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {address}: {address.host!r} cannot be resolved; correct {option}"
        ) from error
    family, kind, protocol, _, socket_address = resolved[0]
    try:
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise explain_bind_failure(str(address), error, option=option) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(socket_address)
        # Two sockets can be bound to one address as long as neither listens.
        listening.listen(0)
    except OSError as error:
        listening.close()
        raise explain_bind_failure(str(address), error, option=option) from error
    return listening


def exists(address: Address) -> bool:
    """Return whether this host has `address`, in use or not (a unix path always exists)."""
    if address.unix:
        return True
    try:
        bind(Address(address.host, 0), option="").close()
    except ConfigError:
        return False
    return True


def explain_bind_failure(where: str, error: OSError, *, option: str) -> ConfigError:
    """Return the error to raise for a failed bind, with the remedy."""
    remedy = "{reason}; choose another {option}"
    if not where.startswith("unix:"):
        remedy = _REMEDIES.get(error.errno or 0, remedy)
    # Errors that Python itself raises, such as for a path that is too long, have no errno.
    text = remedy.format(option=option, reason=(error.strerror or str(error)).lower())
    return ConfigError(f"cannot listen on {where}: {text}")


def detect_dead_peer(connected: socket.socket) -> None:
    """Have the kernel close a connection whose peer has vanished, however long it is silent.

    The peer's kernel answers the probes, so that a peer which is merely silent stays connected.
    Probes also keep the connection in the tables of NAT gateways, whose shortest usual limits are
    a few minutes. Without `TCP_USER_TIMEOUT`, an answer that is never acknowledged would be sent
    again for a quarter of an hour.
    """
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    milliseconds = 1000 * (PROBE_AFTER_SECONDS + PROBES * PROBE_INTERVAL_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def peer_text(name: object) -> str:
    """Return a peer's address (`peername`) as `host:port`, for log and audit."""
    if not isinstance(name, tuple):
        return "unknown"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
