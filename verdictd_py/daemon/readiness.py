"""Whether guests can be judged as the operator means it: policies that work, values pinned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from verdictd_py.daemon.usecases import UseCases
from verdictd_py.documents.datanames import data_names
from verdictd_py.domain.events import (
    PolicyLoaded,
    WarningDocument,
    WarningPolicy,
    WarningUnpinned,
)
from verdictd_py.errors import NotFound, PolicyInvalid, StorageError
from verdictd_py.listeners.grpc_listener import DOCUMENTS, PINNED
from verdictd_py.ports import Events

READINESS_SECONDS: Final = 30.0
"""Between two checks of whether everything is pinned."""

RELEASE: Final = "release"
"""In place of a TEE, for problems of release policies."""


class SetReady(Protocol):
    """Publishes one detail of the readiness, see `GrpcListener.set_ready`."""

    def __call__(self, detail: str, *, ready: bool) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the documents that decide do what the operator means by them.

    Attributes:
        unpinned: measurements of served TEEs for which any value is accepted, as `tdx rtmr1`.
        problems: by TEE, or `release`: why its guests, or releases, are refused.
        unread: documents, or parts of them, that decide nothing: name and sentence.
    """

    unpinned: tuple[str, ...]
    problems: Mapping[str, str]
    unread: Mapping[str, str]


class Readiness:
    """Checks the policies and the reference data.

    Files are edited by hand and sets expire, so that this is done again and again.

    Args:
        publish: what each listener with a health service publishes it by.
    """

    def __init__(
        self, use_cases: UseCases, events: Events, *, publish: Sequence[SetReady] = ()
    ) -> None:
        self._use_cases = use_cases
        self._events = events
        self._publish = tuple(publish)
        self._reported: Standing | None = None

    async def refresh(self) -> Standing:
        """Examine the documents, publish the result, and record what has changed in it."""
        standing = await self._examine()
        if self._reported is not None:
            self._record(standing, self._reported)
            self._reported = standing
        for publish in self._publish:
            await publish(PINNED, ready=not standing.unpinned and not standing.problems)
            await publish(DOCUMENTS, ready=not standing.problems)
        return standing

    async def keep_fresh(self) -> None:
        """Call `refresh` again and again, and compile what decides now for the next guest."""
        while True:
            await self.refresh()
            await asyncio.sleep(READINESS_SECONDS)
            await self._use_cases.prepare()

    async def report(self) -> None:
        """Compile the policies again, and record whether they can be used.

        Every decision reads them anyway. This warns the operator early, and lets the next
        guest find them compiled.
        """
        standing = await self._examine()
        self._record(standing, None)
        self._reported = standing
        for tee in self._use_cases.verifiers:
            names = tuple(
                name.removeprefix(f"{tee} ")
                for name in standing.unpinned
                if name.startswith(f"{tee} ")
            )
            if names:
                self._events.record(
                    WarningUnpinned(
                        tee=tee,
                        measurements=names,
                        reason="UNPINNED: guests are accepted whatever these measure",
                    )
                )

    async def _examine(self) -> Standing:
        cases = self._use_cases
        unpinned: list[str] = []
        problems: dict[str, str] = {}
        unread: dict[str, str] = {}
        for tee in cases.verifiers:
            known = cases.tees.get(tee)
            if known is None:  # the guests of `nullverifier`, which no document decides about
                continue
            try:
                documents = await cases.appraisal.prepare(tee)
            except (NotFound, StorageError, PolicyInvalid) as error:
                problems[tee] = str(error)
                continue
            values = documents.reference.values
            unpinned += [
                f"{tee} {name}" for name in documents.reference.unpinned(known.measurements)
            ]
            names = cases.tees.schema(tee).unread(values, data_names(documents.policy))
            if names:
                unread[known.documents.data] = (
                    f"{known.documents.policy} does not read {', '.join(names)}: "
                    "these values decide nothing"
                )
        released = await cases.release.prepare()
        if released:
            problems[RELEASE] = "; ".join(released)
        unread |= await self._strays()
        return Standing(tuple(unpinned), problems, unread)

    async def _strays(self) -> dict[str, str]:
        """Return documents that nothing reads and whose name is nearly one that is read."""
        try:
            found = await self._use_cases.catalogue.all()
        except StorageError:
            return {}
        return {str(use.name): use.remark for use, _ in found if use.suggestion}

    def _record(self, standing: Standing, before: Standing | None) -> None:
        """Record what is wrong and was not so `before`, and what is right again."""
        known = {} if before is None else before.problems
        for who, problem in standing.problems.items():
            if known.get(who) != problem:
                self._events.record(WarningPolicy(tee=who, reason=problem))
        for tee in self._use_cases.verifiers:
            if tee not in standing.problems and (before is None or tee in known):
                self._events.record(PolicyLoaded(tee=tee))
        noted = {} if before is None else before.unread
        for name, reason in standing.unread.items():
            if noted.get(name) != reason:
                self._events.record(WarningDocument(name=name, reason=reason))
