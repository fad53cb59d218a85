"""Administration of a TEE's reference data: view, pin, and replace lists.

Views show the union by which guests are appraised: the stored data with the named sets in force.
Changes affect the stored data only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from verdictd_py.broker import pinning
from verdictd_py.broker.changes import (
    CheckedDocuments,
    OutdatedRevision,
    ReadRevisions,
    policy_set_event,
)
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement
from verdictd_py.broker.pinning import PinChange, PinPreview
from verdictd_py.documents.datanames import data_names
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import ReferencePinned
from verdictd_py.domain.names import REFERENCE_SETS, Name
from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.errors import PolicyInvalid, RequestError
from verdictd_py.offload import offload
from verdictd_py.ports import (
    ABSENT,
    Document,
    DocumentStore,
    Expected,
    PolicySource,
    Tees,
)


@dataclass(frozen=True, slots=True)
class ReferenceView:
    """Reference data of a TEE, stored and in force.

    Attributes:
        name: name of the stored document.
        stored: its text.
        deciding: the data in force: stored data with the named sets in force; None if it is
            broken.
        deciding_text: its text, indented; empty if it is broken.
        unpinned: measurements for which any value is accepted.
        unread: names that have values and that the policy in force does not read.
        problem: why no guest can be appraised; empty if the data can be used.
    """

    name: Name
    stored: str
    deciding: ReferenceData | None
    unpinned: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    problem: str = ""
    deciding_text: str = ""


class ReferenceAdministrator:
    """Use cases for the reference data of TEEs; every method first checks the caller's right.

    Args:
        documents: the stored documents; only read here.
        changes: checks and stores documents.
        deciding: documents by which guests are appraised: stored data with the named sets in
            force.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        deciding: PolicySource,
        tees: Tees,
        history: History,
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._deciding = deciding
        self._tees = tees
        self._history = history

    async def view(self, caller: Caller, tee: str) -> ReferenceView:
        """Return the reference data of a TEE, stored and in force.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `DocumentStore.get`.
        """
        caller.require(Right.MANAGE)
        known_tee = self._tees.named(tee)
        name = self._documents.reference_name(known_tee.name)
        stored = (await self._documents.get(name)).text
        try:
            documents = await self._deciding.documents(known_tee.name)
            reference = documents.reference
        except PolicyInvalid as error:
            return ReferenceView(name, stored, None, problem=str(error))
        schema = self._tees.schema(known_tee.name)
        return ReferenceView(
            name,
            stored,
            reference,
            reference.unpinned(known_tee.measurements),
            schema.unread(reference.values, data_names(documents.policy)),
            deciding_text=await offload(len(reference.text), reference.serialize),
        )

    async def replace(self, caller: Caller, tee: str, values: Mapping[str, JsonValue]) -> None:
        """Replace some lists of a TEE's reference data; the others remain.

        Args:
            values: a text, or a non-empty list of texts, by name.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: nothing is stored.
        """
        caller.require(Right.MANAGE)
        lists = _lists(values)
        name = self._documents.reference_name(tee)

        def edit(before: Document | None) -> str:
            return ReferenceData.of({**_reference(before).values, **lists}).serialize()

        async def check(text: str) -> ReadRevisions:
            return await self._changes.check_data(name, text)

        await self._changes.change(
            caller,
            name,
            edit,
            check,
            announced=lambda text: (policy_set_event(caller, name, text),),
        )
        await self._changes.prepare()

    async def preview_pin(
        self, caller: Caller, appraisal_id: str, fields: Sequence[str]
    ) -> PinPreview:
        """Return what `pin` would change.

        Args:
            appraisal_id: id of an appraisal in the history.
            fields: measurements to pin. If there are none: those for which the guest was
                refused, or those that are not pinned yet if it was accepted.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
            RequestError: the guest cannot be pinned, or a field is not a measurement of it.
            PolicyInvalid, StorageError: the reference data cannot be read.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, appraisal_id)
        name = self._documents.reference_name(tee)
        document = await self._documents.get(name)
        # Read before the union: if a set changes in between, the pin is refused as outdated.
        revision = f"{document.revision}{_SEPARATOR}{await self._sets_revision()}"
        changes = await self._changes_for(judgement, tee, fields)
        return PinPreview(judgement, name, changes, revision)

    async def pin(
        self, caller: Caller, appraisal_id: str, fields: Sequence[str], revision: str
    ) -> PinPreview:
        """Add a guest's measurements to the stored reference data.

        Args:
            revision: revision in the preview that the operator confirmed.

        Raises:
            NotAuthorized, NotFound, StorageError: see `preview_pin`.
            Conflict: the data or the named sets have changed since the preview.
            RequestError: see `preview_pin`; or nothing would change.
            PolicyInvalid: the policy cannot be used with the changed data.
        """
        caller.require(Right.MANAGE)
        judgement, tee = self._history.pinnable(caller, appraisal_id)
        name = self._documents.reference_name(tee)
        of_data, _, of_sets = revision.partition(_SEPARATOR)
        if await self._changes.current(name) != of_data:
            raise OutdatedRevision(f"{name} has changed since it was read; read it again")
        changes = await self._changes_for(judgement, tee, fields)

        def edit(before: Document | None) -> str:
            return pinning.add_values(_reference(before), changes).serialize()

        async def check(text: str) -> ReadRevisions:
            revisions = await self._changes.check_data(name, text)
            if _written(revisions.get(REFERENCE_SETS, ABSENT)) != of_sets:
                raise OutdatedRevision(
                    f"{REFERENCE_SETS} has changed since it was read; read it again"
                )
            return revisions

        pinned = _pinned(caller, judgement, name, changes)
        await self._changes.change(
            caller,
            name,
            edit,
            check,
            announced=lambda text: (policy_set_event(caller, name, text), pinned),
            based_on=of_data,
        )
        await self._changes.prepare()
        return PinPreview(judgement, name, changes, revision)

    async def _changes_for(
        self, judgement: Judgement, tee: str, fields: Sequence[str]
    ) -> tuple[PinChange, ...]:
        deciding = (await self._deciding.documents(tee)).reference
        return pinning.compute_changes(judgement, deciding, fields)

    async def _sets_revision(self) -> str:
        return _written(await self._changes.current(REFERENCE_SETS))


_SEPARATOR: Final = "."
"""Separator of the revisions of data and sets, which are hexadecimal."""


def _written(revision: Expected) -> str:
    return revision if isinstance(revision, str) else str(revision.value)


def _pinned(
    caller: Caller, judgement: Judgement, name: Name, changes: Sequence[PinChange]
) -> ReferencePinned:
    return ReferencePinned(
        caller=caller.name,
        appraisal=judgement.id,
        name=str(name),
        values=tuple(f"{item.field}={item.added}" for item in changes if item.added),
    )


def _reference(document: Document | None) -> ReferenceData:
    return ReferenceData.parse("{}" if document is None else document.text)


def _lists(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    lists: dict[str, JsonValue] = {}
    for name, value in values.items():
        accepted: list[JsonValue] = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in accepted):
            raise RequestError(f"{quoted(name)}: values must be a text or a list of texts")
        if not accepted:  # it would unpin the claim
            raise RequestError(f"{quoted(name)}: an empty list would accept any value; give values")
        lists[name] = accepted
    return lists
