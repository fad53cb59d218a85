"""Interface between the daemon and its listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from verdictd_py.config import Address


class Background(Protocol):
    """Runner of a listener's work that belongs to no single connection."""

    def __call__(
        self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False
    ) -> asyncio.Task[None]:
        """Start `run`. A failure is recorded; it restarts the work, or ends the daemon.

        Args:
            name: name of the work in events.
            essential: whether the listener cannot serve clients without it.
        """
        ...


class Listener(Protocol):
    """Server of one protocol on one address.

    The daemon binds every listener before it starts any: no client is served while another
    address may be in use. It stops all listeners together, with one deadline.

    Attributes:
        name: name of the setting with the address, `kbs_http`; also used in events and status.
        address: the address; once it is bound, with the port that the system chose.
        endpoint: the address as clients write it, `https://host:port`.
    """

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> Address: ...

    @property
    def endpoint(self) -> str: ...

    def bind(self) -> None:
        """Bind the address; serve no client yet.

        Raises:
            ConfigError: it cannot be bound; the message has the cause and the remedy. Nothing
                stays bound.
        """
        ...

    async def start(self, background: Background) -> None:
        """Serve clients on the bound address.

        Raises:
            ConfigError: it cannot start; the message has the cause and the remedy.
        """
        ...

    async def stop(self, seconds: float) -> None:
        """Stop accepting, let requests in flight finish, then close everything.

        This may also be called for a listener that was never started, or never bound.

        Args:
            seconds: time limit for requests in flight.
        """
        ...
