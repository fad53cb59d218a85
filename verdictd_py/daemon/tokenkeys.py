"""Keys of attestation tokens that all brokers of a site share: reading, creation, rotation.

Each process reads the stored keys again every `REFRESH_SECONDS`. Whichever broker finds first that
the newest key is too old adds one; the store lets only one of them succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from verdictd_py.domain.events import KbsTokenKeyAdded, WarningStorage
from verdictd_py.errors import StorageError
from verdictd_py.listeners.listener import Background
from verdictd_py.ports import Events
from verdictd_py.ports.tokenkeys import StoredTokenKeys, TokenKeyStore
from verdictd_py.protocols.rcar import tokenring
from verdictd_py.protocols.rcar.tokenring import RingKey, TokenRing

REFRESH_SECONDS: Final = 20.0
"""Pause between reads; a sixth of the time after which a new key signs (`PUBLISH`)."""

_ATTEMPTS: Final = 5
"""Attempts to add a key while other brokers do."""


class SharedTokenKeys:
    """The stored keys, in a ring that the listener uses.

    Args:
        lifetime: age of the newest key at which another one is added.
    """

    def __init__(
        self,
        store: TokenKeyStore,
        ring: TokenRing,
        *,
        lifetime: timedelta,
        clock: Callable[[], datetime],
        events: Events,
    ) -> None:
        self._store = store
        self._ring = ring
        self._lifetime = lifetime
        self._clock = clock
        self._events = events
        self._problem = ""

    async def start(self, background: Background) -> None:
        """Read the keys, and go on to do so in the background."""
        await self.refresh()
        background("kbs_http.token-keys", self._keep_fresh)

    async def fault(self) -> str:
        """Return why the keys cannot be read or stored now; empty if they can.

        After a failure they are read again, so that a broker is ready as soon as its store is.
        """
        if self._problem:
            await self.refresh()
        return self._problem

    async def refresh(self) -> None:
        """Read the keys, and add one if that is due. Keys that were read remain in use."""
        try:
            self._ring.replace(await self._read())
        except StorageError as error:
            self._problem = self._ring.problem = f"token keys: {error}"
        else:
            self._problem = ""

    async def _read(self) -> tuple[RingKey, ...]:
        """Return the stored keys; add one if that is due.

        Raises:
            StorageError: they cannot be read, or the new one cannot be stored.
        """
        for _ in range(_ATTEMPTS):
            now, stored = self._clock(), await self._store.read()
            keys = self._usable(stored)
            if keys and max(key.signs_from for key in keys) > now - self._lifetime:
                return keys
            if keys:  # they remain in use even if the new one cannot be stored
                self._ring.replace(keys)
            changed = tokenring.rotated(keys, now)
            if await self._store.replace(tokenring.encode(changed), before=stored):
                await self._events.commit(
                    KbsTokenKeyAdded(
                        key=tokenring.key_id(changed[-1]),
                        signs_from=changed[-1].signs_from.isoformat(timespec="seconds"),
                    )
                )
                return changed
        raise StorageError("other brokers replace them too fast; check their clocks")

    def _usable(self, stored: StoredTokenKeys | None) -> tuple[RingKey, ...]:
        if stored is None:
            return ()
        if stored.content is None:
            self._events.record(
                WarningStorage(
                    reason="the stored token keys are not sealed, although --seal is given; they "
                    "are replaced, and guests attest again"
                )
            )
            return ()
        return tokenring.parse(stored.content)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.refresh()
