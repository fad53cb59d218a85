"""Readiness of the broker: whether storage and policies can be used, and which TEEs are served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from verdictd_py.daemon.usecases import UseCases
from verdictd_py.documents.datanames import data_names
from verdictd_py.domain.events import (
    PolicyLoaded,
    StorageFault,
    StorageRecovered,
    TeeNotServed,
    TeeServed,
    WarningContent,
    WarningDocument,
    WarningPolicy,
    WarningUnpinned,
)
from verdictd_py.errors import NotFound, PolicyInvalid, StorageError
from verdictd_py.listeners.grpc_listener import DOCUMENTS, PINNED, STORAGE, served
from verdictd_py.ports import Events, PolicyDocuments, Tee

READINESS_SECONDS: Final = 30.0
"""Longest pause between two examinations: sets expire, and files are edited by hand."""

REQUESTED_SECONDS: Final = 1.0
"""Shortest pause, after which a change that was noticed meanwhile is examined."""

RELEASE: Final = "release"
"""In place of a TEE, for problems of release policies."""


class SetReady(Protocol):
    """Publishes one detail of the readiness, see `GrpcListener.set_ready`."""

    def __call__(self, detail: str, *, ready: bool) -> Awaitable[None]: ...


Probe = Callable[[], Awaitable[str]]
"""Returns why a part of the storage cannot be used, with the remedy; empty if it can be used."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the documents that decide do what the operator means by them.

    Attributes:
        unpinned: by TEE that is served: measurements for which any value is accepted.
        problems: by TEE, or `release`: why its guests, or releases, are refused.
        unread: by name of a document: that it, or a part of it, decides nothing.
        not_served: TEEs whose guests are all refused until a measurement is pinned.
        faults: by part of the storage that cannot be used: why, with the remedy.
        contents: by path of a resource: why guests cannot use it, all of them or some.
    """

    unpinned: Mapping[str, tuple[str, ...]]
    problems: Mapping[str, str]
    unread: Mapping[str, str]
    not_served: frozenset[str] = frozenset()
    faults: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def causes(self) -> tuple[str, ...]:
        """Why the broker is not ready; empty if it is."""
        return tuple(
            f"{who}: {text}" for who, text in (*self.faults.items(), *self.problems.items())
        )

    @property
    def open_measurements(self) -> tuple[str, ...]:
        """Measurements for which any value is accepted, each as TEE and claim."""
        return tuple(f"{tee} {name}" for tee, names in self.unpinned.items() for name in names)


_NOTHING: Final = Standing({}, {}, {})


class Readiness:
    """Checks the policies and the reference data.

    Files are edited by hand and sets expire, so that this is done again and again, and soon after
    each change that is announced (`request`).

    Args:
        publish: functions of the listeners with a health service that publish the result.
        probes: by part of the storage: examines it.

    Attributes:
        changed: called when the problems that refuse guests or releases have changed.
    """

    def __init__(
        self,
        use_cases: UseCases,
        events: Events,
        *,
        publish: Sequence[SetReady] = (),
        probes: Mapping[str, Probe] | None = None,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._requested = asyncio.Event()
        self._use_cases = use_cases
        self._probes = dict(probes or {})
        self._events = events
        self._publish = tuple(publish)
        self._reported = _NOTHING
        self._examining = asyncio.Lock()

    async def problem(self) -> str:
        """Return why guests or releases are refused as of the last check; empty if they are not."""
        return "; ".join(f"{who}: {text}" for who, text in self._reported.problems.items())

    def request(self) -> None:
        """Have the documents examined soon. Many requests cause one examination."""
        self._requested.set()

    async def refresh(self) -> Standing:
        """Examine the documents, publish the result, and record what has changed in it."""
        async with self._examining:  # otherwise overlapping calls record a change twice
            standing = await self._examine()
            before, self._reported = self._reported, standing
            self._record(standing, before)
            for tee in before.problems.keys() - standing.problems.keys() - {RELEASE}:
                self._events.record(PolicyLoaded(tee=tee))
            await self._published(standing)
        if before.problems != standing.problems:
            self.changed()
        return standing

    async def keep_fresh(self) -> None:
        """Call `refresh` again and again, and compile what decides now for the next guest."""
        while True:
            self._requested.clear()
            await self.refresh()
            await asyncio.sleep(REQUESTED_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(READINESS_SECONDS - REQUESTED_SECONDS):
                    await self._requested.wait()
            await self._use_cases.prepare()

    async def report(self) -> None:
        """Compile the policies again, and record whether they can be used.

        Every decision reads them anyway. This warns the operator early, and lets the next
        guest find them compiled.
        """
        async with self._examining:
            standing = await self._examine()
            self._report(standing)
            self._reported = standing

    def _report(self, standing: Standing) -> None:
        # What was reported of TEEs that are not served stands: nothing has changed for them.
        before = Standing({}, {}, {}, self._reported.not_served, self._reported.faults)
        for tee in self._use_cases.verifiers:
            if tee in self._use_cases.tees and tee not in standing.problems:
                self._events.record(PolicyLoaded(tee=tee))
        self._record(standing, before)
        for tee, names in standing.unpinned.items():
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
        unpinned: dict[str, tuple[str, ...]] = {}
        problems: dict[str, str] = {}
        unread = {**await cases.ineffective.remarks(), **await self._strays()}
        waiting: set[str] = set()
        for name in cases.verifiers:
            tee = cases.tees.get(name)
            if tee is None:  # the guests of `nullverifier`, which no document decides about
                continue
            try:
                documents = await cases.appraisal.prepare(name)
            except (NotFound, StorageError, PolicyInvalid) as error:
                problems[name] = str(error)
                continue
            unread |= self._unread(tee, documents)
            if await cases.appraisal.awaits_pin(name):
                waiting.add(name)
            else:
                unpinned[name] = documents.reference.unpinned(tee.measurements)
        released = await cases.release.prepare()
        if released:
            problems[RELEASE] = "; ".join(released)
        faults = {part: await examine() for part, examine in self._probes.items()}
        faults = {part: reason for part, reason in faults.items() if reason}
        remarks = await cases.contents.remarks()
        return Standing(unpinned, problems, unread, frozenset(waiting), faults, remarks)

    def _unread(self, tee: Tee, documents: PolicyDocuments) -> dict[str, str]:
        """Return a sentence about values that the policy in force does not read, by document."""
        schema = self._use_cases.tees.schema(tee.name)
        names = schema.unread(documents.reference.values, data_names(documents.policy))
        if not names:
            return {}
        said = f"{tee.documents.policy} does not read {', '.join(names)}"
        return {tee.documents.data: f"{said}: these values decide nothing"}

    async def _strays(self) -> dict[str, str]:
        """Return documents with a misspelled name, which nothing reads."""
        try:
            uses = await self._use_cases.catalogue.uses()
        except StorageError:
            return {}
        return {str(use.name): use.remark for use in uses if use.misspelled}

    def _record(self, standing: Standing, before: Standing) -> None:
        """Record what is wrong and was not so `before`."""
        for part in sorted(standing.faults.keys() - before.faults.keys()):
            self._events.record(StorageFault(part=part, reason=standing.faults[part]))
        for part in sorted(before.faults.keys() - standing.faults.keys()):
            self._events.record(StorageRecovered(part=part))
        for who, problem in standing.problems.items():
            if before.problems.get(who) != problem:
                self._events.record(WarningPolicy(tee=who, reason=problem))
        for name in _changed(standing.unread, before.unread):
            self._events.record(WarningDocument(name=name, reason=standing.unread[name]))
        for path in _changed(standing.contents, before.contents):
            self._events.record(WarningContent(resource=path, reason=standing.contents[path]))
        for tee in sorted(standing.not_served - before.not_served):
            self._events.record(TeeNotServed(tee=tee, reason=not_served(tee)))
        for tee in sorted(before.not_served - standing.not_served - standing.problems.keys()):
            self._events.record(TeeServed(tee=tee))

    async def _published(self, standing: Standing) -> None:
        usable = not standing.problems
        for publish in self._publish:
            await publish(PINNED, ready=usable and not standing.open_measurements)
            await publish(DOCUMENTS, ready=usable)
            await publish(STORAGE, ready=not standing.faults)
            for tee in self._use_cases.verifiers:
                refused = tee in standing.not_served or tee in standing.problems
                await publish(served(tee), ready=not refused)


def _changed(texts: Mapping[str, str], before: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names with another text than before."""
    return tuple(name for name, text in texts.items() if before.get(name) != text)


def not_served(tee: str) -> str:
    """Return why no guest of a TEE is accepted, and what the operator can do."""
    return (
        f"{tee} guests are refused: no measurement is pinned; pin a guest "
        f"(verdict-py reference pin) or start with --verifier {tee}"
    )
