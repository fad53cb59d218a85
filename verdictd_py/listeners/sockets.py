"""Binding, with failures an operator can act on; addresses as text."""

from __future__ import annotations

import errno
import socket
from typing import Final

from verdictd_py.config import Address
from verdictd_py.errors import ConfigError

_REMEDIES: Final = {
    errno.EADDRINUSE: "the address is in use; stop what listens there, or choose another {option}",
    errno.EADDRNOTAVAIL: "this host has no such address; choose another {option}",
    errno.EACCES: "not permitted; choose a port above 1023 for {option}",
    errno.EAFNOSUPPORT: "this host has no IPv6; choose an IPv4 address for {option}",
}


def bind(address: Address, *, option: str) -> socket.socket:
    """A bound TCP socket that does not listen yet. `[::]` takes IPv4 too.

    Args:
        option: the command line option that gave the address, for the message.

    Raises:
        ConfigError: one line: cause and remedy.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {address}: {address.host!r} is not known; correct {option}"
        ) from error
    family, kind, protocol, _, where = found[0]
    try:
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise explain_bind_failure(str(address), error, option=option) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(where)
        # Two sockets can be bound to one address while neither listens.
        listening.listen(0)
    except OSError as error:
        listening.close()
        raise explain_bind_failure(str(address), error, option=option) from error
    return listening


def exists(address: Address) -> bool:
    """Whether this host has `address`, in use or not (a unix path always exists)."""
    if address.unix:
        return True
    try:
        bind(Address(address.host, 0), option="").close()
    except ConfigError:
        return False
    return True


def probe(address: Address, *, option: str) -> None:
    """Binds and lets go again: for libraries that do not say why they could not bind.

    Raises:
        ConfigError: one line: cause and remedy.
    """
    bind(address, option=option).close()


def explain_bind_failure(where: str, error: OSError, *, option: str) -> ConfigError:
    """The error to raise for a failed bind, with its remedy."""
    remedy = "{reason}; choose another {option}"
    if not where.startswith("unix:"):
        remedy = _REMEDIES.get(error.errno or 0, remedy)
    # Python's own objections, a path that is too long say, have no number.
    text = remedy.format(option=option, reason=(error.strerror or str(error)).lower())
    return ConfigError(f"cannot listen on {where}: {text}")


def peer_text(name: object) -> str:
    """A peer's address (`peername`), `host:port`, for log and audit."""
    if not isinstance(name, tuple):
        return "unknown"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
