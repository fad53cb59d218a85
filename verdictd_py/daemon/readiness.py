"""Readiness of the broker: whether policies can be used, values are pinned and TEEs are served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from verdictd_py.daemon.usecases import UseCases
from verdictd_py.domain.events import (
    PolicyLoaded,
    TeeNotServed,
    TeeServed,
    WarningPolicy,
    WarningUnpinned,
)
from verdictd_py.errors import NotFound, PolicyInvalid, StorageError
from verdictd_py.listeners.grpc_listener import PINNED, served
from verdictd_py.ports import Events

READINESS_SECONDS: Final = 30.0
"""Between two checks of whether everything is pinned."""


class SetReady(Protocol):
    """Publishes one detail of the readiness, see `GrpcListener.set_ready`."""

    def __call__(self, detail: str, *, ready: bool) -> Awaitable[None]: ...


class Readiness:
    """Checks the policies and the reference data.

    Args:
        publish: what each listener with a health service publishes it by.

    Attributes:
        not_served: TEEs whose guests are all refused until a measurement is pinned.
    """

    def __init__(
        self, use_cases: UseCases, events: Events, *, publish: Sequence[SetReady] = ()
    ) -> None:
        self._use_cases = use_cases
        self._events = events
        self._publish = tuple(publish)
        self.not_served: frozenset[str] = frozenset()

    async def refresh(self) -> tuple[str, ...]:
        """Publish whether every measurement is pinned and which TEEs are served.

        Returns:
            The measurements that are not pinned, TEE and claim, of the TEEs that are served.
        """
        await self._refresh_served()
        open_ones: list[str] = []
        for tee in self._use_cases.verifiers:
            if tee not in self.not_served:
                names = await self._use_cases.open_measurements.of(tee)
                open_ones += [f"{tee} {name}" for name in names]
        for publish in self._publish:
            await publish(PINNED, ready=not open_ones)
        return tuple(open_ones)

    async def _refresh_served(self) -> None:
        """Publish which TEEs are served, and record what has changed."""
        tees = tuple(self._use_cases.verifiers)
        closed = [tee for tee in tees if await self._use_cases.appraisal.awaits_pin(tee)]
        before, self.not_served = self.not_served, frozenset(closed)  # one step: calls overlap
        for tee in tees:
            if tee in self.not_served - before:
                self._events.record(TeeNotServed(tee=tee, reason=not_served(tee)))
            elif tee in before - self.not_served:
                self._events.record(TeeServed(tee=tee))
            for publish in self._publish:
                await publish(served(tee), ready=tee not in self.not_served)

    async def keep_fresh(self) -> None:
        """Call `refresh` again and again: files are edited by hand, and sets expire.

        Then other documents decide, which are compiled here rather than for the next guest.
        """
        while True:
            await self.refresh()
            await asyncio.sleep(READINESS_SECONDS)
            await self._use_cases.prepare()

    async def report(self) -> None:
        """Compile the policies again, and record whether they can be used.

        Every decision reads them anyway. This warns the operator early, and lets the next
        guest find them compiled.
        """
        for tee in self._use_cases.verifiers:
            try:
                documents = await self._use_cases.appraisal.prepare(tee)
            except (NotFound, StorageError, PolicyInvalid) as error:
                self._events.record(WarningPolicy(tee=tee, reason=str(error)))
                continue
            self._events.record(PolicyLoaded(tee=tee))
            if await self._use_cases.appraisal.awaits_pin(tee):
                continue
            measurements = self._use_cases.tees.measurements(tee)
            if names := documents.reference.unpinned(measurements):
                self._events.record(
                    WarningUnpinned(
                        tee=tee,
                        measurements=names,
                        reason="UNPINNED: guests are accepted whatever these measure",
                    )
                )
        for problem in await self._use_cases.release.prepare():
            self._events.record(WarningPolicy(tee="release", reason=problem))


def not_served(tee: str) -> str:
    """Return why no guest of a TEE is accepted, and what the operator can do."""
    return (
        f"{tee} guests are refused: no measurement is pinned; pin a guest "
        f"(verdict-py reference pin) or start with --verifier {tee}"
    )
