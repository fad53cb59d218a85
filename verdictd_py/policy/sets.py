"""The documents by which guests are appraised: reference data with the named sets in force."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from verdictd_py.documents import referencesets
from verdictd_py.documents.deciding import combine, require_known_tees
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.names import Name
from verdictd_py.errors import PolicyInvalid, RequestError, StorageError
from verdictd_py.offload import offload
from verdictd_py.ports import Document, DocumentStore, PolicyDocuments, Tees

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Key:
    """Everything that the combined documents depend on, with the states of sets, which expire."""

    policy: str
    data: str
    sets: referencesets.Sets
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _States:
    """States of some sets, from one time until another."""

    sets: referencesets.Sets
    states: tuple[str, ...]
    since: datetime
    until: datetime

    def are_valid(self, now: datetime) -> bool:
        return self.since <= now < self.until


@dataclass(frozen=True, slots=True)
class _Last:
    """What the last snapshot of a TEE's documents was combined to, from one time until another."""

    snapshot: Mapping[Name, Document]
    states: _States
    documents: PolicyDocuments


@dataclass(frozen=True, slots=True)
class _Combined:
    """Combined documents, or why they cannot be used, and what they depend on."""

    key: _Key
    documents: PolicyDocuments | PolicyInvalid


class DocumentsWithSets:
    """Documents of a store, combined with the named sets in force.

    It implements the ports `PolicySource` and `PolicyRevisions`.

    The stored documents are read each time, so that a file changed by hand takes effect at once.
    The combined documents are cached for each TEE. Another revision of its policy or reference
    data makes them invalid, and so does a set that is added, removed or expires. Guests that
    come meanwhile wait for the same combination.

    Reference data that does not match its schema refuses every guest. It is checked here as well
    as when it is stored, because files are also edited by hand.

    Args:
        tees: TEEs with the schemas of reference data.
        clock: returns the current time with a time zone, for sets that expire.
    """

    def __init__(self, documents: DocumentStore, tees: Tees, clock: Callable[[], datetime]) -> None:
        self._documents = documents
        self._tees = tees
        self._clock = clock
        self._sets: tuple[str, dict[str, referencesets.Sets]] = ("", {})
        self._states: dict[str, _States] = {}
        self._combined: dict[str, _Combined] = {}
        self._last: dict[str, _Last] = {}
        self._names: dict[str, tuple[Name, Name, Name]] = {}
        self._combining: dict[str, tuple[_Key, asyncio.Task[_Combined]]] = {}
        self._revisions: Counter[str] = Counter()

    async def documents(self, tee: str) -> PolicyDocuments:
        names = self._names_of(tee)
        snapshot = await self._documents.snapshot(names)
        now = self._clock()
        last = self._last.get(tee)
        if last is not None and last.snapshot is snapshot and last.states.are_valid(now):
            return last.documents
        sets = await self._sets_of(tee, snapshot.get(referencesets.DOCUMENT))
        states = self._states_of(tee, sets, now)
        documents = await self._of_snapshot(tee, names[:2], snapshot, states, now)
        self._last[tee] = _Last(snapshot, states, documents)
        return documents

    def _names_of(self, tee: str) -> tuple[Name, Name, Name]:
        names = self._names.get(tee)
        if names is None:
            policy, data = self._documents.policy_name(tee), self._documents.reference_name(tee)
            names = self._names[tee] = policy, data, referencesets.DOCUMENT
        return names

    async def _sets_of(self, tee: str, document: Document | None) -> referencesets.Sets:
        return {} if document is None else (await self._parsed(document)).get(tee, {})

    async def _of_snapshot(
        self,
        tee: str,
        names: tuple[Name, Name],
        snapshot: Mapping[Name, Document],
        states: _States,
        now: datetime,
    ) -> PolicyDocuments:
        """Return the combination of a snapshot with its sets, as they are in force now.

        Raises:
            PolicyInvalid: see `documents`.
        """
        policy, data = [snapshot.get(name) or await self._documents.get(name) for name in names]
        key = _Key(policy.revision, data.revision, states.sets, states.states)
        combined = self._combined.get(tee)
        if combined is None or combined.key != key:
            combined = await self._combine(tee, key, names, policy.text, data.text, now)
        if isinstance(combined.documents, PolicyInvalid):
            raise PolicyInvalid(str(combined.documents))
        return combined.documents

    def _states_of(self, tee: str, sets: referencesets.Sets, now: datetime) -> _States:
        """Return the states of the sets, computed again once one may have expired."""
        known = self._states.get(tee)
        if known is None or known.sets is not sets or not known.are_valid(now):
            states = tuple(item.state(now) for item in sets.values())
            times = (time for item in sets.values() for time in (item.expires_at, item.retired_at))
            later = (time for time in times if time is not None and time > now)
            known = self._states[tee] = _States(sets, states, now, min(later, default=_NEVER))
        return known

    async def _combine(
        self, tee: str, key: _Key, names: tuple[Name, Name], policy: str, data: str, now: datetime
    ) -> _Combined:
        """Combine documents once for all callers that need the same ones."""
        running = self._combining.get(tee)
        if running is None or running[0] != key:
            work = partial(_combine, self._tees.schema(tee), names, policy, data, key.sets, now)
            task = asyncio.ensure_future(self._combined_by(tee, key, len(data), work))
            running = self._combining[tee] = key, task
        return await asyncio.shield(running[1])

    async def _combined_by(
        self, tee: str, key: _Key, size: int, work: Callable[[], PolicyDocuments | PolicyInvalid]
    ) -> _Combined:
        try:
            combined = self._combined[tee] = _Combined(key, await offload(size, work))
        finally:
            if self._combining[tee][0] is key:
                del self._combining[tee]
        self._revisions[tee] += 1
        return combined

    def last_revision(self, tee: str) -> int:
        return self._revisions[tee]

    async def revision(self, tee: str) -> int:
        await self.documents(tee)
        return self._revisions[tee]

    async def _parsed(self, document: Document) -> dict[str, referencesets.Sets]:
        revision, sets = self._sets
        if revision != document.revision:
            try:
                parse = partial(referencesets.parse, document.text)
                sets = await offload(len(document.text), parse)
                require_known_tees(sets, self._tees.names)
            except RequestError as error:
                # Every guest is refused until it is fixed.
                raise StorageError(str(error)) from None
            self._sets = document.revision, sets
        return sets


def _combine(
    schema: ReferenceSchema,
    names: tuple[Name, Name],
    policy: str,
    data: str,
    sets: referencesets.Sets,
    now: datetime,
) -> PolicyDocuments | PolicyInvalid:
    """Combine documents with these names; a failure is returned, so that it is cached as well."""
    try:
        reference = combine(
            schema, names[1], ReferenceData.parse(data), sets, policy=policy, now=now
        )
    except PolicyInvalid as error:
        return error.with_traceback(None)
    documents = PolicyDocuments.combine(policy, reference, str(names[0]))
    return documents.digested()
