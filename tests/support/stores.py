"""Stores on a data directory, for tests that do not look at their events."""

from __future__ import annotations

from tests.support.events import RecordedEvents
from tests.support.tees import TEES
from verdictd_py.ports import Events
from verdictd_py.storage import files, walks
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory, Entry
from verdictd_py.storage.documents import DirectoryDocumentStore
from verdictd_py.storage.objects import Objects
from verdictd_py.storage.stores import DirectoryResourceStore


def document_store(directory: Directory, events: Events | None = None) -> DirectoryDocumentStore:
    """Return a store of documents of the TEEs that the tests know."""
    return DirectoryDocumentStore(directory, TEES, digests=DigestLog(events or RecordedEvents()))


def resource_store(
    directory: Directory, events: Events | None = None, *, objects: Objects | None = None
) -> DirectoryResourceStore:
    """Return a store of resources, plain ones without `objects`."""
    receiver = events or RecordedEvents()
    return DirectoryResourceStore(
        directory, events=receiver, digests=DigestLog(receiver), objects=objects
    )


def remove_leftovers(directory: Directory, top: str) -> None:
    """Remove the temporary files below `top`, as the inspection of a data directory does."""
    for item in walks.examine(directory, top):
        if isinstance(item, Entry) and files.is_temporary(item.segments[-1]):
            directory.remove_leftover(item.segments)
