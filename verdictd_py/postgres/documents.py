"""Store of documents in the database: policies, reference data, named sets.

Their texts are in memory as long as the ledger has the same revisions of them, because they are no
secrets and are needed for each decision. `objects.BOUND_SECONDS` limits how long that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.domain.names import Name
from verdictd_py.errors import Conflict, NotFound, RequestError, StorageError
from verdictd_py.ports import ANY, Document, Expected, Tees, has_revision
from verdictd_py.postgres.ledger import Entry
from verdictd_py.postgres.objects import Objects, State, Write
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.documents import OPA, PolicyFileNames

KIND: Final = "document"

_MAX_NOTED: Final = 64
"""Groups of names whose last snapshot is noted."""

_SNAPSHOTS: Final = 20
"""Attempts to read a consistent snapshot."""


@dataclass(slots=True)
class _Snapshot:
    """The last snapshot of some documents, whose digests are recorded.

    Attributes:
        entries: the ledger's entries when it was read; the same object as long as nothing changes.
    """

    entries: Mapping[str, object] | None = None
    documents: Mapping[Name, Document] = field(default_factory=dict)


class PostgresDocumentStore(PolicyFileNames):
    """Port `DocumentStore`.

    Args:
        digests: records each change of a document before the document is returned.
    """

    def __init__(self, objects: Objects, tees: Tees, *, digests: DigestLog) -> None:
        super().__init__(tees)
        self._objects = objects
        self._digests = digests
        self._texts: dict[Name, tuple[int, Document]] = {}
        self._last: dict[tuple[Name, ...], _Snapshot] = {}

    async def get(self, name: Name) -> Document:
        document = (await self.snapshot((name,))).get(name)
        if document is None:
            raise NotFound(f"{_path(name)} is missing")
        return document

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        try:
            return await self._snapshot(tuple(names))
        except StorageError:
            self._digests.note_unreadable(*map(_path, names))
            raise

    async def _snapshot(self, names: tuple[Name, ...]) -> Mapping[Name, Document]:
        last = self._last.get(names)
        for _ in range(_SNAPSHOTS):
            state = await self._objects.state()
            if last is not None and last.entries is state.entries:
                return last.documents
            with suppress(_Replaced):
                documents = await self._documents(names, state)
                break
        else:
            raise StorageError(f"the documents in {OPA} change too fast to be read; try again")
        await self._digests.observe(
            {_path(name): document.revision for name, document in documents.items()}
            | {_path(name): None for name in names if name not in documents}
        )
        if last is None:
            last = _Snapshot()
            if len(self._last) < _MAX_NOTED:
                self._last[names] = last
        if last.documents != documents:
            last.documents = documents
        last.entries = state.entries
        return last.documents

    async def _documents(self, names: Sequence[Name], state: State) -> dict[Name, Document]:
        """Return those documents that exist, as they were in a state.

        Raises:
            _Replaced: one of them was replaced since.
        """
        documents = {}
        for name in names:
            entry = state.entries.get(_path(name))
            if entry is not None and not entry.is_deleted:
                documents[name] = await self._document(name, entry)
        return documents

    async def _document(self, name: Name, entry: Entry) -> Document:
        known = self._texts.get(name)
        if known is not None and known[0] == entry.revision:
            return known[1]
        content = await self._objects.read(entry.path)
        if content is None or self._objects.known.get(entry.path) != entry:
            raise _Replaced
        try:
            document = Document.of(content.decode())
        except UnicodeDecodeError:
            raise StorageError(f"{_path(name)} is not UTF-8 text") from None
        self._texts[name] = entry.revision, document
        return document

    async def put(
        self,
        name: Name,
        text: str,
        *,
        expected: Expected,
        unchanged: Mapping[Name, Expected] | None = None,
    ) -> str:
        document = Document.of(text)

        async def plan(state: State) -> Sequence[Write]:
            del state
            await self._require({**(unchanged or {}), name: expected})
            return (Write(_path(name), KIND, text.encode()),)

        await self._objects.change(plan)
        return document.revision

    async def names(self) -> tuple[Name, ...]:
        names = []
        for path in await self._objects.paths(f"{OPA}/"):
            with suppress(RequestError):
                names.append(Name.parse(path.partition("/")[2]))
        return tuple(sorted(names))

    async def delete(
        self, name: Name, *, expected: Expected, unchanged: Mapping[Name, Expected] | None = None
    ) -> None:
        path = _path(name)

        async def plan(state: State) -> Sequence[Write]:
            entry = state.entries.get(path)
            if entry is None or entry.is_deleted:
                raise NotFound(f"{path} is missing")
            await self._require({**(unchanged or {}), name: expected})
            return (Write(path, KIND, None),)

        await self._objects.change(plan)

    async def _require(self, wanted: Mapping[Name, Expected]) -> None:
        for name, revision in wanted.items():
            if revision is not ANY and not has_revision(
                await self._objects.read(_path(name)), revision
            ):
                raise Conflict(f"{_path(name)} has changed since it was read; read it again")


class _Replaced(Exception):  # it never leaves this module
    """A document was replaced while a snapshot was read."""


def _path(name: Name) -> str:
    return f"{OPA}/{name}"
