"""Changes of documents: read, check, compare-and-swap.

Only this module stores policies, reference data, named sets and release policies. A change is
computed from the stored document, checked together with the other documents by which guests will
be appraised, and stored only if none of them has changed since. Therefore no lock is needed,
neither in this process nor across several.

Example: `reference retire` reads revision 1 of the sets. `reference add` stores revision 2
meanwhile. The store answers `Conflict`, the retirement is computed again from revision 2, and
neither change is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from verdictd_py.broker.recording import record_and_change
from verdictd_py.documents import referencesets
from verdictd_py.documents.deciding import combine, require_sets
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.callers import Caller
from verdictd_py.domain.events import PolicySet
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.names import RELEASE_DATA, RELEASE_POLICY, Name
from verdictd_py.errors import Conflict, NotFound, PolicyInvalid, RequestError, StorageError
from verdictd_py.offload import LARGE, offload
from verdictd_py.ports import (
    ABSENT,
    ANY,
    Document,
    DocumentStore,
    Events,
    Expected,
    PolicyDocuments,
    PolicyTester,
    Tees,
)

MAX_ATTEMPTS: Final = 20
"""Attempts at one change. An attempt fails only if another change was stored during it, so that
a change fails only if this many changes overlap with it."""

FALLBACK_POLICY: Final = "package policy\n\ndefault allow = false\n"
"""Policy with which data is checked if it has no policy, or if its policy is broken."""

_NO_DATA: Final = ReferenceData.of({})

ReadRevisions = Mapping[Name, Expected]
"""Revisions of the documents that a check has read."""

Result = TypeVar("Result")


def policy_set_event(caller: Caller, name: Name, text: str) -> PolicySet:
    """Return the event that announces a new text of a document."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return PolicySet(caller=caller.name, name=str(name), sha256=digest)


class OutdatedRevision(Conflict):
    """The change is based on an outdated revision, so that another attempt cannot succeed."""


