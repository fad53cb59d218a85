"""Port of the store of documents: policies, reference data, named sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from verdictd_py.domain.names import Name
from verdictd_py.ports.revisions import Expected, revision_of


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document: its text and its revision (see `revision_of`)."""

    text: str
    revision: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the document that results from storing a text."""
        return cls(text, revision_of(text.encode()))


class DocumentStore(Protocol):
    """Store of documents by name (`tdxPolicy.rego`, `tdxData`), changed by compare-and-swap."""

    async def get(self, name: Name) -> Document:
        """Return one document.

        Raises:
            NotFound: no document has that name.
            StorageError: the document cannot be read, or is not text.
        """
        ...

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        """Return several documents as they were at one moment, without those that are missing.

        Raises:
            StorageError: a document cannot be read, or is not text.
        """
        ...

    async def put(
        self,
        name: Name,
        text: str,
        *,
        expected: Expected,
        unchanged: Mapping[Name, Expected] | None = None,
    ) -> str:
        """Create or replace a document, unless it or one of some others has changed.

        Comparison and replacement are one step for every process that uses the store. Readers
        see the old text or the new one. There is one exception: a person who edits the file by
        hand between comparison and replacement, because editors do not take the store's lock.

        Args:
            expected: revision of the document that is replaced, `ABSENT` or `ANY`.
            unchanged: expected revisions of the documents with which the new text was checked.

        Returns:
            The new revision.

        Raises:
            Conflict: a document does not have the expected revision; nothing is stored. The
                caller reads again.
            StorageError: the document could not be written, or other processes lock the store
                too long.
        """
        ...

    async def names(self) -> tuple[Name, ...]:
        """Return the names of all documents, sorted.

        Raises:
            StorageError: the documents cannot be listed.
        """
        ...

    async def delete(
        self, name: Name, *, expected: Expected, unchanged: Mapping[Name, Expected] | None = None
    ) -> None:
        """Delete a document, unless it or one of some others has changed.

        Args:
            expected, unchanged: as for `put`.

        Raises:
            NotFound: no document has that name.
            Conflict: a document does not have the expected revision; nothing is deleted.
            StorageError: the document could not be deleted.
        """
        ...

    def policy_name(self, tee: str) -> Name:
        """Return the name of a TEE's policy.

        Raises:
            NotFound: the TEE has none.
        """
        ...

    def reference_name(self, tee: str) -> Name:
        """Return the name of a TEE's reference data.

        Raises:
            NotFound: the TEE has none.
        """
        ...

    def tee_of(self, name: Name) -> str | None:
        """Return the TEE whose policy or reference data has that name, None if there is none."""
        ...
