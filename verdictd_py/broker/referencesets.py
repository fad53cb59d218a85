"""Administration of named sets of reference values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from verdictd_py.broker import pinning
from verdictd_py.broker.changes import CheckedDocuments, ReadRevisions
from verdictd_py.broker.history import History
from verdictd_py.documents import referencesets
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import ReferenceAdded, ReferenceDeleted, ReferenceRetired
from verdictd_py.domain.names import REFERENCE_SETS
from verdictd_py.errors import NotFound
from verdictd_py.offload import offload
from verdictd_py.ports import Document, DocumentStore, PolicySource, Tees


class SetAdministrator:
    """Use cases for named sets; every method first checks the caller's right.

    Args:
        documents: the stored documents; only read here.
        changes: checks and stores documents.
        deciding: documents by which guests are appraised: stored data with the named sets in
            force.
        clock: returns now, with a time zone.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        deciding: PolicySource,
        tees: Tees,
        history: History,
        clock: Callable[[], datetime],
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._deciding = deciding
        self._tees = tees
        self._history = history
        self._clock = clock

    async def list_sets(self, caller: Caller, tee: str) -> dict[str, tuple[ReferenceSet, str]]:
        """Return every named set of a TEE with its state, including retired sets.

        Raises:
            NotAuthorized, RequestError, StorageError: the sets cannot be read.
        """
        caller.require(Right.MANAGE)
        tee_name, now = self._tees.named(tee).name, self._clock()
        try:
            document = await self._documents.get(REFERENCE_SETS)
        except NotFound:
            return {}
        sets = (await _parsed(document.text)).get(tee_name, {})
        return {name: (item, item.state(now)) for name, item in sorted(sets.items())}

    async def add(
        self,
        caller: Caller,
        tee: str,
        name: str,
        values: Mapping[str, Sequence[str]],
        expires_at: str,
    ) -> ReferenceSet:
        """Add a named set of values that the caller gives.

        Args:
            values: accepted values by measurement.
            expires_at: time of RFC 3339; empty for never.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, PolicyInvalid, StorageError: not stored.
        """
        caller.require(Right.MANAGE)
        known_tee, now = self._tees.named(tee), self._clock()
        given = {field: tuple(accepted) for field, accepted in values.items()}
        size = sum(len(value) for accepted in given.values() for value in accepted)
        new_set = ReferenceSet(
            await offload(size, partial(referencesets.checked_values, known_tee.claims, given)),
            caller.name,
            now,
            expires_at=referencesets.expiry(expires_at, now),
        )
        return await self._add(caller, known_tee.name, name, new_set)

    async def pin(
        self, caller: Caller, appraisal_id: str, name: str, fields: Sequence[str], expires_at: str
    ) -> ReferenceSet:
        """Add a named set of a guest's measurements.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
            RequestError, AlreadyExists, PolicyInvalid, StorageError: see `add`; or the guest
                cannot be pinned.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, appraisal_id)
        deciding = (await self._deciding.documents(tee)).reference
        changes = pinning.compute_changes(judgement, deciding, fields)
        measured = {change.field: (str(judgement.claims[change.field]),) for change in changes}
        now = self._clock()
        new_set = ReferenceSet(
            referencesets.checked_values(self._tees.named(tee).claims, measured),
            caller.name,
            now,
            evidence=judgement.evidence,
            appraisal=judgement.id,
            expires_at=referencesets.expiry(expires_at, now),
        )
        return await self._add(caller, tee, name, new_set)

    async def retire(self, caller: Caller, tee: str, name: str) -> ReferenceSet:
        """Retire a set now. It remains listed, and it leaves no list of reference values empty.

        The policy is not checked: a retirement must succeed even if the policy is broken.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: the set could not be retired.
        """
        caller.require(Right.MANAGE)
        tee_name, now = self._tees.named(tee).name, self._clock()

        def edit(before: Document | None) -> str:
            return referencesets.serialize(
                referencesets.with_retired(_sets(before), tee_name, name, now)
            )

        async def unchecked(text: str) -> ReadRevisions:
            del text
            return {}

        retired = ReferenceRetired(caller=caller.name, tee=tee_name, name=name)
        text = await self._changes.change(
            caller, REFERENCE_SETS, edit, unchecked, announced=lambda _: (retired,)
        )
        await self._changes.prepare()
        return (await _parsed(text))[tee_name][name]

    async def delete(self, caller: Caller, tee: str, name: str) -> None:
        """Delete a set that is no longer in force.

        Raises:
            NotAuthorized, NotFound, StorageError: the set could not be deleted.
            RequestError: the set is in force, or without it a list would accept any value.
            PolicyInvalid: the reference data cannot be read, so that its lists are not known.
        """
        caller.require(Right.MANAGE)
        tee_name, now = self._tees.named(tee).name, self._clock()
        fields: tuple[str, ...] = ()

        def edit(before: Document | None) -> str:
            nonlocal fields
            sets = _sets(before)
            remaining = referencesets.without(sets, tee_name, name, now)
            fields = tuple(sets[tee_name][name].values)
            return referencesets.serialize(remaining)

        async def check(text: str) -> ReadRevisions:
            remaining = (await _parsed(text)).get(tee_name, {})
            return await self._changes.check_without_set(remaining, tee_name, fields)

        deleted = ReferenceDeleted(caller=caller.name, tee=tee_name, name=name)
        await self._changes.change(
            caller, REFERENCE_SETS, edit, check, announced=lambda _: (deleted,)
        )
        await self._changes.prepare()

    async def _add(
        self, caller: Caller, tee: str, name: str, new_set: ReferenceSet
    ) -> ReferenceSet:
        def edit(before: Document | None) -> str:
            return referencesets.serialize(
                referencesets.with_set(_sets(before), tee, name, new_set)
            )

        async def check(text: str) -> ReadRevisions:
            return await self._changes.check_sets(await _parsed(text), tee)

        added = ReferenceAdded(
            caller=caller.name,
            tee=tee,
            name=name,
            appraisal=new_set.appraisal,
            values=tuple(
                f"{field}={value}"
                for field, accepted in new_set.values.items()
                for value in accepted
            ),
        )
        await self._changes.change(
            caller, REFERENCE_SETS, edit, check, announced=lambda _: (added,)
        )
        await self._changes.prepare()
        return new_set


async def _parsed(text: str) -> dict[str, referencesets.Sets]:
    """Return the sets in a document; parse a large one in a thread.

    Raises:
        RequestError: see `referencesets.parse`.
    """
    return await offload(len(text), partial(referencesets.parse, text))


def _sets(document: Document | None) -> dict[str, referencesets.Sets]:
    return {} if document is None else referencesets.parse(document.text)
