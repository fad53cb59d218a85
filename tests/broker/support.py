"""Administrators of documents on one store in memory, with a tester that waits or refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from tests.support.events import RecordedEvents
from tests.support.memory import NOW
from tests.support.tees import TEES
from verdictd_py.broker.catalogue import Catalogue
from verdictd_py.broker.changes import CheckedDocuments
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.history import History
from verdictd_py.broker.references import ReferenceAdministrator
from verdictd_py.broker.referencesets import SetAdministrator
from verdictd_py.documents import referencesets
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import PolicyDecision, PolicyDocuments
from verdictd_py.storage.memory import MemoryDocumentStore

OPERATOR = Caller("operator", ROLES["operator"])
A, B = "aa" * 48, "bb" * 48


@dataclass
class HeldTester:
    """Checks nothing, until `held` is set: then each check waits for `go`."""

    refuses: Callable[[PolicyDocuments], bool] = lambda documents: False
    held: bool = False
    checking: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    checked: list[PolicyDocuments] = field(default_factory=list)
    tees: list[str | None] = field(default_factory=list)
    tested: list[tuple[PolicyDocuments, JsonValue]] = field(default_factory=list)

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
        self.checked.append(documents)
        self.tees.append(tee)
        if self.held:
            self.held = False
            self.checking.set()
            await self.go.wait()
        if self.refuses(documents):
            raise PolicyInvalid("the policy does not work")

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> PolicyDecision:
        self.tested.append((documents, claims))
        return PolicyDecision(documents.policy == "yes", {})


class Place:
    """Administrators on one store; each call of `another` adds those of a further broker."""

    def __init__(self, store: MemoryDocumentStore | None = None, /, **texts: str) -> None:
        defaults = {"tdxPolicy.rego": "old", "tdxData": "{}"}
        self.store = store or MemoryDocumentStore(TEES, {**defaults, **texts})
        self.history = History()
        self.prepared = 0
        self.events = RecordedEvents()
        self.tester = HeldTester()
        self.documents, self.sets = self.another(self.tester)

    def another(self, tester: HeldTester) -> tuple[DocumentAdministrator, SetAdministrator]:
        def clock() -> datetime:
            return NOW

        async def prepare() -> None:
            self.prepared += 1

        self.changes = changes = CheckedDocuments(
            self.store, TEES, tester, clock, prepare, self.events
        )
        deciding = DocumentsWithSets(self.store, TEES, clock)
        documents = DocumentAdministrator(
            documents=self.store,
            changes=changes,
            catalogue=Catalogue(self.store, TEES, ("tdx",)),
            deciding=deciding,
            tees=TEES,
            tester=tester,
        )
        self.references = ReferenceAdministrator(
            documents=self.store,
            changes=changes,
            deciding=deciding,
            tees=TEES,
            history=self.history,
        )
        sets = SetAdministrator(
            documents=self.store,
            tees=TEES,
            changes=changes,
            deciding=deciding,
            history=self.history,
            clock=clock,
        )
        return documents, sets

    def states(self) -> dict[str, str]:
        sets = referencesets.parse(self.store.texts["referenceSets"])["tdx"]
        return {name: made.state(NOW) for name, made in sets.items()}


def stored_sets(*names: str, tee: str = "tdx", values: JsonValue = None) -> str:
    members: JsonValue = {"rtmr1": [A]} if values is None else values
    made: dict[str, JsonValue] = {
        name: {"values": members, "addedBy": "a", "addedAt": NOW.isoformat()} for name in names
    }
    return json.dumps({tee: made})
