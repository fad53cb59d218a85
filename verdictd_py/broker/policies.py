"""What operators do with appraisal policies and reference data.

Whoever sets policies can release every key: `Right.MANAGE` is trust, not a formality.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from verdictd_py.broker import pinning
from verdictd_py.broker.history import History, Judgement
from verdictd_py.broker.pinning import Change
from verdictd_py.domain import referencesets, releasepolicies
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import PolicySet, ReferencePinned
from verdictd_py.domain.names import REFERENCE_SETS, RELEASE_DATA, RELEASE_POLICIES, Name
from verdictd_py.encoding import JsonValue, decode_object, shown
from verdictd_py.errors import NotFound, PolicyInvalid, RequestError, StorageError
from verdictd_py.ports import (
    DocumentStore,
    Events,
    PolicyDocuments,
    PolicySource,
    PolicyTester,
    Tees,
    TestedPolicy,
)

MAX_CLAIMS_BYTES: Final = 1024 * 1024
"""Of the input of a test, as the engine takes."""

_ANY_POLICY: Final = "package policy\n\ndefault allow = false\n"
"""Reference data of no policy that is known is checked for what it may not contain."""


_DATA: Final = frozenset({REFERENCE_SETS, RELEASE_DATA, RELEASE_POLICIES})
"""No policy has one of these names; the broker would find it where it reads JSON."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A guest's measurements beside the reference data `name`.

    Attributes:
        revision: of the data before the change; another state of it is refused.
    """

    judgement: Judgement
    name: Name
    changes: tuple[Change, ...]
    revision: str


class PolicyAdministrator:
    """Policies, reference data and pins; every use case asks first whether the caller may.

    Args:
        documents: what operators store.
        deciding: what guests are judged by: the stored data with the named sets in force.
        tees: those that are known.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        deciding: PolicySource,
        tees: Tees,
        tester: PolicyTester,
        history: History,
        events: Events,
    ) -> None:
        self._documents = documents
        self._deciding = deciding
        self._tees = tees
        self._tester = tester
        self._history = history
        self._events = events
        # What was checked together must be stored before the other half changes.
        self._changing = asyncio.Lock()

    @property
    def tees(self) -> Tees:
        """The TEEs that are known, whose documents these are."""
        return self._tees

    async def get(self, caller: Caller, name: str) -> str:
        """A policy, or reference data.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `DocumentStore.get`.
        """
        caller.require(Right.MANAGE)
        return await self._documents.get(_name(name))

    async def set_policy(self, caller: Caller, name: str, content: bytes) -> None:
        """Stores a policy that works; one that does not leaves the old in force.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: not stored.
        """
        caller.require(Right.MANAGE)
        checked, policy = _name(name), _text(content, "the policy")
        tee = self._documents.tee_of(checked)
        self._refuse_other_half(checked, tee, policy=True)
        async with self._changing:
            stored = await self._stored(tee)
            try:
                await self._tester.check(PolicyDocuments(policy, stored.data), tee)
            except PolicyInvalid:
                # Broken data must not keep a good policy out: both could never be mended.
                if await self._works(PolicyDocuments(_ANY_POLICY, stored.data), tee):
                    raise
                await self._tester.check(PolicyDocuments(policy, "{}"), tee)
            await self._store(caller, checked, policy)

    async def set_reference(self, caller: Caller, name: str, content: bytes) -> None:
        """Stores reference data that its policy works with, or leaves the old in force.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: not stored.
        """
        caller.require(Right.MANAGE)
        checked, data = _name(name), _text(content, "the reference data")
        tee = self._documents.tee_of(checked)
        self._refuse_other_half(checked, tee, policy=False)
        if checked == referencesets.DOCUMENT:
            for named in referencesets.parse(data):
                self._tees.named(named)
        if checked == RELEASE_POLICIES:
            await self._require_policies(data)
        async with self._changing:
            await self._set_reference(caller, checked, data, tee)

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
        """What a policy would decide; nothing is stored.

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
        asked = decode_object(claims, "the input")
        if policy is None:
            rules = await self._documents.get(_name(policy_name))
        else:
            rules = _text(policy, "the policy")
        if reference is None:
            data = await self._deciding_data(_name(reference_name))
        else:
            data = _text(reference, "the reference data")
        return await self._tester.test(PolicyDocuments(rules, data), asked)

    async def reference_of(self, caller: Caller, tee: str) -> tuple[Name, str, tuple[str, ...]]:
        """Name and text of a TEE's reference data, and the measurements that it leaves open.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `DocumentStore.get`.
        """
        caller.require(Right.MANAGE)
        known = self._tees.named(tee)
        name = self._documents.reference_name(known.name)
        text = await self._documents.get(name)
        return name, text, pinning.unpinned(known.measurements, _reference(text))

    async def replace_reference(
        self, caller: Caller, tee: str, values: Mapping[str, JsonValue]
    ) -> None:
        """Puts lists of values into the reference data of a TEE, each in the place of its name's.

        Args:
            values: a text, or a list of texts that is not empty, by name.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: nothing is stored.
        """
        caller.require(Right.MANAGE)
        lists = {
            name: value if isinstance(value, list) else [value] for name, value in values.items()
        }
        for name, each in lists.items():
            if not all(isinstance(value, str) for value in each):
                raise RequestError(f"{shown(name)}: reference values are texts, or a list of them")
            if not each:  # it would open what is pinned
                raise RequestError(f"{shown(name)}: an empty list means any value; give values")
        async with self._changing:
            stored = await self._documents.get(self._documents.reference_name(tee))
            changed = {**_reference(stored), **lists}
            text = json.dumps(changed, indent=2) + "\n"
            await self._set_reference(caller, self._documents.reference_name(tee), text, tee)

    async def preview_pin(self, caller: Caller, which: str, fields: Sequence[str]) -> Pin:
        """What `pin` would change.

        Args:
            which: id of a judgement that is remembered.
            fields: measurements; none for those that refused the guest, or of a guest that
                was accepted, those that are not pinned yet.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
            RequestError: the guest cannot be pinned, or a field is no measurement of it.
            StorageError: the reference data cannot be read.
        """
        caller.require(Right.MANAGE)
        return (await self._pin(caller, which, fields))[0]

    async def pin(self, caller: Caller, which: str, fields: Sequence[str], revision: str) -> Pin:
        """Adds a guest's measurements to the reference data.

        Args:
            revision: of the `preview_pin` that a person has seen.

        Raises:
            NotAuthorized, NotFound, StorageError: as `preview_pin`.
            RequestError: as there, or the data has changed since, or nothing would change.
            PolicyInvalid: the policy does not work with the changed data.
        """
        caller.require(Right.MANAGE)
        async with self._changing:
            found, reference = await self._pin(caller, which, fields)
            if found.revision != revision:
                raise RequestError(
                    "the reference data has changed since it was shown; look at it again"
                )
            added = [change for change in found.changes if change.added]
            if not added:
                raise RequestError("every one of these measurements is accepted already")
            for change in added:
                reference[change.field] = [*change.accepted, change.added]
            text = json.dumps(reference, indent=2) + "\n"
            await self._set_reference(caller, found.name, text, found.judgement.tee)
            self._events.record(
                ReferencePinned(
                    caller=caller.name,
                    appraisal=found.judgement.id,
                    name=str(found.name),
                    values=tuple(f"{change.field}={change.added}" for change in added),
                )
            )
        return found

    async def _pin(
        self, caller: Caller, which: str, fields: Sequence[str]
    ) -> tuple[Pin, dict[str, JsonValue]]:
        judgement, tee = self._history.pinnable(caller, which)
        name = self._documents.reference_name(tee)
        text = await self._documents.get(name)
        reference = _reference(text)
        changes = pinning.changes(judgement, reference, fields)
        return Pin(judgement, name, changes, _revision(text)), reference

    async def _set_reference(self, caller: Caller, name: Name, data: str, tee: str | None) -> None:
        """Checks and stores, inside the lock."""
        stored = await self._stored(tee)
        try:
            await self._tester.check(PolicyDocuments(stored.policy, data), tee)
        except PolicyInvalid:
            # As above: a policy that is broken with any data must not keep good data out.
            if await self._works(PolicyDocuments(stored.policy, "{}"), tee):
                raise
            await self._tester.check(PolicyDocuments(_ANY_POLICY, data), tee)
        await self._store(caller, name, data)

    async def _require_policies(self, text: str) -> None:
        """Refuses names of release policies that nobody has stored: they release nothing."""
        for prefix, name in releasepolicies.parse(text).items():
            try:
                await self._documents.get(name)
            except NotFound:
                raise RequestError(
                    f"there is no policy {name} for {shown(prefix)}; "
                    f"store it first (verdict-py policy set {name} FILE)"
                ) from None

    async def _works(self, documents: PolicyDocuments, tee: str | None) -> bool:
        try:
            await self._tester.check(documents, tee)
        except PolicyInvalid:
            return False
        return True

    async def _stored(self, tee: str | None) -> PolicyDocuments:
        """What is stored for the TEE; where a half is missing, one that decides nothing."""
        halves = [_ANY_POLICY, "{}"]
        if tee is not None:
            names = (self._documents.policy_name(tee), self._documents.reference_name(tee))
            for index, name in enumerate(names):
                try:
                    halves[index] = await self._documents.get(name)
                except (NotFound, StorageError):
                    continue
        return PolicyDocuments(*halves)

    def _refuse_other_half(self, name: Name, tee: str | None, *, policy: bool) -> None:
        """A policy is never stored as reference data, nor the reverse."""
        if not policy and str(name).endswith(".rego"):
            raise RequestError(f"{name} holds a policy; set it as that")
        if policy and name in _DATA:
            raise RequestError(f"{name} holds data; set it as reference data")
        if tee is None:
            return
        other = self._documents.reference_name(tee) if policy else self._documents.policy_name(tee)
        if name == other:
            what = "reference data" if policy else "a policy"
            raise RequestError(f"{name} holds {what}; set it as that")

    async def _deciding_data(self, name: Name) -> str:
        tee = self._documents.tee_of(name)
        if tee is None or name != self._documents.reference_name(tee):
            return await self._documents.get(name)
        try:
            return (await self._deciding.documents(tee)).data
        except NotFound:  # it may be the policy that is missing
            return await self._documents.get(name)

    async def _store(self, caller: Caller, name: Name, text: str) -> None:
        await self._documents.put(name, text)
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


def _reference(text: str) -> dict[str, JsonValue]:
    return decode_object(text.encode(), "the stored reference data")


def _revision(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
