"""Owner of the server at the other end of this process's loopback connections.

Every user of a host can listen on a free port of its loopback, and would get the secrets that are
sent there. Unix sockets (whose directory decides) and TLS do not need this check.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verdictd_py.errors import ConfigError
from verdictd_py.listeners.loopback import Endpoint, server_owner

_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
_MAPPING: Final = Path("/proc/self/uid_map")
_OVERFLOW_UID: Final = 65_534  # user_namespaces(7)
_ALL_USERS: Final = ("0", "0", "4294967295")
_MAX_DESCRIPTORS: Final = 1024
"""Descriptors that are examined where /proc is missing; this program opens some ten."""


@dataclass(frozen=True, slots=True)
class AcceptedUsers:
    """Users whose server on loopback is accepted: root, the caller, and one who is named.

    Attributes:
        named: uid of `--server-user`, or None.
        unsafe_any: whether every server is accepted.
    """

    named: int | None = None
    unsafe_any: bool = False

    @classmethod
    def of(cls, name: str | None, *, unsafe_any: bool) -> AcceptedUsers:
        """Read a name or number of a user.

        Raises:
            ConfigError: there is no such user.
        """
        if name is None:
            return cls(unsafe_any=unsafe_any)
        if name.isascii() and name.isdigit():
            return cls(int(name), unsafe_any)
        try:
            return cls(pwd.getpwnam(name).pw_uid, unsafe_any)
        except KeyError:
            raise ConfigError(f"there is no user {name!r}; correct --server-user") from None

    def problem(self, port: int) -> str:
        """Return why nothing may be sent over the connections to a port; empty if it may.

        Returns:
            The predicate of a sentence about the server, with the remedy.
        """
        if self.unsafe_any:
            return ""
        ends = list(_connections(port))
        if not ends:
            return "cannot be identified: its connection is not found; use TLS or a unix socket"
        for own, server in ends:
            if server.address.is_loopback:
                problem = self._problem(server_owner(own, server))
                if problem:
                    return problem
        return ""

    def _problem(self, uid: int | None) -> str:
        if uid is None:
            return (
                "belongs to an unknown user, so nothing was sent: the kernel does not tell whose "
                "it is; use TLS or a unix socket, or add --unsafe-any-server"
            )
        if _is_unmapped(uid):
            return (
                "belongs to a user outside this container (user namespace), so nothing was sent; "
                "use TLS or a unix socket, or add --unsafe-any-server"
            )
        if uid in (0, os.geteuid(), self.named):
            return ""
        return (
            f"belongs to the user {_name(uid)}, neither to root nor to you, so nothing was sent; "
            f"if that is the broker's user, add --server-user {_name(uid)}"
        )


def _connections(port: int) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Yield both ends, the own one first, of each connection of this process to a port."""
    for descriptor in _descriptors():
        with suppress(OSError, ValueError):
            ends = _ends(descriptor)
            if ends is not None and ends[1].port == port:
                yield ends


def _ends(descriptor: int) -> tuple[Endpoint, Endpoint] | None:
    """Return both ends of the TCP connection of a descriptor; None if it has none.

    Raises:
        OSError: the descriptor is closed, or is not a connected socket. A descriptor that only
            names a socket (`O_PATH`) has the status of one.
    """
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    connection = socket.socket(fileno=descriptor)
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        return _endpoint(connection.getsockname()), _endpoint(connection.getpeername())
    finally:
        connection.detach()  # it belongs to another object


def _descriptors() -> list[int]:
    try:
        return [int(entry) for entry in os.listdir("/proc/self/fd")]  # noqa: PTH208  # vanishing
    except OSError:
        return list(range(_MAX_DESCRIPTORS))


def _endpoint(name: tuple[str, int]) -> Endpoint:
    return Endpoint.of(ipaddress.ip_address(name[0].partition("%")[0]), name[1])


def _is_unmapped(uid: int) -> bool:
    """Return whether a uid may stand for users who have none in this user namespace."""
    overflow = _OVERFLOW_UID
    with suppress(OSError, ValueError):
        overflow = int(_OVERFLOW.read_text())
    if uid != overflow:
        return False
    try:
        return tuple(_MAPPING.read_text().split()) != _ALL_USERS
    except OSError:
        return True


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
