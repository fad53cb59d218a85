"""Stores of a process: on its data directory, or in the database of `--store`."""

from __future__ import annotations

from dataclasses import dataclass

from verdictd_py.ports import CollateralStore, DocumentStore, Events, KeyStore, ResourceStore, Tees
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.documents import DirectoryDocumentStore
from verdictd_py.storage.objects import Objects
from verdictd_py.storage.revisions import DocumentRevisions
from verdictd_py.storage.stores import (
    DirectoryCollateralStore,
    DirectoryKeyStore,
    DirectoryResourceStore,
)


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores that the use cases are built on.

    Attributes:
        digests: digests of the documents when they were last read.
    """

    keys: KeyStore
    resources: ResourceStore
    documents: DocumentStore
    collateral: CollateralStore
    digests: DigestLog

    @classmethod
    def on(
        cls,
        directory: Directory,
        tees: Tees,
        events: Events,
        objects: Objects | None = None,
        *,
        read_only: bool = False,
    ) -> Stores:
        """Return the stores on a data directory.

        Args:
            objects: reads and writes keys and resources; None for plain files.
            read_only: do not number changes of documents, which writes into the directory.
        """
        number = None if read_only else DocumentRevisions(directory, events).note
        digests = DigestLog(events, number)
        return cls(
            DirectoryKeyStore(directory, objects),
            DirectoryResourceStore(directory, events=events, digests=digests, objects=objects),
            DirectoryDocumentStore(directory, tees, digests=digests),
            DirectoryCollateralStore(directory),
            digests,
        )
