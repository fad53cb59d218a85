"""Time limits of the same length, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable


class Deadlines:
    """Time limits that usually end before they expire, such as those for the arrival of a message.

    A timer of the event loop for each would take several times as long.

    Args:
        seconds: time from `start` until a limit expires.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, key: Hashable, expire: Callable[[], object]) -> None:
        """Start a limit.

        Args:
            key: identifies it for `stop`; no other limit has it.
            expire: called once when it expires.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        deadline = self._loop.time() + self._seconds
        self._limits[key] = deadline, expire
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire, self._loop)

    def stop(self, key: Hashable) -> None:
        """End a limit, if it has not expired."""
        self._limits.pop(key, None)

    def close(self) -> None:
        """End all limits."""
        self._limits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Expire what is due. Limits expire in the order in which they were started."""
        self._timer = None
        now = loop.time()
        for key, (deadline, expire) in tuple(self._limits.items()):
            if deadline > now:
                self._timer = loop.call_at(deadline, self._expire, loop)
                return
            if self._limits.pop(key, None) is not None:
                expire()
