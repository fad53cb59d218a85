"""The documents by which guests are appraised: reference data with the named sets in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from verdictd_py.documents import referencesets
from verdictd_py.documents.deciding import combine, require_known_tees
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.names import Name
from verdictd_py.errors import PolicyInvalid, RequestError, StorageError
from verdictd_py.offload import offload
from verdictd_py.ports import Document, DocumentStore, PolicyDocuments, Tees


@dataclass(frozen=True, slots=True)
class _Key:
    """Everything that the combined documents depend on, with the states of sets, which expire."""

    policy: str
    data: str
    sets: referencesets.Sets
    states: tuple[str, ...]


class DocumentsWithSets:
    """Documents of a store, combined with the named sets in force.

    It implements the ports `PolicySource` and `PolicyRevisions`.

    The stored documents are read each time, so that a file changed by hand takes effect at once.
    The combined documents are cached by revisions and states of the sets, so that reference data
    is parsed and combined only once.

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
        self._combined: dict[str, tuple[_Key, PolicyDocuments | PolicyInvalid]] = {}
        self._revisions: Counter[str] = Counter()

    async def documents(self, tee: str) -> PolicyDocuments:
        names = self._documents.policy_name(tee), self._documents.reference_name(tee)
        snapshot = await self._documents.snapshot((*names, referencesets.DOCUMENT))
        policy, data = [snapshot.get(name) or await self._documents.get(name) for name in names]
        stored_sets = snapshot.get(referencesets.DOCUMENT)
        sets = {} if stored_sets is None else self._parsed(stored_sets).get(tee, {})
        now = self._clock()
        states = tuple(item.state(now) for item in sets.values())
        key = _Key(policy.revision, data.revision, sets, states)
        known = self._combined.get(tee)
        if known is None or known[0] != key:
            schema = self._tees.schema(tee)
            combined = await offload(
                len(data.text),
                lambda: _combine(schema, names, policy.text, data.text, sets, now),
            )
            known = self._combined[tee] = key, combined
            self._revisions[tee] += 1
        if isinstance(known[1], PolicyInvalid):
            raise PolicyInvalid(str(known[1]))
        return known[1]

    def last_revision(self, tee: str) -> int:
        return self._revisions[tee]

    async def revision(self, tee: str) -> int:
        await self.documents(tee)
        return self._revisions[tee]

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
    return PolicyDocuments.combine(policy, reference, str(names[0]))
