"""Protocols of the service manager: readiness, status and watchdog (sd_notify(3)), passed sockets.

Implemented directly, because each is a datagram or an environment variable.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from verdictd_py.errors import ConfigError

FIRST_SOCKET: Final = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"

STATUS_SECONDS: Final = 10.0
"""Pause between two comparisons of the status, without a watchdog."""


class ServiceManager:
    """Notifications to the service manager; without one, they do nothing.

    Args:
        environment: environment of the process.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environment)
        self._status = ""

    def notify(self, state: str, *, status: str) -> None:
        """Send a state, lines of `NAME=VALUE`, and the line that `systemctl status` displays.

        A manager that cannot be reached is ignored.
        """
        self._status = status
        self._send(f"{state}\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Send the line that `systemctl status` displays, unless it was the last one."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """Announce a reload; `READY` ends it."""
        # Type=notify-reload compares the time with that of its signal.
        now = time.monotonic_ns() // 1000
        self.notify(f"RELOADING=1\nMONOTONIC_USEC={now}", status="reloading")

    async def keep_informed(self, status: Callable[[], str]) -> None:
        """Send the watchdog's signs of life and each new status, from the event loop.

        An event loop that stalls sends nothing, and the manager restarts the service.

        Args:
            status: returns the current status.
        """
        while self._address:
            if self._watchdog:
                self._send("WATCHDOG=1")
            self.status(status())
            await asyncio.sleep(self._watchdog / 2 or STATUS_SECONDS)

    def _send(self, state: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)  # its only form
            manager.sendto(state.encode(), address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Return the watchdog's limit; 0 without one, or if it is for another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return _number(environment.get("WATCHDOG_USEC", "0")) / 1e6


def _number(text: str) -> int:
    """Return a decimal number of the manager; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() else 0


def passed_sockets(environment: Mapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """Return the listening sockets of socket activation, by `FileDescriptorName=`.

    Raises:
        ConfigError: a socket cannot be used.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = _number(environment.get("LISTEN_FDS", "0"))
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, socket.socket] = {}
    for number in range(count):
        name = names[number] if number < len(names) else ""
        if name not in ("listen", "kbs_http") or name in found:
            raise ConfigError(
                f"the service manager passed the socket {name!r}; set FileDescriptorName=listen "
                "or FileDescriptorName=kbs_http in its .socket unit, each once (gRPC cannot "
                "adopt a socket)"
            )
        passed = socket.socket(fileno=FIRST_SOCKET + number)
        if passed.type != socket.SOCK_STREAM or passed.family == socket.AF_UNIX:
            raise ConfigError(f"the socket {name} is not TCP; use ListenStream= with a port")
        passed.set_inheritable(False)  # its only form
        found[name] = passed
    return found
