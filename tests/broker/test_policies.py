"""Policies and reference data: checked before they are stored, and never a lost update."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest

from tests.support.events import RecordedEvents
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.catalogue import Catalogue
from verdictd_py.broker.changes import CheckedDocuments
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement
from verdictd_py.broker.references import ReferenceAdministrator
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.names import Name
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
from verdictd_py.ports import DocumentStore, Events, PolicyDecision, PolicyDocuments, PolicyTester
from verdictd_py.storage.memory import MemoryDocumentStore

OPERATOR = Caller("operator", ROLES["operator"])
A, B = "ab" * 48, "cd" * 48
GUEST = replace(VERIFIED, claims={"mrTd": A})


@dataclass
class ScriptedTester:
    """A tester that refuses the documents in `refuses`."""

    refuses: Callable[[PolicyDocuments], bool] = lambda documents: False

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
        await asyncio.sleep(0)
        if self.refuses(documents):
            raise PolicyInvalid("the policy does not work")

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> PolicyDecision:
        return PolicyDecision(documents.policy == "yes", {})


def administrators(
    documents: DocumentStore, tester: PolicyTester, history: History, events: Events
) -> tuple[DocumentAdministrator, ReferenceAdministrator]:
    def clock() -> datetime:
        return NOW

    async def prepare() -> None:
        await asyncio.sleep(0)

    changes = CheckedDocuments(documents, TEES, tester, clock, prepare, events)
    deciding = DocumentsWithSets(documents, TEES, clock)
    return DocumentAdministrator(
        documents=documents,
        changes=changes,
        catalogue=Catalogue(documents, TEES, ("tdx",)),
        deciding=deciding,
        tees=TEES,
        tester=tester,
    ), ReferenceAdministrator(
        documents=documents,
        changes=changes,
        deciding=deciding,
        tees=TEES,
        history=history,
    )


@dataclass
class Place:
    documents: MemoryDocumentStore
    history: History
    events: RecordedEvents
    admin: DocumentAdministrator
    references: ReferenceAdministrator


def place(
    refuses: Callable[[PolicyDocuments], bool] = lambda documents: False, **texts: str
) -> Place:
    documents = MemoryDocumentStore(TEES, {"tdxPolicy.rego": "old", "tdxData": "{}", **texts})
    history, events = History(), RecordedEvents()
    admin, references = administrators(documents, ScriptedTester(refuses), history, events)
    return Place(documents, history, events, admin, references)


def remember(history: History, rule: str = "mrTd") -> None:
    kind = TEES.named("tdx").reason_kind(rule)
    reason = Reason(rule, A, B, "", kind=kind)
    refusal = PolicyRefused("refused", reasons=(reason,))
    appraisal = Appraisal("id", NOW, "tdx", "test", GUEST, bound=True, refusal=refusal)
    history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))


async def test_a_policy_that_fails_its_check_is_not_stored() -> None:
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


async def test_a_broken_policy_and_its_broken_data_can_be_fixed_one_after_the_other() -> None:
    """Both were broken by hand; an operator can fix either one first."""

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


async def test_a_policy_is_not_reference_data() -> None:
    here = place()
    with pytest.raises(RequestError, match="is the name of reference data"):
        await here.admin.set_policy(OPERATOR, "tdxData", b"new")
    with pytest.raises(RequestError, match="is the name of a policy"):
        await here.admin.set_reference(OPERATOR, "tdxPolicy.rego", b"{}")
    await here.admin.set_policy(OPERATOR, "another", b"new")
    assert here.documents.texts["another"] == "new"


@pytest.mark.parametrize("name", ["a/b/c", "../x", "", "a/b"])
async def test_a_name_has_one_segment(name: str) -> None:
    here = place()
    with pytest.raises(RequestError):
        await here.admin.set_policy(OPERATOR, name, b"new")


async def test_a_pin_of_an_outdated_preview_is_refused() -> None:
    here = place()
    remember(here.history)
    preview = await here.references.preview_pin(OPERATOR, "id", ())
    assert [(change.field, change.accepted, change.added) for change in preview.changes] == [
        ("mrTd", (), A)
    ]
    here.documents.texts["tdxData"] = '{"rtmr1": ["00"]}'
    with pytest.raises(Conflict, match="has changed since"):
        await here.references.pin(OPERATOR, "id", ("mrTd",), preview.revision)
    assert here.documents.texts["tdxData"] == '{"rtmr1": ["00"]}'


async def test_only_one_of_several_concurrent_pins_succeeds() -> None:
    here = place()
    remember(here.history)
    preview = await here.references.preview_pin(OPERATOR, "id", ())
    results = await asyncio.gather(
        *(here.references.pin(OPERATOR, "id", (), preview.revision) for _ in range(3)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Conflict) for each in results) == 2
    assert json.loads(here.documents.texts["tdxData"]) == {"mrTd": [A]}


async def test_a_pin_of_accepted_values_is_refused() -> None:
    here = place(tdxData=json.dumps({"mrTd": [A, B]}))
    remember(here.history)
    preview = await here.references.preview_pin(OPERATOR, "id", ())
    assert preview.changes[0].added == ""
    with pytest.raises(RequestError, match="accepted already"):
        await here.references.pin(OPERATOR, "id", (), preview.revision)


async def test_a_value_that_is_not_a_list_is_not_overwritten() -> None:
    here = place(tdxData='{"mrTd": "cd"}')
    remember(here.history)
    with pytest.raises(PolicyInvalid, match="mrTd is not a list of accepted values"):
        await here.references.preview_pin(OPERATOR, "id", ())


async def test_a_caller_without_the_right_reads_nothing() -> None:
    here = place()
    caller = Caller("farm", ROLES["wrap"])
    for ask in (
        here.admin.get(caller, "tdxData"),
        here.admin.set_policy(caller, "../x", b""),
        here.admin.set_reference(caller, "../x", b""),
        here.references.view(caller, "nonsense"),
        here.references.preview_pin(caller, "", ()),
        here.references.pin(caller, "", (), ""),
    ):
        with pytest.raises(NotAuthorized):
            await ask


async def test_a_document_that_release_policies_name_meanwhile_is_not_deleted() -> None:
    """The catalogue has no reader for it, and then another operator names it."""
    here = place()
    here.documents.texts["team.rego"] = "policy"
    delete = here.documents.delete

    async def named_first(name: Name, **more: Any) -> None:
        here.documents.delete = delete  # type: ignore[method-assign]
        await here.admin.set_reference(OPERATOR, "releasePolicies", b'{"keys/a/": "team.rego"}')
        await delete(name, **more)

    here.documents.delete = named_first  # type: ignore[method-assign]
    with pytest.raises(RequestError, match=r"team\.rego decides about release of 'keys/a/'"):
        await here.admin.delete(OPERATOR, "team.rego")
    assert "team.rego" in here.documents.texts


async def test_release_policies_do_not_name_a_document_that_is_deleted_meanwhile() -> None:
    here = place()
    here.documents.texts["team.rego"] = "policy"
    put = here.documents.put

    async def deleted_first(name: Name, text: str, **more: Any) -> str:
        here.documents.put = put  # type: ignore[method-assign]
        await here.admin.delete(OPERATOR, "team.rego")
        return await put(name, text, **more)

    here.documents.put = deleted_first  # type: ignore[method-assign]
    with pytest.raises(RequestError, match=r"there is no policy team\.rego"):
        await here.admin.set_reference(OPERATOR, "releasePolicies", b'{"keys/a/": "team.rego"}')
    assert "releasePolicies" not in here.documents.texts


async def test_a_good_policy_is_stored_over_data_that_is_broken_under_both() -> None:
    """Otherwise neither could be fixed; every guest is refused until the data is fixed."""
    here = place(tdxData='{"mrtd": []}')
    await here.admin.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert here.documents.texts["tdxPolicy.rego"] == "new"
    with pytest.raises(PolicyInvalid, match="did you mean mrTd"):
        await here.references.preview_pin(OPERATOR, remembered(here), ())
    view = await here.references.view(OPERATOR, "tdx")
    assert (view.deciding, view.stored) == (None, '{"mrtd": []}')
    assert "did you mean mrTd" in view.problem


async def test_a_set_that_changes_after_the_preview_refuses_the_pin() -> None:
    """The accepted values depend on the named sets as well as on the data."""
    here = place()
    remember(here.history)
    preview = await here.references.preview_pin(OPERATOR, "id", ())
    values = {"mrTd": [B]}
    made = {"values": values, "addedBy": "a", "addedAt": NOW.isoformat()}
    here.documents.texts["referenceSets"] = json.dumps({"tdx": {"new": made}})
    with pytest.raises(Conflict, match="referenceSets has changed since"):
        await here.references.pin(OPERATOR, "id", ("mrTd",), preview.revision)
    assert here.documents.texts["tdxData"] == "{}"
    preview = await here.references.preview_pin(OPERATOR, "id", ())
    assert [(change.accepted, change.added) for change in preview.changes] == [((B,), A)]
    await here.references.pin(OPERATOR, "id", ("mrTd",), preview.revision)
    assert json.loads(here.documents.texts["tdxData"]) == {"mrTd": [A]}


def remembered(here: Place) -> str:
    remember(here.history)
    return "id"
