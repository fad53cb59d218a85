"""Conformance of the port `DocumentStore`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import pytest

from tests.support.postgres import documents_of
from tests.support.stores import document_store
from tests.support.tees import TEES
from verdictd_py.domain.names import Name
from verdictd_py.errors import Conflict, NotFound
from verdictd_py.ports import ABSENT, ANY, Document, DocumentStore
from verdictd_py.postgres.objects import Objects
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.memory import MemoryDocumentStore

MINE, OTHER = Name.parse("mine.rego"), Name.parse("other")


class DocumentStoreSuite(ABC):
    """Subclasses define the fixture `documents`."""

    @pytest.fixture
    @abstractmethod
    def documents(self) -> DocumentStore:
        """A store without `mine.rego` and `other`; it may have defaults."""

    async def test_a_document_is_returned_as_it_was_put(self, documents: DocumentStore) -> None:
        for text in ("package policy\n# ü\n", "", "a\r\nb\0c"):
            revision = await documents.put(MINE, text, expected=ANY)
            assert await documents.get(MINE) == Document(text, revision) == Document.of(text)

    async def test_a_document_that_is_missing(self, documents: DocumentStore) -> None:
        with pytest.raises(NotFound, match=r"^opa/mine.rego is missing$"):
            await documents.get(MINE)

    async def test_a_snapshot_omits_missing_documents(self, documents: DocumentStore) -> None:
        await documents.put(MINE, "a", expected=ABSENT)
        assert await documents.snapshot((OTHER, MINE)) == {MINE: Document.of("a")}
        assert await documents.snapshot(()) == {}

    async def test_a_change_based_on_another_revision_is_a_conflict(
        self, documents: DocumentStore
    ) -> None:
        with pytest.raises(Conflict, match=r"^opa/mine.rego has changed since it was read"):
            await documents.put(MINE, "a", expected=Document.of("a").revision)
        first = await documents.put(MINE, "a", expected=ABSENT)
        with pytest.raises(Conflict):
            await documents.put(MINE, "b", expected=ABSENT)
        second = await documents.put(MINE, "b", expected=first)
        with pytest.raises(Conflict):
            await documents.put(MINE, "c", expected=first)
        assert await documents.get(MINE) == Document("b", second)
        await documents.put(MINE, "c", expected=ANY)

    async def test_other_documents_must_be_unchanged_too(self, documents: DocumentStore) -> None:
        read = await documents.put(OTHER, "a", expected=ABSENT)
        await documents.put(MINE, "1", expected=ABSENT, unchanged={OTHER: read})
        await documents.put(OTHER, "b", expected=read)
        for wanted in (read, ABSENT):
            with pytest.raises(Conflict, match=r"^opa/other has changed since it was read"):
                await documents.put(MINE, "2", expected=ANY, unchanged={OTHER: wanted})
        await documents.put(MINE, "3", expected=ANY, unchanged={OTHER: ANY})
        assert (await documents.get(MINE)).text == "3"

    async def test_one_of_many_writers_of_a_revision_wins(self, documents: DocumentStore) -> None:
        first = await documents.put(MINE, "start", expected=ABSENT)
        results = await asyncio.gather(
            *(documents.put(MINE, f"{number}", expected=first) for number in range(20)),
            return_exceptions=True,
        )
        winners = [number for number, result in enumerate(results) if isinstance(result, str)]
        assert len(winners) == 1
        assert (await documents.get(MINE)).text == f"{winners[0]}"
        assert sum(isinstance(result, Conflict) for result in results) == 19

    async def test_no_increment_is_lost(self, documents: DocumentStore) -> None:
        await documents.put(MINE, "0", expected=ABSENT)

        async def increment() -> None:
            while True:
                read = await documents.get(MINE)
                try:
                    await documents.put(MINE, str(int(read.text) + 1), expected=read.revision)
                except Conflict:
                    continue
                return

        await asyncio.gather(*(increment() for _ in range(10)))
        assert (await documents.get(MINE)).text == "10"

    async def test_a_snapshot_never_mixes_two_states(self, documents: DocumentStore) -> None:
        """The second document is written after the first, so it is never newer in a snapshot."""
        await documents.put(MINE, "0", expected=ABSENT)
        await documents.put(OTHER, "0", expected=ABSENT)
        done = asyncio.Event()

        async def change() -> None:
            for number in range(1, 40):
                await documents.put(MINE, f"{number}", expected=ANY)
                await documents.put(OTHER, f"{number}", expected=ANY)
            done.set()

        changing = asyncio.create_task(change())
        while not done.is_set():
            await asyncio.sleep(0)  # a store may answer without letting others run
            found = await documents.snapshot((MINE, OTHER))
            assert 0 <= int(found[MINE].text) - int(found[OTHER].text) <= 1
        await changing

    async def test_a_document_that_is_deleted_is_missing(self, documents: DocumentStore) -> None:
        before = await documents.names()
        read = await documents.put(MINE, "a", expected=ABSENT)
        other = await documents.put(OTHER, "b", expected=ABSENT)
        assert await documents.names() == tuple(sorted((*before, MINE, OTHER)))
        with pytest.raises(Conflict, match=r"^opa/mine.rego has changed since it was read"):
            await documents.delete(MINE, expected=other)
        with pytest.raises(Conflict, match=r"^opa/other has changed since it was read"):
            await documents.delete(MINE, expected=read, unchanged={OTHER: read})
        await documents.delete(MINE, expected=read, unchanged={OTHER: other})
        with pytest.raises(NotFound, match=r"^opa/mine.rego is missing$"):
            await documents.delete(MINE, expected=ANY)
        with pytest.raises(NotFound):
            await documents.get(MINE)
        assert await documents.names() == tuple(sorted((*before, OTHER)))

    def test_documents_of_a_tee(self, documents: DocumentStore) -> None:
        policy, data = documents.policy_name("tdx"), documents.reference_name("tdx")
        assert (str(policy), str(data)) == ("tdxPolicy.rego", "tdxData")
        assert [documents.tee_of(name) for name in (policy, data, MINE)] == ["tdx", "tdx", None]


class TestDirectory(DocumentStoreSuite):
    @pytest.fixture
    def documents(self, directory: Directory) -> DocumentStore:
        return document_store(directory)


class TestMemory(DocumentStoreSuite):
    @pytest.fixture
    def documents(self) -> DocumentStore:
        return MemoryDocumentStore(TEES)


class TestPostgres(DocumentStoreSuite):
    @pytest.fixture
    def documents(self, objects: Objects) -> DocumentStore:
        return documents_of(objects)
