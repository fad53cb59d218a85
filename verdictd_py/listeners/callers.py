"""Identification of callers of the client API: by unix socket, uid on loopback, or certificate."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote

from verdictd_py.config import Address
from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.loopback import Endpoint, can_identify, owner

_WRAP_ONLY: Final = ROLES["wrap"]
_EVERYTHING: Final = ROLES["admin"]


class CallContext(Protocol):
    """The used part of a gRPC call's context."""

    def peer(self) -> str: ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


@dataclass(frozen=True, slots=True)
class CallerRules:
    """Rules that identify callers.

    Attributes:
        listener: address of the listener, to find the owner of a loopback connection.
        certificate_roles: returns the role of each certificate name, as it is in force now;
            None without TLS.
        is_trusted: returns whether the CA in force issued the certificate of a call with this
            authentication context.
        insecure_loopback: every loopback caller has all rights.
        insecure_open: every caller has all rights (`--insecure-client-api`).
    """

    listener: Address = field(default_factory=Address)
    certificate_roles: Callable[[], Mapping[str, str]] | None = None
    is_trusted: Callable[[Mapping[str, Iterable[bytes]]], bool] = lambda auth: True  # noqa: ARG005  # verified in the handshake
    insecure_loopback: bool = False
    insecure_open: bool = False

    def require_identification(self) -> None:
        """Refuse a sandbox that hides the owners of loopback connections.

        Raises:
            ConfigError: callers cannot be identified; the message names the directives.
        """
        address = self.listener
        open_to_all = self.insecure_loopback or self.insecure_open
        if self.certificate_roles is not None or open_to_all or address.unix or not address.local:
            return
        client = Endpoint.of(ipaddress.ip_address("127.0.0.1"), 1)
        if not can_identify(_server_end(address, client)):
            raise ConfigError(
                f"callers at {address} cannot be identified: neither netlink nor /proc/net is "
                "available; add AF_NETLINK to RestrictAddressFamilies=, or remove ProcSubset=pid, "
                "in the unit of systemd; or set --client-api unix:/path"
            )

    def caller(self, context: CallContext) -> Caller:
        """Return the caller of a gRPC call. An unknown caller has the fewest rights.

        This may read the kernel's table of connections, which takes milliseconds, so call it in
        a thread. The result is not cached: gRPC cannot store data with a connection, and a
        cache by port could outlive the connection.
        """
        peer = context.peer()
        if peer.startswith("unix:"):
            return Caller("unix socket", _EVERYTHING)
        if self.certificate_roles is not None:
            auth = context.auth_context()
            roles = self.certificate_roles() if self.is_trusted(auth) else {}
            return _certified(auth, roles)
        if self.insecure_open:
            return Caller(f"unauthenticated at {peer}", _EVERYTHING)
        client = _address(peer)
        if client is None or not client.address.is_loopback:
            return Caller(f"unknown at {peer}", frozenset())
        return self._on_loopback(client)

    def _on_loopback(self, client: Endpoint) -> Caller:
        if self.insecure_loopback:
            return Caller("unauthenticated on loopback", _EVERYTHING)
        uid = owner(client, _server_end(self.listener, client))
        if uid is None:
            return Caller("unknown user on loopback", _WRAP_ONLY)
        return Caller(f"uid {uid}", _EVERYTHING if uid in {0, os.geteuid()} else _WRAP_ONLY)


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


def _address(peer: str) -> Endpoint | None:
    """Parse address and port as gRPC writes them: `ipv4:127.0.0.1:5`, `ipv6:%5B::1%5D:5`."""
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    try:
        return Endpoint.of(ipaddress.ip_address(host.strip("[]").partition("%")[0]), int(port))
    except ValueError:
        return None


def _server_end(listener: Address, client: Endpoint) -> Endpoint:
    """Return the listener's end of a connection; a listener on `localhost` has two addresses."""
    try:
        address = ipaddress.ip_address(listener.host)
    except ValueError:
        address = ipaddress.ip_address("127.0.0.1" if client.address.version == 4 else "::1")
    return Endpoint.of(address, listener.port)


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
