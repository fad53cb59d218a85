"""Earlier texts of documents: which ones are stored, and which are discarded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.memory import NOW
from verdictd_py.broker import revisions as tested
from verdictd_py.broker.revisions import MAX_REVISIONS, MAX_TEXT, Revisions
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.errors import NotFound

OPERATOR = Caller("operator", ROLES["operator"])
POLICY, DATA = "tdxPolicy.rego", "tdxData"


class Documents:
    """Documents in force, by name, and their revisions."""

    def __init__(self) -> None:
        self.texts = {POLICY: "package a"}
        self.now = NOW
        self.revisions = Revisions(self._read, lambda: self.now)

    async def _read(self) -> list[tuple[str, str]]:
        return list(self.texts.items())

    async def observe(self, **texts: str) -> None:
        self.texts |= texts
        self.now += timedelta(seconds=1)
        await self.revisions.observe()

    def stored(self, name: str) -> list[str]:
        return [each.text for each in self.revisions.list_of(OPERATOR, name)]


@pytest.fixture
def documents() -> Documents:
    return Documents()


async def test_all_texts_together_are_bounded(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested, "MAX_BYTES", 3000)
    for letter in "abcd":
        await documents.observe(tdxData=letter * 900)
    assert [text[0] for text in documents.stored(DATA)] == ["d", "c", "b"]
    rows, deleted = documents.revisions.changes()
    assert (len(rows), len(deleted)) == (4, 1)


async def test_a_text_that_is_too_long_is_not_stored(documents: Documents) -> None:
    await documents.observe(tdxData="x" * (MAX_TEXT + 1))
    assert documents.stored(DATA) == []
    await documents.observe(tdxData="x" * MAX_TEXT)
    assert len(documents.stored(DATA)) == 1


async def test_a_text_in_force_is_not_discarded(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested, "MAX_BYTES", 3000)
    await documents.observe()
    (policy,) = documents.revisions.list_of(OPERATOR, POLICY)
    for number in range(MAX_REVISIONS + 2):
        await documents.observe(tdxData=f"{number:900}")
        assert documents.revisions.list_of(OPERATOR, POLICY) == [policy]


async def test_a_text_that_was_in_force_again_is_discarded_last(documents: Documents) -> None:
    texts = [f"package a{number}" for number in range(MAX_REVISIONS)]
    for text in (*texts, texts[0], "package new"):
        documents.texts[POLICY] = text
        await documents.observe()
    assert set(documents.stored(POLICY)) == {*texts, "package new"} - {texts[1]}


async def test_documents_with_the_same_text_each_have_a_revision(documents: Documents) -> None:
    await documents.observe(other="package a")
    (first,) = documents.revisions.list_of(OPERATOR, POLICY)
    (second,) = documents.revisions.list_of(OPERATOR, "other")
    assert first.sha256 == second.sha256
    await documents.observe(other="package b")
    assert documents.revisions.get(OPERATOR, first.sha256) == first
    documents.texts[POLICY] = "package c"
    await documents.observe(other="package a")
    assert documents.revisions.get(OPERATOR, first.sha256) == second


async def test_a_row_with_another_text_is_ignored(documents: Documents) -> None:
    await documents.observe()
    (row,), _ = documents.revisions.changes()
    again = Documents()
    again.revisions.restore([replace(row, body=row.body.replace("package a", "package b"))])
    assert again.stored(POLICY) == []
    again.revisions.restore([row])
    assert again.stored(POLICY) == ["package a"]
    with pytest.raises(NotFound, match="in force too long ago"):
        again.revisions.get(OPERATOR, "00" * 32)
