"""Administration of named sets of reference values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from verdictd_py.broker import pinning
from verdictd_py.broker.changes import CheckedDocuments, ReadRevisions
from verdictd_py.broker.history import History
from verdictd_py.documents import referencesets
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import ReferenceAdded, ReferenceDeleted, ReferenceRetired
from verdictd_py.domain.names import REFERENCE_SETS
from verdictd_py.errors import NotFound
from verdictd_py.ports import Document, DocumentStore, Events, PolicySource, Tees


class SetAdministrator:
    """Use cases for named sets; each first requires the caller's right.

    Args:
        documents: what operators store; only read here.
        changes: the one place that stores.
        deciding: what guests are appraised by: the stored data with the named sets in force.
        clock: now, with a time zone.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        deciding: PolicySource,
        tees: Tees,
        history: History,
        events: Events,
        clock: Callable[[], datetime],
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._deciding = deciding
        self._tees = tees
        self._history = history
        self._events = events
        self._clock = clock

    async def list_sets(self, caller: Caller, tee: str) -> dict[str, tuple[ReferenceSet, str]]:
        """Return every named set of a TEE with its state, retired ones among them.

        Raises:
            NotAuthorized, RequestError, StorageError: the sets cannot be read.
        """
        caller.require(Right.MANAGE)
        kind, now = self._tees.named(tee).name, self._clock()
        try:
            document = await self._documents.get(REFERENCE_SETS)
        except NotFound:
            return {}
        sets = _sets(document).get(kind, {})
        return {name: (made, made.state(now)) for name, made in sorted(sets.items())}

    async def add(
        self,
        caller: Caller,
        tee: str,
        name: str,
        values: Mapping[str, Sequence[str]],
        expires_at: str,
    ) -> ReferenceSet:
        """Add a named set of values given by hand.

        Args:
            expires_at: RFC 3339; empty for never.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, PolicyInvalid, StorageError
        """
        caller.require(Right.MANAGE)
        kind, now = self._tees.named(tee), self._clock()
        given = {field: tuple(accepted) for field, accepted in values.items()}
        made = ReferenceSet(
            referencesets.checked_values(kind.claims, given),
            caller.name,
            now,
            expires_at=referencesets.expiry(expires_at, now),
        )
        return await self._add(caller, kind.name, name, made)

    async def pin(
        self, caller: Caller, which: str, name: str, fields: Sequence[str], expires_at: str
    ) -> ReferenceSet:
        """Add a named set of what a guest measured.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
            RequestError, AlreadyExists, PolicyInvalid, StorageError: as `add`; also for a
                guest that cannot be pinned.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, which)
        deciding = (await self._deciding.documents(tee)).reference
        changes = pinning.compute_changes(judgement, deciding, fields)
        measured = {change.field: (str(judgement.claims[change.field]),) for change in changes}
        now = self._clock()
        made = ReferenceSet(
            referencesets.checked_values(self._tees.named(tee).claims, measured),
            caller.name,
            now,
            evidence=judgement.evidence,
            appraisal=judgement.id,
            expires_at=referencesets.expiry(expires_at, now),
        )
        return await self._add(caller, tee, name, made)

    async def retire(self, caller: Caller, tee: str, name: str) -> ReferenceSet:
        """Retire a set now. It stays listed, and its lists still accept no further value.

        Nothing is checked with the policy: a retirement must succeed under a broken one too.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError
        """
        caller.require(Right.MANAGE)
        kind, now = self._tees.named(tee).name, self._clock()

        def edit(before: Document | None) -> str:
            return referencesets.serialize(
                referencesets.with_retired(_sets(before), kind, name, now)
            )

        async def unchecked(text: str) -> ReadRevisions:
            del text
            return {}

        text = await self._changes.change(REFERENCE_SETS, edit, unchecked)
        self._events.record(ReferenceRetired(caller=caller.name, tee=kind, name=name))
        await self._changes.prepare()
        return referencesets.parse(text)[kind][name]

    async def delete(self, caller: Caller, tee: str, name: str) -> None:
        """Delete a set that is no longer in force.

        Raises:
            NotAuthorized, NotFound, StorageError
            RequestError: it is in force, or without it a list would accept any value.
            PolicyInvalid: the reference data cannot be read, so that this is not known.
        """
        caller.require(Right.MANAGE)
        kind, now = self._tees.named(tee).name, self._clock()
        fields: tuple[str, ...] = ()

        def edit(before: Document | None) -> str:
            nonlocal fields
            sets = _sets(before)
            left = referencesets.without(sets, kind, name, now)
            fields = tuple(sets[kind][name].values)
            return referencesets.serialize(left)

        async def check(text: str) -> ReadRevisions:
            left = referencesets.parse(text).get(kind, {})
            return await self._changes.check_without_set(left, kind, fields)

        await self._changes.change(REFERENCE_SETS, edit, check)
        self._events.record(ReferenceDeleted(caller=caller.name, tee=kind, name=name))
        await self._changes.prepare()

    async def _add(self, caller: Caller, tee: str, name: str, made: ReferenceSet) -> ReferenceSet:
        def edit(before: Document | None) -> str:
            return referencesets.serialize(referencesets.with_set(_sets(before), tee, name, made))

        async def check(text: str) -> ReadRevisions:
            return await self._changes.check_sets(referencesets.parse(text), tee)

        await self._changes.change(REFERENCE_SETS, edit, check)
        self._events.record(
            ReferenceAdded(
                caller=caller.name,
                tee=tee,
                name=name,
                appraisal=made.appraisal,
                values=tuple(
                    f"{field}={value}"
                    for field, accepted in made.values.items()
                    for value in accepted
                ),
            )
        )
        await self._changes.prepare()
        return made


def _sets(document: Document | None) -> dict[str, referencesets.Sets]:
    return {} if document is None else referencesets.parse(document.text)
