"""Policies and reference data: checked before they are stored, and never a lost update."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import pytest

from tests.support.memory import NOW, VERIFIED, MemoryEvents
from tests.support.tees import TEES
from verdictd_py.broker.changes import CheckedDocuments
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.history import History, Judgement
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    Conflict,
    NotAuthorized,
    PolicyInvalid,
    PolicyRefused,
    Reason,
    RequestError,
)
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import DocumentStore, Events, PolicyDocuments, PolicyTester, TestedPolicy
from verdictd_py.storage.memory import MemoryDocumentStore

OPERATOR = Caller("operator", ROLES["operator"])


@dataclass
class ScriptedTester:
    """Refuses what `refuses` says."""

    refuses: Callable[[PolicyDocuments], bool] = lambda documents: False

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
        await asyncio.sleep(0)
        if self.refuses(documents):
            raise PolicyInvalid("the policy does not work")

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> TestedPolicy:
        return TestedPolicy(documents.policy == "yes", {})


def administrator(
    documents: DocumentStore, tester: PolicyTester, history: History, events: Events
) -> DocumentAdministrator:
    def clock() -> datetime:
        return NOW

    async def prepare() -> None:
        await asyncio.sleep(0)

    return DocumentAdministrator(
        documents=documents,
        changes=CheckedDocuments(documents, tester, clock, prepare),
        deciding=DocumentsWithSets(documents, clock),
        tees=TEES,
        tester=tester,
        history=history,
        events=events,
    )


@dataclass
class Place:
    documents: MemoryDocumentStore
    history: History
    events: MemoryEvents
    admin: DocumentAdministrator


def place(
    refuses: Callable[[PolicyDocuments], bool] = lambda documents: False, **texts: str
) -> Place:
    documents = MemoryDocumentStore(TEES, {"tdxPolicy.rego": "old", "tdxData": "{}", **texts})
    history, events = History(), MemoryEvents()
    admin = administrator(documents, ScriptedTester(refuses), history, events)
    return Place(documents, history, events, admin)


def remember(history: History, rule: str = "mrTd") -> None:
    kind = TEES.named("tdx").reason_kind(rule)
    reason = Reason(rule, "ab", "cd", "", kind=kind)
    refusal = PolicyRefused("refused", reasons=(reason,))
    appraisal = Appraisal("id", NOW, "tdx", "test", VERIFIED, bound=True, refusal=refusal)
    history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))


async def test_what_does_not_work_is_not_stored() -> None:
    """defects.md 13."""
    here = place(lambda documents: documents.policy == "new")
    with pytest.raises(PolicyInvalid):
        await here.admin.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert here.documents.texts["tdxPolicy.rego"] == "old"
    here = place(lambda documents: documents.data == '{"a": 1}' and documents.policy == "old")
    with pytest.raises(PolicyInvalid):
        await here.admin.set_reference(OPERATOR, "tdxData", b'{"a": 1}')
    assert here.documents.texts["tdxData"] == "{}"
    assert here.events.events == []


async def test_one_broken_half_can_be_mended_after_the_other() -> None:
    """Both were broken by hand: either can be set first, and then the other."""

    def refuses(documents: PolicyDocuments) -> bool:
        return documents.policy == "broken" or documents.data == "broken"

    here = place(refuses, **{"tdxPolicy.rego": "broken", "tdxData": "broken"})
    await here.admin.set_policy(OPERATOR, "tdxPolicy.rego", b"good")
    assert here.documents.texts["tdxPolicy.rego"] == "good"
    here = place(refuses, **{"tdxPolicy.rego": "broken", "tdxData": "broken"})
    await here.admin.set_reference(OPERATOR, "tdxData", b"{}")
    assert here.documents.texts["tdxData"] == "{}"
    with pytest.raises(PolicyInvalid):
        await here.admin.set_policy(OPERATOR, "tdxPolicy.rego", b"broken")


async def test_a_policy_is_no_reference_data() -> None:
    here = place()
    with pytest.raises(RequestError, match="holds reference data"):
        await here.admin.set_policy(OPERATOR, "tdxData", b"new")
    with pytest.raises(RequestError, match="holds a policy"):
        await here.admin.set_reference(OPERATOR, "tdxPolicy.rego", b"{}")
    await here.admin.set_policy(OPERATOR, "another", b"new")
    assert here.documents.texts["another"] == "new"


@pytest.mark.parametrize("name", ["a/b/c", "../x", "", "a/b"])
async def test_a_name_has_one_segment(name: str) -> None:
    here = place()
    with pytest.raises(RequestError):
        await here.admin.set_policy(OPERATOR, name, b"new")


async def test_data_that_changed_since_it_was_shown_is_not_touched() -> None:
    here = place()
    remember(here.history)
    preview = await here.admin.preview_pin(OPERATOR, "id", ())
    assert [(change.field, change.accepted, change.added) for change in preview.changes] == [
        ("mrTd", (), "ab")
    ]
    here.documents.texts["tdxData"] = '{"rtmr1": ["00"]}'
    with pytest.raises(Conflict, match="has changed since"):
        await here.admin.pin(OPERATOR, "id", ("mrTd",), preview.revision)
    assert here.documents.texts["tdxData"] == '{"rtmr1": ["00"]}'


async def test_two_who_pin_at_once_lose_nothing() -> None:
    here = place()
    remember(here.history)
    preview = await here.admin.preview_pin(OPERATOR, "id", ())
    results = await asyncio.gather(
        *(here.admin.pin(OPERATOR, "id", (), preview.revision) for _ in range(3)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Conflict) for each in results) == 2
    assert json.loads(here.documents.texts["tdxData"]) == {"mrTd": ["ab"]}


async def test_what_is_accepted_already_is_said() -> None:
    here = place(tdxData='{"mrTd": ["ab", "cd"]}')
    remember(here.history)
    preview = await here.admin.preview_pin(OPERATOR, "id", ())
    assert preview.changes[0].added == ""
    with pytest.raises(RequestError, match="accepted already"):
        await here.admin.pin(OPERATOR, "id", (), preview.revision)


async def test_a_list_that_is_none_is_not_overwritten() -> None:
    here = place(tdxData='{"mrTd": "cd"}')
    remember(here.history)
    with pytest.raises(RequestError, match="no list of texts"):
        await here.admin.preview_pin(OPERATOR, "id", ())


async def test_whoever_may_not_manage_learns_nothing() -> None:
    here = place()
    caller = Caller("farm", ROLES["wrap"])
    for ask in (
        here.admin.get(caller, "tdxData"),
        here.admin.set_policy(caller, "../x", b""),
        here.admin.set_reference(caller, "../x", b""),
        here.admin.reference_of(caller, "nonsense"),
        here.admin.preview_pin(caller, "", ()),
        here.admin.pin(caller, "", (), ""),
    ):
        with pytest.raises(NotAuthorized):
            await ask
