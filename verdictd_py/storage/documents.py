"""Policies, reference data and named sets as files below `opa/`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from verdictd_py.domain.names import REFERENCE_SETS, RELEASE_POLICIES, Name
from verdictd_py.errors import AlreadyExists, Conflict, NotFound, RequestError, StorageError
from verdictd_py.ports import ANY, Document, Expected, Tees, has_revision, revision_of
from verdictd_py.ports.tees import Documents
from verdictd_py.storage import pools, walks
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import NotRegular, Steps
from verdictd_py.storage.held import HeldFiles

OPA: Final = "opa"

_OPTIONAL: Final = frozenset(map(str, (REFERENCE_SETS, RELEASE_POLICIES)))
"""Documents without which guests or releases can be accepted that would be refused with them."""

Result = TypeVar("Result")

_MAX_NOTED: Final = 64
"""Groups of names whose last snapshot is noted."""

_SNAPSHOTS: Final = 10
"""Attempts to read a consistent snapshot; a change takes milliseconds, and so does reading."""


@dataclass(slots=True)
class _Snapshot:
    """The last snapshot of some documents, whose digests are recorded.

    Attributes:
        files: names of the files.
        read: what was read, the same object as long as nothing changes.
    """

    files: tuple[str, ...]
    read: Mapping[str, Document] | None = None
    documents: Mapping[Name, Document] = field(default_factory=dict)


class PolicyFileNames:
    """Names of the documents of each TEE; base of every document store."""

    def __init__(self, tees: Tees) -> None:
        self._tees = tees

    def policy_name(self, tee: str) -> Name:
        return Name((self._documents_of(tee).policy,))

    def reference_name(self, tee: str) -> Name:
        return Name((self._documents_of(tee).data,))

    def tee_of(self, name: Name) -> str | None:
        tee = self._tees.of_document(str(name))
        return None if tee is None else tee.name

    def _documents_of(self, tee: str) -> Documents:
        known = self._tees.get(tee)
        if known is None:
            raise NotFound(f"there is no policy for {tee}: this broker does not know this TEE")
        return known.documents


class DirectoryDocumentStore(PolicyFileNames):
    """Port `DocumentStore`: one file for each document, below `opa/`.

    Args:
        digests: records each change of a document before the document is returned.
    """

    def __init__(self, directory: Directory, tees: Tees, *, digests: DigestLog) -> None:
        super().__init__(tees)
        self._directory = directory
        self._digests = digests
        self._held: HeldFiles[Document] = HeldFiles(OPA, watch=directory.watch)
        self._last: dict[tuple[Name, ...], _Snapshot] = {}

    async def get(self, name: Name) -> Document:
        document = (await self.snapshot((name,))).get(name)
        if document is None:
            raise NotFound(f"{OPA}/{name} is missing")
        return document

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        last = self._last.get(tuple(names)) or self._first(names)
        read = self._held.get(last.files)
        if read is not None and read is last.read:
            return last.documents  # recorded before
        files = dict(zip(last.files, names, strict=True))
        if read is None:
            with self._noting_failure(*names):
                read = await pools.read(self._snapshot, files)
        await self._record({file: read.get(file) for file in files})
        last.read = read
        last.documents = {name: read[file] for file, name in files.items() if file in read}
        return last.documents

    def _first(self, names: Sequence[Name]) -> _Snapshot:
        """Begin to note the last snapshot of these names."""
        snapshot = _Snapshot(tuple(map(str, names)))
        if len(self._last) < _MAX_NOTED:
            self._last[tuple(names)] = snapshot
        return snapshot

    @contextmanager
    def _noting_failure(self, *names: Name) -> Iterator[None]:
        try:
            yield
        except StorageError:
            self._digests.note_unreadable(*(f"{OPA}/{name}" for name in names))
            raise

    async def _record(self, documents: Mapping[str, Document | None]) -> None:
        """Record the documents that have changed, by their file names.

        Raises:
            StorageError: a change could not be recorded; or a document has vanished whose absence
                has a meaning, so that a directory that is restored file by file opens nothing.
        """
        for name, document in documents.items():
            absent = document is None and name in _OPTIONAL
            if absent and self._digests.was_present(f"{OPA}/{name}"):
                raise DocumentUnusable(
                    f"{OPA}/{name} is missing and was there before; restore it, or store {{}} "
                    "under this name"
                )
        await self._digests.observe(
            {
                f"{OPA}/{name}": None if document is None else document.revision
                for name, document in documents.items()
            }
        )

    async def put(
        self,
        name: Name,
        text: str,
        *,
        expected: Expected,
        unchanged: Mapping[Name, Expected] | None = None,
    ) -> str:
        revisions = {**(unchanged or {}), name: expected}
        content = text.encode()

        def change() -> Steps[None]:
            self._require(revisions)
            yield from self._directory.replacing((OPA, *name.segments), content)

        with _naming(name):
            await exclusively(self._directory, change)
        return revision_of(content)

    async def names(self) -> tuple[Name, ...]:
        return await pools.walk(self._names)

    async def delete(
        self, name: Name, *, expected: Expected, unchanged: Mapping[Name, Expected] | None = None
    ) -> None:
        def change() -> Steps[None]:
            if self._entry(name) is None:
                raise NotFound(f"{OPA}/{name} is missing")
            self._require({**(unchanged or {}), name: expected})
            yield from self._directory.deleting((OPA, *name.segments))

        with _naming(name):
            await exclusively(self._directory, change)

    def _require(self, wanted: Mapping[Name, Expected]) -> None:
        for each, revision in wanted.items():
            if revision is not ANY and not has_revision(self._content(each), revision):
                raise Conflict(f"{OPA}/{each} has changed since it was read; read it again")

    def _names(self) -> tuple[Name, ...]:
        """Return the files of the directory itself that have a name for documents."""
        names = []
        for name in walks.names(self._directory, (OPA,)):
            with suppress(RequestError):  # so does a directory: below it, nothing is a document
                names.append(Name.parse(name))
        return tuple(sorted(names))

    def _snapshot(self, files: Mapping[str, Name]) -> dict[str, Document]:
        """Read all documents; read them again if one was replaced meanwhile."""
        root = self._directory.root()
        for _ in range(_SNAPSHOTS):
            reading = None if root is None else self._held.begin(root, tuple(files))
            before = [self._entry(name) for name in files.values()]
            read = {file: self._document(name) for file, name in files.items()}
            if [self._entry(name) for name in files.values()] == before:
                present = {file: document for file, document in read.items() if document}
                if reading is not None:
                    self._held.finish(reading, present)
                return present
        raise StorageError(f"the documents in {OPA} change too fast to be read; try again")

    def _entry(self, name: Name) -> Entry | None:
        with _naming(name):
            return _unless_missing(self._directory.entry, name)

    def _document(self, name: Name) -> Document | None:
        content = self._content(name)
        try:
            return None if content is None else Document(content.decode(), revision_of(content))
        except UnicodeDecodeError:
            raise DocumentUnusable(f"{OPA}/{name} is not UTF-8 text") from None

    def _content(self, name: Name) -> bytes | None:
        with _naming(name):
            return _unless_missing(self._directory.read, name)


class DocumentUnusable(StorageError):
    """A document cannot be read or stored; the message begins with its name."""


def _unless_missing(read: Callable[[Segments], Result], name: Name) -> Result | None:
    """Return what `read` returns, or None only if nothing at all has the name.

    A missing document has a meaning, for example "no named sets". A link or a directory in its
    place must not open what the document closes; neither must a link to nothing.
    """
    try:
        return read((OPA, *name.segments))
    except NotRegular:
        raise StorageError(
            "is a directory, a link that leaves its directory or leads to nothing, or another "
            "thing that is not a regular file; "
            "put a regular file in its place"
        ) from None
    except NotFound:
        return None


@contextmanager
def _naming(name: Name) -> Iterator[None]:
    """Add the name of the document to an error that does not have it yet."""
    try:
        yield
    except DocumentUnusable:
        raise
    except (AlreadyExists, StorageError) as error:
        raise DocumentUnusable(f"{OPA}/{name} {error}") from None