async def retry_on_conflict(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Run an attempt that reads, checks and stores; repeat it if it raises `Conflict`.

    Raises:
        Conflict: `MAX_ATTEMPTS` attempts failed, or the caller's revision is outdated.
    """
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return await attempt()
        except OutdatedRevision:
            raise
        except Conflict:
            continue
    return await attempt()


class CheckedDocuments:
    """Stores documents after checks whose results still apply when the document is stored.

    Args:
        tees: the known TEEs, which define the schemas of reference data.
        clock: returns now, with a time zone; named sets expire.
        events: records each change before it is made.
        prepare: compiles the policies in force. Callers await it after a change, so that the
            next guest does not wait for the compiler.
    """

    def __init__(
        self,
        documents: DocumentStore,
        tees: Tees,
        tester: PolicyTester,
        clock: Callable[[], datetime],
        prepare: Callable[[], Awaitable[object]],
        events: Events,
    ) -> None:
        self._documents = documents
        self._tees = tees
        self._tester = tester
        self._clock = clock
        self._events = events
        self.prepare = prepare

    async def change(
        self,
        caller: Caller,
        name: Name,
        edit: Callable[[Document | None], str],
        check: Callable[[str], Awaitable[ReadRevisions]],
        *,
        announced: Callable[[str], tuple[Event, ...]],
        based_on: Expected | None = None,
    ) -> str:
        """Edit a document, check the result, record the change, and store the document.

        Args:
            edit: returns the new text for the stored document (None if there is none); it may
                be called several times.
            check: raises if the new text must not be stored; returns the revisions it has read.
            announced: returns the events that announce the change to this text.
            based_on: revision that the caller has seen, `ABSENT`, or `ANY` for a text that
                replaces any stored document; None to edit the current document.

        Returns:
            The stored text.

        Raises:
            Conflict: the document does not have the revision that the change is based on.
            PolicyInvalid, RequestError, NotFound: raised by `edit` or `check`.
            StorageError: the change could not be recorded, or the document not stored; or not
                read, if `based_on` is None.
        """

        async def attempt() -> str:
            if based_on is None:  # what cannot be read must not be edited as if it were empty
                before = await self._existing(name)
                expected: Expected = ABSENT if before is None else before.revision
            else:
                before, expected = await self._current(name)
                if based_on is not ANY and based_on != expected:
                    raise OutdatedRevision(f"{name} has changed since it was read; read it again")
                expected = based_on
            # Always in a thread: `edit` may add many values to a small text.
            text = await offload(LARGE, partial(edit, before))
            revisions = await check(text)
            others = {other: wanted for other, wanted in revisions.items() if other != name}
            await record_and_change(
                self._events,
                caller,
                str(name),
                announced(text),
                lambda: self._documents.put(name, text, expected=expected, unchanged=others),
            )
            return text

        return await retry_on_conflict(attempt)

    async def delete(
        self,
        caller: Caller,
        name: Name,
        check: Callable[[], Awaitable[ReadRevisions]],
        *,
        announced: Event,
        based_on: Expected = ANY,
    ) -> None:
        """Record the deletion of a document, and delete it.

        Args:
            check: raises if the document must not be deleted; returns the revisions it has read.
            announced: event that announces the deletion.
            based_on: revision that the caller has seen.

        Raises:
            NotFound: no document has that name.
            Conflict: the document has changed since the caller has seen it.
            StorageError: the deletion could not be recorded, or the document not deleted.
        """

        async def attempt() -> None:
            revisions = await check()
            with suppress(StorageError):  # unreadable documents can be deleted
                await self._documents.get(name)
            others = {other: wanted for other, wanted in revisions.items() if other != name}
            await record_and_change(
                self._events,
                caller,
                str(name),
                (announced,),
                lambda: self._documents.delete(name, expected=based_on, unchanged=others),
            )

        await retry_on_conflict(attempt)

    async def current(self, name: Name) -> Expected:
        """Return the revision of a document, `ABSENT`, or `ANY` if it cannot be read."""
        return (await self._current(name))[1]

    async def check_policy(self, name: Name, policy: str) -> ReadRevisions:
        """Check a policy with the data that it will use.

        If the data is broken, the policy is checked without data: otherwise an operator could
        fix neither of them.

        Raises:
            PolicyInvalid: the policy would refuse every guest.
        """
        tee = self._documents.tee_of(name)
        revisions: dict[Name, Expected] = {}
        before = await self._read(name, revisions)
        data = _NO_DATA
        try:
            data = await self._deciding_data(tee, revisions, policy)
            await self._tester.check(PolicyDocuments.combine(policy, data), tee)
        except PolicyInvalid:
            if data is not _NO_DATA and await self._passes(FALLBACK_POLICY, data, tee):
                raise
            if data is _NO_DATA and before is not None:
                await self._require_broken_data(tee, before.text, policy)
            await self._tester.check(PolicyDocuments.combine(policy, _NO_DATA), tee)
        return revisions

    async def _require_broken_data(self, tee: str | None, before: str, policy: str) -> None:
        """Refuse a policy that ignores data which the previous policy reads.

        Raises:
            PolicyInvalid: the data fits the policy `before`, but not the new one.
        """
        revisions: dict[Name, Expected] = {}
        try:
            await self._deciding_data(tee, revisions, before)
        except PolicyInvalid:
            return  # the data is broken with both policies
        await self._deciding_data(tee, revisions, policy)

    async def check_data(self, name: Name, text: str) -> ReadRevisions:
        """Check reference data, combined with the sets in force, with its policy.

        If the policy is broken with any data, the data is checked without it.

        Raises:
            PolicyInvalid: every guest would be refused.
        """
        reference = await offload(len(text), partial(ReferenceData.parse, text))
        tee = self._documents.tee_of(name)
        revisions: dict[Name, Expected] = {}
        if tee is None:
            policy = RELEASE_POLICY if name == RELEASE_DATA else None
            await self._check_with_policy(reference, policy, None, revisions)
            return revisions
        policy = self._documents.policy_name(tee)
        sets = await self._usable_sets(tee, revisions)
        reference = await self._combine_with_stored_policy(tee, reference, sets, revisions)
        await self._check_with_policy(reference, policy, tee, revisions)
        return revisions

    async def check_sets(self, sets: Mapping[str, referencesets.Sets], *tees: str) -> ReadRevisions:
        """Check the policy of each of `tees` with its data and these sets.

        Raises:
            NotFound: a TEE has no policy.
            PolicyInvalid: every guest would be refused.
        """
        revisions: dict[Name, Expected] = {}
        for tee in tees:
            stored = await self._read(self._documents.reference_name(tee), revisions)
            reference = await self._combine_with_stored_policy(
                tee, await _parse_reference(stored), sets[tee], revisions
            )
            policy = self._documents.policy_name(tee)
            await self._check_with_policy(reference, policy, tee, revisions)
        return revisions

    async def check_without_set(
        self, sets: referencesets.Sets, tee: str, fields: Iterable[str]
    ) -> ReadRevisions:
        """Check that deleting a set leaves no list of reference values empty.

        The policy is not checked: a deletion must succeed even if the policy is broken.

        Args:
            sets: the remaining sets of the TEE.
            fields: measurements of the deleted set.

        Raises:
            RequestError: a list would be empty, so that any value would be accepted.
            PolicyInvalid: the reference data cannot be read.
        """
        revisions: dict[Name, Expected] = {}
        name = self._documents.reference_name(tee)
        stored = await _parse_reference(await self._read(name, revisions))
        union = partial(referencesets.union, stored.values, sets, self._clock())
        remaining = await offload(LARGE, lambda: ReferenceData.of(union()))
        unpinned = remaining.unpinned(fields)
        if unpinned:
            raise RequestError(
                f"without this set any value of {', '.join(unpinned)} would be accepted; "
                "add a set in force or pin a value first"
            )
        return revisions

    async def _check_with_policy(
        self,
        reference: ReferenceData,
        name: Name | None,
        tee: str | None,
        revisions: dict[Name, Expected],
    ) -> None:
        """Check data with the stored policy `name`, or with `FALLBACK_POLICY` if there is none."""
        stored = None if name is None else await self._read(name, revisions)
        policy = FALLBACK_POLICY if stored is None else stored.text
        try:
            await self._tester.check(PolicyDocuments.combine(policy, reference), tee)
        except PolicyInvalid:
            if await self._passes(policy, _NO_DATA, tee):
                raise
            await self._tester.check(PolicyDocuments.combine(FALLBACK_POLICY, reference), tee)

    async def _deciding_data(
        self, tee: str | None, revisions: dict[Name, Expected], policy: str
    ) -> ReferenceData:
        """Return the data that `policy` would use; without a TEE, the data of release policies.

        Raises:
            PolicyInvalid: the stored data is broken, or does not fit the policy.
        """
        name = RELEASE_DATA if tee is None else self._documents.reference_name(tee)
        reference = await _parse_reference(await self._read(name, revisions))
        if tee is None:
            return reference
        sets = await self._usable_sets(tee, revisions)
        return await self._combine_with(tee, reference, sets, policy)

    async def _combine_with_stored_policy(
        self,
        tee: str,
        reference: ReferenceData,
        sets: referencesets.Sets,
        revisions: dict[Name, Expected],
    ) -> ReferenceData:
        """Combine data and sets as guests would be appraised by them with the stored policy."""
        stored = await self._read(self._documents.policy_name(tee), revisions)
        return await self._combine_with(tee, reference, sets, "" if stored is None else stored.text)

    async def _combine_with(
        self, tee: str, reference: ReferenceData, sets: referencesets.Sets, policy: str
    ) -> ReferenceData:
        name = self._documents.reference_name(tee)
        schema, now = self._tees.schema(tee), self._clock()
        work = partial(combine, schema, name, reference, sets, policy=policy, now=now)
        return await offload(LARGE if sets else len(reference.text), work)

    async def _usable_sets(self, tee: str, revisions: dict[Name, Expected]) -> referencesets.Sets:
        """Return the stored sets of a TEE; no sets if they are broken.

        Every guest is refused until broken sets are fixed. The document that is being changed
        may be correct, so that it is checked without them.
        """
        stored = await self._read(referencesets.DOCUMENT, revisions)
        if stored is None:
            return {}
        try:
            work = partial(_checked_sets, self._tees.schema(tee), tee, stored.text)
            return await offload(len(stored.text), work)
        except (RequestError, PolicyInvalid):
            return {}

    async def _passes(self, policy: str, reference: ReferenceData, tee: str | None) -> bool:
        try:
            await self._tester.check(PolicyDocuments.combine(policy, reference), tee)
        except PolicyInvalid:
            return False
        return True

    async def _read(self, name: Name, revisions: dict[Name, Expected]) -> Document | None:
        """Return a document and add its revision; None if it is missing or cannot be read."""
        document, revisions[name] = await self._current(name)
        return document

    async def _current(self, name: Name) -> tuple[Document | None, Expected]:
        try:
            document = await self._existing(name)
        except StorageError:
            return None, ANY
        return (None, ABSENT) if document is None else (document, document.revision)

    async def _existing(self, name: Name) -> Document | None:
        try:
            return await self._documents.get(name)
        except NotFound:
            return None


def _checked_sets(schema: ReferenceSchema, tee: str, text: str) -> referencesets.Sets:
    """Return the sets of a TEE in a document.

    Raises:
        RequestError, PolicyInvalid: the document has another form, or a set does not fit.
    """
    sets = referencesets.parse(text).get(tee, {})
    require_sets(schema, sets)
    return sets


async def _parse_reference(document: Document | None) -> ReferenceData:
    if document is None:
        return _NO_DATA
    return await offload(len(document.text), partial(ReferenceData.parse, document.text))
