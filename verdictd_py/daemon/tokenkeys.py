"""Keys of attestation tokens that all brokers of a site share: reading, creation, rotation.

Each process reads the stored keys again every `REFRESH_SECONDS`. Whichever broker finds first that
the newest key is too old adds one; the store lets only one of them succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from verdictd_py.broker.recording import record_and_change
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.events import KbsTokenKeyAdded, WarningStorage
from verdictd_py.errors import Conflict, StorageError
from verdictd_py.listeners.listener import Background
from verdictd_py.ports import Events
from verdictd_py.ports.tokenkeys import StoredTokenKeys, TokenKeyStore
from verdictd_py.protocols.rcar import tokenring
from verdictd_py.protocols.rcar.tokenring import RingKey, RingUnreadable, TokenRing

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


async def add_key(
    store: TokenKeyStore, *, caller: Caller, revoke: bool, now: datetime, events: Events
) -> tuple[RingKey, int]:
    """Add a key as an operator; brokers read it within `REFRESH_SECONDS`.

    Args:
        revoke: whether all other keys are removed, so that every guest must attest again. The new
            key signs at once then. Otherwise the other keys are accepted as long as something that
            they signed is valid, and no guest notices.

    Returns:
        The key, and the number of keys that were removed.

    Raises:
        StorageError: the keys cannot be read or stored, or brokers have changed them meanwhile.
    """
    stored = await store.read()
    content = None if stored is None else stored.content
    try:
        present = () if content is None else tokenring.parse(content)
    except RingUnreadable:
        if not revoke:
            raise
        present = ()
    keys = (tokenring.new_key(now),) if revoke else tokenring.rotated(present, now)
    added = KbsTokenKeyAdded(
        key=tokenring.key_id(keys[-1]),
        signs_from=keys[-1].signs_from.isoformat(timespec="seconds"),
        caller=caller.name,
        revoked=len(present) if revoke else None,
    )

    async def change() -> None:
        if not await store.replace(tokenring.encode(keys), before=stored):
            raise Conflict("brokers have changed the token keys meanwhile; run the command again")

    await record_and_change(events, caller, "tokens/keys", (added,), change)
    return keys[-1], len(present) if revoke else 0
