"""Administration of policies, reference data and pins.

Every change goes through `CheckedDocuments`, as those of named sets do. A caller who can set
policies can release every key: `Right.MANAGE` is trust, not a formality.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from verdictd_py.broker import pinning
from verdictd_py.broker.changes import CheckedDocuments, Relied
from verdictd_py.broker.history import History
from verdictd_py.broker.pinning import Change, Pin
from verdictd_py.documents import referencesets, releasepolicies
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import PolicySet, ReferencePinned
from verdictd_py.domain.names import REFERENCE_SETS, RELEASE_DATA, RELEASE_POLICIES, Name
from verdictd_py.encoding import JsonValue, decode_object, quoted
from verdictd_py.errors import NotFound, RequestError
from verdictd_py.ports import (
    ANY,
    Document,
    DocumentStore,
    Events,
    PolicyDocuments,
    PolicySource,
    PolicyTester,
    Tees,
    TestedPolicy,
)

MAX_CLAIMS_BYTES: Final = 1024 * 1024
"""Largest input of a test, in bytes; the engine takes as much."""

_DATA: Final = frozenset({REFERENCE_SETS, RELEASE_DATA, RELEASE_POLICIES})
"""Names that no policy has: the broker reads JSON there."""


class DocumentAdministrator:
    """Use cases for policies, reference data and pins; each first requires the caller's right.

    Args:
        documents: what operators store; only read here.
        changes: the one place that stores.
        deciding: what guests are appraised by: the stored data with the named sets in force.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        deciding: PolicySource,
        tees: Tees,
        tester: PolicyTester,
        history: History,
        events: Events,
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._deciding = deciding
        self._tees = tees
        self._tester = tester
        self._history = history
        self._events = events

    @property
    def tees(self) -> Tees:
        """The TEEs that are known, whose documents these are."""
        return self._tees

    async def get(self, caller: Caller, name: str) -> str:
        """Return a policy, or reference data.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `DocumentStore.get`.
        """
        caller.require(Right.MANAGE)
        return (await self._documents.get(_name(name))).text

    async def set_policy(self, caller: Caller, name: str, content: bytes) -> None:
        """Store a policy that works. One that does not leaves the old policy in force.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: not stored.
        """
        caller.require(Right.MANAGE)
        checked, policy = _name(name), _text(content, "the policy")
        self._refuse_other_half(checked, policy=True)

        async def check(text: str) -> Relied:
            return await self._changes.check_policy(checked, text)

        # Nothing edits a policy in place, so that a whole new one loses no change: ANY.
        await self._changes.change(checked, lambda _: policy, check, based_on=ANY)
        self._record_set(caller, checked, policy)
        await self._changes.prepare()

    async def set_reference(self, caller: Caller, name: str, content: bytes) -> None:
        """Store a whole document of data that its policy works with, or leave the old in force.

        Raises:
            NotAuthorized, RequestError, NotFound, PolicyInvalid, StorageError: not stored.
            Conflict: the document changed while this was checked. It is not overwritten: a
                pin or a retirement would be lost.
        """
        caller.require(Right.MANAGE)
        checked, data = _name(name), _text(content, "the reference data")
        self._refuse_other_half(checked, policy=False)
        based_on = await self._changes.current(checked)
        check = self._check_of(checked)
        await self._changes.change(checked, lambda _: data, check, based_on=based_on)
        self._record_set(caller, checked, data)
        await self._changes.prepare()

    async def test(
        self,
        caller: Caller,
        *,
        policy_name: str,
        policy: bytes | None,
        reference_name: str,
        reference: bytes | None,
        claims: bytes,
    ) -> TestedPolicy:
        """Return what a policy would decide; nothing is stored.

        Args:
            policy: the text to test, or None for the stored one of that name.
            reference: likewise; the stored one of a TEE is tested as it decides.
            claims: the input, a JSON object.

        Raises:
            NotAuthorized, RequestError, NotFound, PolicyInvalid, StorageError
        """
        caller.require(Right.MANAGE)
        if len(claims) > MAX_CLAIMS_BYTES:
            raise RequestError(f"the input is larger than {MAX_CLAIMS_BYTES} bytes")
        tested = decode_object(claims, "the input")
        if policy is None:
            rules = (await self._documents.get(_name(policy_name))).text
        else:
            rules = _text(policy, "the policy")
        if reference is None:
            data = await self._deciding_data(_name(reference_name))
        else:
            data = _text(reference, "the reference data")
        return await self._tester.test(PolicyDocuments(rules, data), tested)

    async def reference_of(self, caller: Caller, tee: str) -> tuple[Name, str, tuple[str, ...]]:
        """Return name and text of a TEE's reference data, and its unpinned measurements.

        Raises:
            NotAuthorized, RequestError, NotFound, PolicyInvalid, StorageError: see
                `DocumentStore.get`.
        """
        caller.require(Right.MANAGE)
        kind = self._tees.named(tee)
        name = self._documents.reference_name(kind.name)
        text = (await self._documents.get(name)).text
        return name, text, ReferenceData.parse(text).unpinned(kind.measurements)

    async def replace_reference(
        self, caller: Caller, tee: str, values: Mapping[str, JsonValue]
    ) -> None:
        """Replace some lists of a TEE's reference data; the others stay.

        Args:
            values: a text, or a list of texts that is not empty, by name.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: nothing is stored.
        """
        caller.require(Right.MANAGE)
        lists = _lists(values)
        name = self._documents.reference_name(tee)

        def edit(before: Document | None) -> str:
            return ReferenceData.of({**_reference(before).values, **lists}).written()

        text = await self._changes.change(name, edit, self._check_of(name))
        self._record_set(caller, name, text)
        await self._changes.prepare()

    async def preview_pin(self, caller: Caller, which: str, fields: Sequence[str]) -> Pin:
        """Return what `pin` would change.

        Args:
            which: id of a judgement that the history has.
            fields: measurements; none for those that refused the guest, or of a guest that
                was accepted, those that are not pinned yet.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
            RequestError: the guest cannot be pinned, or a field is no measurement of it.
            PolicyInvalid, StorageError: the reference data cannot be read.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, which)
        name = self._documents.reference_name(tee)
        document = await self._documents.get(name)
        changes = pinning.changes(judgement, _reference(document), fields)
        return Pin(judgement, name, changes, document.revision)

    async def pin(self, caller: Caller, which: str, fields: Sequence[str], revision: str) -> Pin:
        """Add a guest's measurements to the reference data.

        Args:
            revision: of the `preview_pin` that a person has seen.

        Raises:
            NotAuthorized, NotFound, StorageError: as `preview_pin`.
            Conflict: the data has changed since.
            RequestError: as `preview_pin`, or nothing would change.
            PolicyInvalid: the policy does not work with the changed data.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, which)
        name = self._documents.reference_name(tee)
        changes: tuple[Change, ...] = ()

        def edit(before: Document | None) -> str:
            nonlocal changes
            reference = _reference(before)
            changes = pinning.changes(judgement, reference, fields)
            return pinning.pinned(reference, changes).written()

        check = self._check_of(name)
        text = await self._changes.change(name, edit, check, based_on=revision)
        self._record_set(caller, name, text)
        self._events.record(
            ReferencePinned(
                caller=caller.name,
                appraisal=judgement.id,
                name=str(name),
                values=tuple(f"{item.field}={item.added}" for item in changes if item.added),
            )
        )
        await self._changes.prepare()
        return Pin(judgement, name, changes, revision)

    def _check_of(self, name: Name) -> Callable[[str], Awaitable[Relied]]:
        """Return what checks a whole document of that name before it is stored."""

        async def check(text: str) -> Relied:
            if name == REFERENCE_SETS:
                sets = referencesets.parse(text)
                for tee, of_tee in sets.items():
                    claims = self._tees.named(tee).claims
                    for made in of_tee.values():
                        referencesets.checked_values(claims, made.values)
                return await self._changes.check_sets(sets, *sets)
            if name == RELEASE_POLICIES:
                await self._require_policies(text)
            return await self._changes.check_data(name, text)

        return check

    async def _require_policies(self, text: str) -> None:
        """Refuse names of release policies that are not stored: they would release nothing."""
        for prefix, name in releasepolicies.parse(text).items():
            try:
                await self._documents.get(name)
            except NotFound:
                raise RequestError(
                    f"there is no policy {name} for {quoted(prefix)}; "
                    f"store it first (verdict-py policy set {name} FILE)"
                ) from None

    def _refuse_other_half(self, name: Name, *, policy: bool) -> None:
        """Refuse to store a policy as reference data, and the reverse."""
        if not policy and str(name).endswith(".rego"):
            raise RequestError(f"{name} holds a policy; set it as that")
        if policy and name in _DATA:
            raise RequestError(f"{name} holds data; set it as reference data")
        tee = self._documents.tee_of(name)
        if tee is None:
            return
        other = self._documents.reference_name(tee) if policy else self._documents.policy_name(tee)
        if name == other:
            what = "reference data" if policy else "a policy"
            raise RequestError(f"{name} holds {what}; set it as that")

    async def _deciding_data(self, name: Name) -> str:
        tee = self._documents.tee_of(name)
        if tee is not None and name == self._documents.reference_name(tee):
            with suppress(NotFound):  # it may be the policy that is missing
                return (await self._deciding.documents(tee)).data
        return (await self._documents.get(name)).text

    def _record_set(self, caller: Caller, name: Name, text: str) -> None:
        self._events.record(
            PolicySet(
                caller=caller.name, name=str(name), sha256=hashlib.sha256(text.encode()).hexdigest()
            )
        )


def _name(text: str) -> Name:
    name = Name.parse(text)
    if len(name.segments) != 1:
        raise RequestError("a policy or reference data has a name of one segment")
    return name


def _text(content: bytes, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise RequestError(f"{what} is not UTF-8 text") from None


def _reference(document: Document | None) -> ReferenceData:
    return ReferenceData.parse("{}" if document is None else document.text)


def _lists(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    lists: dict[str, JsonValue] = {}
    for name, value in values.items():
        accepted: list[JsonValue] = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in accepted):
            raise RequestError(f"{quoted(name)}: reference values are texts, or a list of them")
        if not accepted:  # it would open what is pinned
            raise RequestError(f"{quoted(name)}: an empty list means any value; give values")
        lists[name] = accepted
    return lists
