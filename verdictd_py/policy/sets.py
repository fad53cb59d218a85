"""The documents by which guests are appraised: reference data with the named sets in force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from verdictd_py.documents import referencesets
from verdictd_py.documents.deciding import combine, require_known_tees
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.names import Name
from verdictd_py.errors import PolicyInvalid, RequestError, StorageError
from verdictd_py.ports import Document, DocumentStore, PolicyDocuments, Tees


@dataclass(frozen=True, slots=True)
class _Key:
    """Everything that the documents depend on: a set changes them also when it expires."""

    policy: str
    data: str
    sets: referencesets.Sets
    states: tuple[str, ...]


class DocumentsWithSets:
    """Port `PolicySource` over a document store.

    The stored documents are read each time, so that a file changed by hand counts at once.
    What is made of them is cached by their revisions and the states of the sets: reference
    data is parsed, combined and written once for all guests that it decides about.

    Names and values that nothing reads are refused with every guest, as they are before they
    are stored: files are also edited by hand.

    Args:
        tees: whose schemas the reference data must fit.
        clock: now, with a time zone: sets expire.
    """

    def __init__(self, documents: DocumentStore, tees: Tees, clock: Callable[[], datetime]) -> None:
        self._documents = documents
        self._tees = tees
        self._clock = clock
        self._sets: tuple[str, dict[str, referencesets.Sets]] = ("", {})
        self._made: dict[str, tuple[_Key, PolicyDocuments | PolicyInvalid]] = {}

    async def documents(self, tee: str) -> PolicyDocuments:
        names = self._documents.policy_name(tee), self._documents.reference_name(tee)
        found = await self._documents.snapshot((*names, referencesets.DOCUMENT))
        policy, data = [found.get(name) or await self._documents.get(name) for name in names]
        stored_sets = found.get(referencesets.DOCUMENT)
        sets = {} if stored_sets is None else self._parsed(stored_sets).get(tee, {})
        now = self._clock()
        states = tuple(each.state(now) for each in sets.values())
        key = _Key(policy.revision, data.revision, sets, states)
        known = self._made.get(tee)
        if known is None or known[0] != key:
            schema = self._tees.schema(tee)
            made = _made(schema, names, policy.text, data.text, sets, now)
            known = self._made[tee] = key, made
        if isinstance(known[1], PolicyInvalid):
            raise PolicyInvalid(str(known[1]))
        return known[1]

    def _parsed(self, document: Document) -> dict[str, referencesets.Sets]:
        revision, sets = self._sets
        if revision != document.revision:
            try:
                sets = referencesets.parse(document.text)
                require_known_tees(sets, self._tees.names)
            except RequestError as error:
                # Every guest is refused until it is fixed.
                raise StorageError(str(error)) from None
            self._sets = document.revision, sets
        return sets


def _made(
    schema: ReferenceSchema,
    names: tuple[Name, Name],
    policy: str,
    data: str,
    sets: referencesets.Sets,
    now: datetime,
) -> PolicyDocuments | PolicyInvalid:
    """Combine the documents of these names; a failure is a result, so that it is cached as well."""
    try:
        reference = combine(
            schema, names[1], ReferenceData.parse(data), sets, policy=policy, now=now
        )
    except PolicyInvalid as error:
        return error.with_traceback(None)
    return PolicyDocuments.combine(policy, reference, str(names[0]))
