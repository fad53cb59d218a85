"""Listening sockets that the operator process holds, and on which only guest workers accept."""

from __future__ import annotations

import socket

from verdictd_py.config import Address
from verdictd_py.listeners import sockets
from verdictd_py.listeners.listener import Background


class HeldListener:
    """Listener whose clients the workers serve (see `Listener`).

    While no worker runs, connections wait in the socket's queue.

    Args:
        name: name of the setting with the address.
        scheme: of the endpoint, for example `https://`; empty for `host:port`.
        passed: listening socket of the service manager, used instead of the address.
    """

    def __init__(
        self, name: str, address: Address, *, scheme: str = "", passed: socket.socket | None = None
    ) -> None:
        self.name = name
        self.address = address
        self._scheme = scheme
        self._passed = passed
        self._listening: socket.socket | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}{self.address}"

    @property
    def descriptor(self) -> int:
        """Descriptor of the bound socket.

        Raises:
            ValueError: it is not bound, or stopped.
        """
        if self._listening is None or self._listening.fileno() < 0:
            raise ValueError("the listener is not bound")
        return self._listening.fileno()

    def bind(self) -> None:
        option = "--" + self.name.replace("_", "-")
        self._listening = self._passed or sockets.bind(self.address, option=option)
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)

    async def start(self, background: Background) -> None:
        """Do nothing: the workers accept connections."""
        del background

    async def stop(self, seconds: float) -> None:
        """Close the socket in this process."""
        del seconds
        if self._listening is not None:
            self._listening.close()
