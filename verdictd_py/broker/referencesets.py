"""Administration of named sets of reference values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from verdictd_py.broker import pinning
from verdictd_py.broker.changes import CheckedDocuments, Relied
from verdictd_py.broker.history import History
from verdictd_py.documents import referencesets
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import ReferenceAdded, ReferenceRetired
from verdictd_py.domain.evidence import Tee
from verdictd_py.domain.names import REFERENCE_SETS
from verdictd_py.errors import NotFound
from verdictd_py.ports import Document, DocumentStore, Events


class SetAdministrator:
    """Use cases for named sets; each first requires the caller's right.

    Args:
        documents: what operators store; only read here.
        changes: the one place that stores.
        clock: now, with a time zone.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        history: History,
        events: Events,
        clock: Callable[[], datetime],
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._history = history
        self._events = events
        self._clock = clock

    async def listed(self, caller: Caller, tee: str) -> dict[str, tuple[ReferenceSet, str]]:
        """Return every named set of a TEE with its state, retired ones among them.

        Raises:
            NotAuthorized, RequestError, StorageError: the sets cannot be read.
        """
        caller.require(Right.MANAGE)
        kind, now = referencesets.tee_named(tee), self._clock()
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
        kind, now = referencesets.tee_named(tee), self._clock()
        given = {field: tuple(accepted) for field, accepted in values.items()}
        made = ReferenceSet(
            referencesets.checked_values(kind, given),
            caller.name,
            now,
            expires_at=referencesets.expiry(expires_at, now),
        )
        return await self._add(caller, kind, name, made)

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
        document = await self._documents.get(self._documents.reference_name(tee))
        changes = pinning.changes(judgement, ReferenceData.parse(document.text), fields)
        measured = {change.field: (str(judgement.claims[change.field]),) for change in changes}
        now = self._clock()
        made = ReferenceSet(
            referencesets.checked_values(tee, measured),
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
        kind, now = referencesets.tee_named(tee), self._clock()

        def edit(before: Document | None) -> str:
            return referencesets.written(referencesets.with_retired(_sets(before), kind, name, now))

        async def unchecked(text: str) -> Relied:
            del text
            return {}

        text = await self._changes.change(REFERENCE_SETS, edit, unchecked)
        self._events.record(ReferenceRetired(caller=caller.name, tee=kind, name=name))
        await self._changes.prepare()
        return referencesets.parse(text)[kind][name]

    async def _add(self, caller: Caller, tee: Tee, name: str, made: ReferenceSet) -> ReferenceSet:
        def edit(before: Document | None) -> str:
            return referencesets.written(referencesets.with_set(_sets(before), tee, name, made))

        async def check(text: str) -> Relied:
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


def _sets(document: Document | None) -> dict[Tee, referencesets.Sets]:
    return {} if document is None else referencesets.parse(document.text)
