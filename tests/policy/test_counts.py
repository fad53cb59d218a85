"""Work for a guest: it repeats no compilation and no parsing that was done before."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pytest

from tests.policy.support import ONE, POLICIES, TWO, tdx_claims
from tests.support.events import RecordedEvents
from tests.support.memory import accepted_peer
from tests.support.tees import TEES
from verdictd_py.broker.catalogue import Catalogue
from verdictd_py.broker.changes import CheckedDocuments
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.history import History
from verdictd_py.broker.referencesets import SetAdministrator
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.release import RegoReleasePolicy
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.policy.trial import PolicyTrial
from verdictd_py.ports import Kind
from verdictd_py.storage.memory import MemoryDocumentStore

OPERATOR = Caller("operator", ROLES["operator"])
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MARK = "cafe" * 24
HEAD = "package policy\nimport rego.v1\n"


class Broker:
    """The use cases on one store, wired as the daemon wires them."""

    def __init__(self, **texts: str) -> None:
        names = ("tdxPolicy.rego", "tdxData", "releasePolicy.rego", "releaseData")
        packaged = {name: (POLICIES / name).read_text(encoding="utf-8") for name in names}
        self.store = MemoryDocumentStore(TEES, {**packaged, **texts})
        self.source = DocumentsWithSets(self.store, TEES, lambda: NOW)
        compiled = CompiledPolicies()
        self.appraisal = RegoAppraisalPolicy(self.source, TEES, compiled)
        self.release = RegoReleasePolicy(self.store, TEES, compiled)
        tester, history, events = PolicyTrial(TEES, compiled), History(), RecordedEvents()
        changes = CheckedDocuments(self.store, TEES, tester, lambda: NOW, self.prepare, events)
        self.documents = DocumentAdministrator(
            documents=self.store,
            changes=changes,
            catalogue=Catalogue(self.store, TEES, ("tdx",)),
            deciding=self.source,
            tees=TEES,
            tester=tester,
        )
        self.sets = SetAdministrator(
            documents=self.store,
            tees=TEES,
            changes=changes,
            deciding=self.source,
            history=history,
            clock=lambda: NOW,
        )

    async def prepare(self) -> None:
        await self.appraisal.prepare("tdx")
        await self.release.prepare()

    async def guest(self) -> bool:
        """Appraise a guest and evaluate the release of a key to it; return whether both succeed."""
        reasons = await self.appraisal.failures("tdx", tdx_claims())
        await self.release.failures(accepted_peer(), Kind.KEY, "keys/one")
        return not reasons


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    compiled: list[str] = []
    compile_policy = CompiledPolicy.compile.__func__  # type: ignore[attr-defined]

    def counting(
        cls: type[CompiledPolicy], policy: str, data: str | ReferenceData
    ) -> CompiledPolicy:
        compiled.append(policy)
        found: CompiledPolicy = compile_policy(cls, policy, data)
        return found

    monkeypatch.setattr(CompiledPolicy, "compile", classmethod(counting))
    return compiled


async def test_no_guest_causes_a_compilation(compilations: list[str]) -> None:
    broker = Broker()
    await broker.prepare()
    assert len(compilations) == 2  # appraisal and release
    assert await broker.guest()
    assert len(compilations) == 2


async def test_a_policy_compiled_for_its_check_is_not_compiled_again(
    compilations: list[str],
) -> None:
    broker = Broker()
    await broker.prepare()
    compilations.clear()
    policy = f"{HEAD}default allow := false\nallow if count(data.rtmr1) == 1\n"
    await broker.documents.set_policy(OPERATOR, "tdxPolicy.rego", policy.encode())
    assert not await broker.guest()
    assert len(compilations) == 1
    await broker.documents.set_reference(OPERATOR, "tdxData", json.dumps({"rtmr1": [ONE]}).encode())
    assert await broker.guest()
    assert len(compilations) == 2
    await broker.sets.add(OPERATOR, "tdx", "more", {"rtmr1": [TWO]}, "")
    assert not await broker.guest()
    assert len(compilations) == 3
    await broker.sets.retire(OPERATOR, "tdx", "more")  # stored unchecked, compiled all the same
    compiled = len(compilations)
    await broker.guest()
    assert len(compilations) == compiled
    release = f"{HEAD}default allow := false\n"
    await broker.documents.set_policy(OPERATOR, "releasePolicy.rego", release.encode())
    compiled = len(compilations)
    await broker.guest()
    assert len(compilations) == compiled == 5


async def test_reference_data_is_parsed_and_serialised_once_for_all_guests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test counts every call of the JSON library with the reference data."""
    counts: Counter[str] = Counter()
    loads, dumps = json.loads, json.dumps

    def counting_loads(text: str | bytes, **more: object) -> object:
        if MARK in (text if isinstance(text, str) else text.decode(errors="replace")):
            counts["parsed"] += 1
        return loads(text, **more)  # type: ignore[arg-type]

    def counting_dumps(value: object, **more: object) -> str:
        text = dumps(value, **more)  # type: ignore[arg-type]
        counts["written"] += MARK in text
        return text

    monkeypatch.setattr(json, "loads", counting_loads)
    monkeypatch.setattr(json, "dumps", counting_dumps)
    lists = {name: [ONE, TWO, MARK] for name in TEES.measurements("tdx")}
    broker = Broker(tdxData=dumps(lists))
    assert await broker.guest()
    assert dict(counts) == {"parsed": 1, "written": 1}
    for _ in range(3):
        assert await broker.guest()
    assert dict(counts) == {"parsed": 1, "written": 1}
    await broker.sets.add(OPERATOR, "tdx", "more", {"rtmr1": [MARK]}, "")
    await broker.guest()  # the sets are parsed, and combined with the data
    counts.clear()
    for _ in range(3):
        assert await broker.guest()
    assert not counts.total()
