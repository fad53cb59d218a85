"""Whether guests can be judged as the operator means it: policies that work, values pinned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from verdictd_py.daemon.usecases import UseCases
from verdictd_py.domain.events import PolicyLoaded, WarningPolicy, WarningUnpinned
from verdictd_py.domain.evidence import measurements
from verdictd_py.errors import NotFound, PolicyInvalid, StorageError
from verdictd_py.listeners.grpc_listener import PINNED
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
    """

    def __init__(
        self, use_cases: UseCases, events: Events, *, publish: Sequence[SetReady] = ()
    ) -> None:
        self._use_cases = use_cases
        self._events = events
        self._publish = tuple(publish)

    async def refresh(self) -> tuple[str, ...]:
        """Publish whether every measurement is pinned.

        Returns:
            The measurements that are not, `tdx rtmr1`.
        """
        open_ones: list[str] = []
        for tee in self._use_cases.verifiers:
            open_ones += [
                f"{tee} {name}" for name in await self._use_cases.open_measurements.of(tee)
            ]
        for publish in self._publish:
            await publish(PINNED, ready=not open_ones)
        return tuple(open_ones)

    async def keep_fresh(self) -> None:
        """Call `refresh` again and again: files are edited by hand, and sets expire."""
        while True:
            await self.refresh()
            await asyncio.sleep(READINESS_SECONDS)

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
            if names := documents.reference.unpinned(measurements(tee)):
                self._events.record(
                    WarningUnpinned(
                        tee=tee,
                        measurements=names,
                        reason="UNPINNED: guests are accepted whatever these measure",
                    )
                )
        for problem in await self._use_cases.release.prepare():
            self._events.record(WarningPolicy(tee="release", reason=problem))
