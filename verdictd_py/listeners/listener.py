"""What the daemon needs of everything that listens on an address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from verdictd_py.config import Address


class Background(Protocol):
    """Runs work of a listener that is not about one connection."""

    def __call__(
        self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False
    ) -> asyncio.Task[None]:
        """Start `run`. A failure is recorded; it restarts the work, or ends the daemon.

        Args:
            name: as events name it.
            essential: the listener serves no client without it.
        """
        ...


class Listener(Protocol):
    """One address with a protocol behind it, from `bind` to `stop`.

    The daemon binds every listener, then starts every listener: no client is served while an
    address may still turn out to be taken. It stops them together, all with one deadline.

    Attributes:
        name: the setting that gives the address, `kbs_http`; also its name in events and status.
        address: with the port that the system chose, once it is bound.
        endpoint: the same as clients write it, `https://host:port`.
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
            ConfigError: one line: cause and remedy. Nothing stays bound.
        """
        ...

    async def start(self, background: Background) -> None:
        """Serve clients on the address that was bound.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        ...

    def reload(self) -> None:
        """Read the files again that the operator may have replaced.

        What cannot be used is recorded as a warning, and what was read before stays in force.
        """
        ...

    async def stop(self, seconds: float) -> None:
        """Stop accepting, let requests in flight finish, then close everything.

        Also for a listener that was bound and never started, or not even bound.

        Args:
            seconds: bound for requests in flight.
        """
        ...
