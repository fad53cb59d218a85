"""File descriptors of the process, and their division among the listeners."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from verdictd_py.errors import ConfigError
from verdictd_py.listeners.grpc_connections import DESCRIPTORS
from verdictd_py.listeners.grpc_listener import MAX_CONNECTIONS

RESERVE: Final = 256
"""Descriptors that no connection gets: files, the audit trail, fetches."""

_LEAST: Final = 32
"""Fewest connections of a listener that are of use."""

_GRPC_PART: Final = 12
"""Number of free descriptors for each connection of a gRPC listener, if there are few."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Maximum numbers of connections of each listener.

    Attributes:
        guests: of a listener for guests.
        grpc: of a gRPC listener.
        warning: cause and remedy if they are lower than the settings; else empty.
    """

    guests: int
    grpc: int
    warning: str = ""


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard limit; select(2) is used nowhere.

    A sandbox may forbid that; then the soft limit remains.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return how many descriptors this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def divide(
    open_files: int, *, guests: int, guest_listeners: int, grpc_listeners: int
) -> Connections:
    """Divide descriptors, so that all listeners together leave the reserve.

    Args:
        open_files: the limit of the process.
        guests: the setting, for each listener of guests.
        guest_listeners, grpc_listeners: the listeners of this process; none of one type, if
            guests have processes of their own.

    Raises:
        ConfigError: there are too few descriptors to serve anyone.
    """
    available = open_files - RESERVE
    most = DESCRIPTORS * MAX_CONNECTIONS * grpc_listeners
    if guests * guest_listeners + most <= available:
        return Connections(guests, MAX_CONNECTIONS)
    grpc = min(MAX_CONNECTIONS, max(_LEAST, available // _GRPC_PART))
    left = available - DESCRIPTORS * grpc * grpc_listeners
    fitting = min(
        guests, left // max(guest_listeners, 1)
    )  # without any, `left` must not be negative
    if fitting < min(guests, _LEAST):
        least = RESERVE + _LEAST * (guest_listeners + DESCRIPTORS * grpc_listeners)
        raise ConfigError(
            f"this process may open {open_files} files only; give it at least {least} "
            "(ulimit -n, or LimitNOFILE= in the unit of systemd)"
        )
    parts = [f"{fitting} guests"] if guest_listeners else []
    parts += [f"{grpc} gRPC connections"] if grpc_listeners else []
    served = " or ".join(parts)
    needed = RESERVE + guests * guest_listeners + most
    return Connections(
        fitting,
        grpc,
        f"this process may open {open_files} files, so a listener serves at most {served} at once; "
        f"give it {needed} files (ulimit -n, or LimitNOFILE= in the unit of systemd), or lower "
        "--max-connections",
    )
