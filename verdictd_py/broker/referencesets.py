"""What operators do with named sets of reference values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from verdictd_py.broker import pinning
from verdictd_py.broker.history import History
from verdictd_py.domain import referencesets
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import ReferenceAdded, ReferenceRetired
from verdictd_py.domain.names import Name
from verdictd_py.domain.referencesets import ReferenceSet
from verdictd_py.encoding import decode_object, shown
from verdictd_py.errors import AlreadyExists, NotFound, RequestError
from verdictd_py.ports import DocumentStore, Events, PolicyDocuments, PolicyTester, Tees


class SetAdministrator:
    """Named sets; every use case asks first whether the caller may."""

    def __init__(
        self,
        *,
        documents: DocumentStore,
        tees: Tees,
        tester: PolicyTester,
        history: History,
        events: Events,
        clock: Callable[[], datetime],
    ) -> None:
        self._documents = documents
        self._tees = tees
        self._tester = tester
        self._history = history
        self._events = events
        self._clock = clock
        self._changing = asyncio.Lock()

    async def listed(self, caller: Caller, tee: str) -> dict[str, tuple[ReferenceSet, str]]:
        """Every set of a TEE with its state, retired ones among them.

        Raises:
            NotAuthorized, RequestError, StorageError: the sets cannot be read.
        """
        caller.require(Right.MANAGE)
        sets = (await self._all()).get(self._tees.named(tee).name, {})
        now = self._clock()
        return {name: (each, each.state(now)) for name, each in sorted(sets.items())}

    async def add(
        self,
        caller: Caller,
        tee: str,
        name: str,
        values: Mapping[str, Sequence[str]],
        expires_at: str,
    ) -> ReferenceSet:
        """A new set of values given by hand.

        Args:
            expires_at: RFC 3339; empty for never.

        Raises:
            NotAuthorized, RequestError, AlreadyExists, PolicyInvalid, StorageError
        """
        caller.require(Right.MANAGE)
        kind = self._tees.named(tee)
        given = {field: tuple(accepted) for field, accepted in values.items()}
        made = ReferenceSet(
            referencesets.checked_values(kind.claims, given),
            caller.name,
            self._clock(),
            expires_at=self._expiry(expires_at),
        )
        await self._store(caller, kind.name, name, made)
        return made

    async def pin(
        self, caller: Caller, which: str, name: str, fields: Sequence[str], expires_at: str
    ) -> ReferenceSet:
        """A new set of what a guest measured.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
            RequestError, AlreadyExists, PolicyInvalid, StorageError: as `add`; also for a
                guest that cannot be pinned.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, which)
        text = await self._documents.get(self._documents.reference_name(tee))
        reference = decode_object(text.encode(), "the stored reference data")
        changes = pinning.changes(judgement, reference, fields)
        measured = {change.field: (str(judgement.claims[change.field]),) for change in changes}
        made = ReferenceSet(
            referencesets.checked_values(self._tees.named(tee).claims, measured),
            caller.name,
            self._clock(),
            evidence=judgement.evidence,
            appraisal=judgement.id,
            expires_at=self._expiry(expires_at),
        )
        await self._store(caller, tee, name, made)
        return made

    async def retire(self, caller: Caller, tee: str, name: str) -> ReferenceSet:
        """Ends a set now. It stays listed, and its lists stay closed.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError
        """
        caller.require(Right.MANAGE)
        kind = self._tees.named(tee).name
        async with self._changing:
            sets = await self._all()
            each = sets.get(kind, {}).get(name)
            if each is None:
                raise NotFound(f"there is no set {shown(name)}")
            sets[kind][name] = referencesets.retired(each, self._clock())
            await self._documents.put(referencesets.DOCUMENT, referencesets.written(sets))
        self._events.record(ReferenceRetired(caller=caller.name, tee=kind, name=name))
        return sets[kind][name]

    async def _store(self, caller: Caller, tee: str, name: str, made: ReferenceSet) -> None:
        """Stores a new set with which the policy works."""
        if len(Name.parse(name).segments) != 1:
            raise RequestError("a set has a name of one segment")
        async with self._changing:
            sets = await self._all()
            of_tee = sets.setdefault(tee, {})
            if name in of_tee:
                raise AlreadyExists(f"there is a set {name} already; choose another name")
            if len(of_tee) >= referencesets.MAX_SETS:
                raise RequestError(f"there are {referencesets.MAX_SETS} sets already")
            of_tee[name] = made
            stored = await self._documents.documents(tee)
            reference = decode_object(stored.data.encode(), "the stored reference data")
            data = json.dumps(referencesets.union(reference, of_tee, self._clock()))
            await self._tester.check(PolicyDocuments(stored.policy, data), tee)
            await self._documents.put(referencesets.DOCUMENT, referencesets.written(sets))
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

    async def _all(self) -> dict[str, referencesets.Sets]:
        try:
            return referencesets.parse(await self._documents.get(referencesets.DOCUMENT))
        except NotFound:
            return {}

    def _expiry(self, text: str) -> datetime | None:
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None or moment <= self._clock():
            raise RequestError(f"{shown(text)} is no time to come; write 2027-11-24T12:00:00Z")
        return moment
