"""Identification of callers of the client API: by unix socket, uid on loopback, or certificate."""

from __future__ import annotations

import ipaddress
import os
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol, Self

from verdictd_py.config import Address
from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.loopback import Endpoint, IpAddress, can_identify, owner

_WRAP_ONLY: Final = ROLES["wrap"]
_EVERYTHING: Final = ROLES["admin"]


class CallContext(Protocol):
    """The used part of a gRPC call's context."""

    def peer(self) -> str: ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Peer of a connection to a gRPC listener.

    Attributes:
        host: its IP address; empty for a unix socket.
        port: its port.
        uid: owner of its end of a loopback connection, None if that is unknown.
    """

    host: str = ""
    port: int = 0
    uid: int | None = None

    @classmethod
    def of(cls, accepted: socket.socket) -> Self:
        """Return the peer of an accepted connection.

        The kernel never changes the owner of a socket that a process uses, so that the result is
        valid as long as the connection. Where the kernel does not answer queries, this reads its
        tables, which takes milliseconds.

        Raises:
            OSError: the connection has ended.
        """
        if accepted.family == socket.AF_UNIX:
            return cls()
        client, server = (
            Endpoint.of(_address(host), port)
            for host, port in (accepted.getpeername()[:2], accepted.getsockname()[:2])
        )
        uid = owner(client, server) if client.address.is_loopback else None
        # A client that resets the connection frees its port for a client of another user, and what
        # it has sent can still be received. Both ends are taken as long as this is connected.
        accepted.getpeername()
        return cls(str(client.address), client.port, uid)

    @property
    def unix(self) -> bool:
        return not self.host

    @property
    def loopback(self) -> bool:
        return self.host.startswith("127.") or self.host == "::1"

    @property
    def trusted(self) -> bool:
        """Whether it is root or the user of this process, by a unix socket or on loopback."""
        return self.unix or self.uid in {0, os.geteuid()}

    def __str__(self) -> str:
        """Return the address as gRPC writes it: `ipv4:127.0.0.1:5`, `ipv6:[::1]:5`."""
        if self.unix:
            return "unix socket"
        form = "ipv6:[{}]:{}" if ":" in self.host else "ipv4:{}:{}"
        return form.format(self.host, self.port)


@dataclass(frozen=True, slots=True)
class CallerRules:
    """Rules that identify callers.

    Attributes:
        peer_of: returns the peer of an open connection by its name in gRPC (`context.peer()`);
            None if there is no such connection.
        certificate_roles: returns the role of each certificate name, as it is in force now;
            None without TLS.
        is_trusted: returns whether the CA in force issued the certificate of a call with this
            authentication context.
        insecure_loopback: every loopback caller has all rights.
        insecure_open: every caller has all rights (`--insecure-client-api`).
    """

    peer_of: Callable[[str], Peer | None] = lambda name: None  # noqa: ARG005  # no connection
    certificate_roles: Callable[[], Mapping[str, str]] | None = None
    is_trusted: Callable[[Mapping[str, Iterable[bytes]]], bool] = lambda auth: True  # noqa: ARG005  # verified in the handshake
    insecure_loopback: bool = False
    insecure_open: bool = False

    def require_identification(self, address: Address) -> None:
        """Refuse a sandbox that hides the owners of loopback connections.

        Args:
            address: address of the listener.

        Raises:
            ConfigError: callers cannot be identified; the message names the directives.
        """
        open_to_all = self.insecure_loopback or self.insecure_open
        if self.certificate_roles is not None or open_to_all or address.unix or not address.local:
            return
        host = "127.0.0.1" if address.host == "localhost" else address.host
        if not can_identify(Endpoint.of(ipaddress.ip_address(host), address.port)):
            raise ConfigError(
                f"callers at {address} cannot be identified: neither netlink nor /proc/net is "
                "available; add AF_NETLINK to RestrictAddressFamilies=, or remove ProcSubset=pid, "
                "in the unit of systemd; or set --client-api unix:/path"
            )

    def caller(self, context: CallContext) -> Caller:
        """Return the caller of a gRPC call. An unknown caller has the fewest rights."""
        peer = self.peer_of(context.peer())
        if peer is not None and peer.unix:
            return Caller("unix socket", _EVERYTHING)
        if self.certificate_roles is not None:
            auth = context.auth_context()
            roles = self.certificate_roles() if self.is_trusted(auth) else {}
            return _certified(auth, roles)
        if peer is None:
            return Caller("closed connection", frozenset())
        if self.insecure_open:
            return Caller(f"unauthenticated at {peer}", _EVERYTHING)
        if peer.loopback:
            return self._on_loopback(peer)
        return Caller(f"unknown at {peer}", frozenset())

    def _on_loopback(self, peer: Peer) -> Caller:
        if self.insecure_loopback:
            return Caller("unauthenticated on loopback", _EVERYTHING)
        if peer.uid is None:
            return Caller("unknown user on loopback", _WRAP_ONLY)
        return Caller(f"uid {peer.uid}", _EVERYTHING if peer.trusted else _WRAP_ONLY)


@lru_cache(maxsize=1024)
def _address(host: str) -> IpAddress:
    """Return the address that the kernel reports; nothing invalidates an entry of this cache."""
    return ipaddress.ip_address(host.partition("%")[0])


def _certified(auth: Mapping[str, Iterable[bytes]], roles: Mapping[str, str]) -> Caller:
    """Return the caller with this certificate: it has the rights of all its listed names."""
    names = {
        value.decode("utf-8", "replace")
        for attribute in ("x509_common_name", "x509_subject_alternative_name")
        for value in auth.get(attribute, ())
    }
    listed = sorted(names & roles.keys())
    rights: frozenset[Right] = frozenset().union(*(ROLES[roles[name]] for name in listed))
    return Caller("certificate " + ", ".join(listed or sorted(names)), rights)


def lessened_roles(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return the roles `before`, without the rights that the same name does not have `after`."""
    lessened = {}
    for name, role in before.items():
        other = after.get(name, role)
        if name in after and ROLES[role] <= ROLES[other]:
            lessened[name] = role
        elif name in after and ROLES[other] <= ROLES[role]:
            lessened[name] = other
    return lessened


def read_roles(file: Path) -> dict[str, str]:
    """Read roles by certificate name, from `[roles]` of a TOML file: `"build-farm" = "wrap"`.

    Raises:
        ConfigError: the file cannot be used; the message has the file, cause and remedy.
    """
    known = ", ".join(ROLES)
    try:
        with file.open("rb") as stream:
            table: dict[str, Any] = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(
            f"cannot read the roles {file}: {error.strerror}; check --client-api-roles"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the roles {file} are not valid TOML: {error}; fix that line") from None
    roles = table.pop("roles", None)
    if not isinstance(roles, dict) or table:
        raise ConfigError(f'the roles {file} must have one table, [roles], of "name" = "role"')
    for name, role in roles.items():
        if not isinstance(role, str) or role not in ROLES:
            raise ConfigError(f"the roles {file} give {name!r} an unknown role: use one of {known}")
    return roles
