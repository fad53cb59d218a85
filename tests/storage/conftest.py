"""Fixtures: a data directory as the daemon prepares it, and the stores on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from tests.support.stores import document_store, resource_store
from tests.support.tees import PROVING
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.documents import DirectoryDocumentStore
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore, DirectoryResourceStore


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def directory(data: Path) -> Directory:
    opened, inspection = prepare(data, PROVING)
    warnings = inspection.warnings
    assert warnings == ()
    return opened


@pytest.fixture
def keys(directory: Directory) -> DirectoryKeyStore:
    return DirectoryKeyStore(directory)


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def resources(directory: Directory, events: RecordedEvents) -> DirectoryResourceStore:
    return resource_store(directory, events)


@pytest.fixture
def documents(directory: Directory) -> DirectoryDocumentStore:
    return document_store(directory)
