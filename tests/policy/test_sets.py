"""The documents that decide: reference data with the sets that are in force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.tees import TEES
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.domain.names import Name
from verdictd_py.errors import NotFound, PolicyInvalid, StorageError
from verdictd_py.policy import sets
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import Document
from verdictd_py.storage.memory import MemoryDocumentStore

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
A, B, C = ("a" * 96, "b" * 96, "c" * 96)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def made(value: str, **times: datetime) -> ReferenceSet:
    return ReferenceSet({"rtmr1": (value,)}, "operator", NOW, **times)  # type: ignore[arg-type]


def written(tee: str = "tdx", **sets: ReferenceSet) -> str:
    return json.dumps({tee: {name: one.as_json() for name, one in sets.items()}})


class Place:
    """A store with one list of reference values, and the source over it."""

    def __init__(
        self, sets: str | None = None, store: Callable[..., MemoryDocumentStore] | None = None
    ) -> None:
        texts = {"tdxPolicy.rego": "package policy\n", "tdxData": json.dumps({"rtmr1": [A]})}
        if sets is not None:
            texts["referenceSets"] = sets
        self.store = (store or MemoryDocumentStore)(TEES, texts)
        self.clock = Clock()
        self.source = DocumentsWithSets(self.store, TEES, self.clock)

    async def values(self) -> object:
        return (await self.source.documents("tdx")).reference.values["rtmr1"]


async def test_a_set_in_force_adds_its_values() -> None:
    assert await Place().values() == [A]
    assert await Place(written(one=made(B))).values() == [A, B]


@pytest.mark.parametrize(("end", "state"), [("expires_at", "expired"), ("retired_at", "retired")])
async def test_a_set_ends_although_no_document_changes(end: str, state: str) -> None:
    """A text that no guest measures replaces its values: an empty list would accept any."""
    place = Place(written(one=made(B, **{end: NOW + SECOND}), two=made(C)))
    assert await place.values() == [A, B, C]
    place.clock.now += SECOND
    assert await place.values() == [A, f"(one is {state})", C]


class UnchangedStore(MemoryDocumentStore):
    """A store that returns the same snapshot as long as nothing changes."""

    last: Mapping[Name, Document] | None = None

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        read = await super().snapshot(names)
        if self.last != read:
            self.last = read
        return self.last or read


@pytest.mark.parametrize(("end", "state"), [("expires_at", "expired"), ("retired_at", "retired")])
async def test_a_set_ends_although_the_snapshot_is_the_same(end: str, state: str) -> None:
    place = Place(written(one=made(B, **{end: NOW + SECOND}), two=made(C)), UnchangedStore)
    for _ in range(2):
        assert await place.values() == [A, B, C]
    place.clock.now += SECOND
    for _ in range(2):
        assert await place.values() == [A, f"(one is {state})", C]
    place.clock.now -= SECOND
    assert await place.values() == [A, B, C]
    place.store.texts["referenceSets"] = written(two=made(C))
    assert await place.values() == [A, C]


async def test_a_changed_document_takes_effect_at_once() -> None:
    place = Place(written(one=made(B)))
    assert await place.values() == [A, B]
    place.store.texts["referenceSets"] = written(one=made(C))
    assert await place.values() == [A, C]
    place.store.texts["tdxData"] = json.dumps({"rtmr1": [B]})
    assert await place.values() == [B, C]
    place.store.texts["tdxPolicy.rego"] = "package policy # another\n"
    assert (await place.source.documents("tdx")).policy == "package policy # another\n"
    del place.store.texts["referenceSets"]
    assert await place.values() == [B]


async def test_sets_of_another_tee_add_nothing() -> None:
    assert await Place(written("sgx", one=made(B))).values() == [A]
    assert await Place("{}").values() == [A]


@pytest.mark.parametrize("name", ["tdxPolicy.rego", "tdxData"])
async def test_a_missing_document_is_named(name: str) -> None:
    place = Place(written(one=made(B)))
    del place.store.texts[name]
    with pytest.raises(NotFound, match=name):
        await place.values()


async def test_sets_that_cannot_be_read_refuse_every_guest() -> None:
    place = Place(written(one=made(B)))
    assert await place.values() == [A, B]
    place.store.texts["referenceSets"] = '{"tdx": {"one": {}}}'
    for _ in range(2):
        with pytest.raises(StorageError):
            await place.values()
    place.store.texts["referenceSets"] = written(one=made(B))
    assert await place.values() == [A, B]


async def test_data_that_cannot_be_read_refuses_every_guest() -> None:
    place = Place()
    place.store.texts["tdxData"] = "{"
    for _ in range(2):
        with pytest.raises(PolicyInvalid):
            await place.values()
    place.store.texts["tdxData"] = json.dumps({"rtmr1": [B]})
    assert await place.values() == [B]


async def test_the_documents_are_read_in_one_snapshot() -> None:
    """A policy never decides with data or sets of another state."""

    class Changing(MemoryDocumentStore):
        """A store whose documents are all replaced after each snapshot."""

        async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
            found = await super().snapshot(names)
            self.texts = dict.fromkeys(self.texts, "replaced")
            return found

    found = await Place(written(one=made(B)), Changing).source.documents("tdx")
    assert found.policy == "package policy\n"
    assert found.reference.values == {"rtmr1": [A, B]}


async def test_unchanged_documents_are_combined_once() -> None:
    place = Place(written(one=made(B)))
    found = await place.source.documents("tdx")
    place.store.texts["unrelated"] = "changed"
    place.clock.now += SECOND
    assert await place.source.documents("tdx") is found


async def test_guests_that_come_at_once_wait_for_one_combination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, count = Place(written(one=made(B))), [0]
    combine = sets._combine

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        return combine(*arguments)

    monkeypatch.setattr(sets, "_combine", counted)
    first = asyncio.ensure_future(place.values())
    others = [asyncio.ensure_future(place.values()) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()  # the guest disconnects
    assert await asyncio.gather(*others) == [[A, B]] * 5
    assert count == [1]
    assert place.source.last_revision("tdx") == 1


async def test_a_clock_that_is_set_back_puts_a_set_in_force_again() -> None:
    place = Place(written(one=made(B, expires_at=NOW + SECOND)))
    place.clock.now += SECOND
    assert await place.values() == [A, "(one is expired)"]
    place.clock.now -= SECOND
    assert await place.values() == [A, B]
