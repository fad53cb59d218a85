"""Storage of the documents that decide: policies, reference data, named sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from verdictd_py.domain.names import Name
from verdictd_py.ports.revisions import Expected, revision_of


@dataclass(frozen=True, slots=True)
class Document:
    """Text of a stored document and its revision (see `revision_of`)."""

    text: str
    revision: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the document that a text makes once it is stored."""
        return cls(text, revision_of(text.encode()))


class DocumentStore(Protocol):
    """Documents by name (`tdxPolicy.rego`, `tdxData`), changed by compare-and-swap."""

    async def get(self, name: Name) -> Document:
        """Return one document.

        Raises:
            NotFound: no document has that name.
            StorageError: it cannot be read, or is not text.
        """
        ...

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        """Return several documents as they were at one moment, without those that are missing.

        Raises:
            StorageError: one of them cannot be read, or is not text.
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
        """Create or replace a document, if it and others are still what the caller has read.

        Comparison and replacement are one step for every process that uses the store. Readers
        see the old text or the new one. A file that is edited by hand between the two is the
        one exception: an editor takes no part in this.

        Args:
            expected: revision of the document that is replaced, `ABSENT` or `ANY`.
            unchanged: the same for further documents, with which the new text was checked.

        Returns:
            The new revision.

        Raises:
            Conflict: one of them is another; nothing is stored. The caller reads again.
            StorageError: it could not be written, or other processes hold the store too long.
        """
        ...

    async def names(self) -> tuple[Name, ...]:
        """Return the names of all documents, sorted.

        Raises:
            StorageError: they cannot be listed.
        """
        ...

    async def delete(
        self, name: Name, *, expected: Expected, unchanged: Mapping[Name, Expected] | None = None
    ) -> None:
        """Delete a document, if it and others are still what the caller has read.

        Args:
            expected, unchanged: as for `put`.

        Raises:
            NotFound: no document has that name.
            Conflict: one of them is another; nothing is deleted.
            StorageError: it could not be deleted.
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
        """Return the TEE whose policy or reference data has that name, None for any other."""
        ...
