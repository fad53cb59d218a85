"""Conformance of the port `AppraisalPolicy`, over documents of each store."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from tests.policy.support import ONE, TWO, tdx_claims
from tests.support.stores import document_store
from tests.support.tees import TEES
from verdictd_py.domain.names import Name
from verdictd_py.errors import PolicyUnavailable
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import ANY, AppraisalPolicy, DocumentStore
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.memory import MemoryDocumentStore

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SetReference = Callable[[str], Awaitable[None]]


class AppraisalPolicySuite(ABC):
    """Subclasses define the fixtures `policy` and `set_reference`."""

    @pytest.fixture
    @abstractmethod
    def policy(self) -> AppraisalPolicy:
        """The packaged policy of TDX with the packaged reference data."""

    @pytest.fixture
    @abstractmethod
    def set_reference(self) -> SetReference:
        """A function that replaces the text of the reference data."""

    async def test_a_good_guest_is_accepted(self, policy: AppraisalPolicy) -> None:
        assert await policy.failures("tdx", tdx_claims()) == ()

    async def test_each_failed_rule_is_a_reason(
        self, policy: AppraisalPolicy, set_reference: SetReference
    ) -> None:
        await set_reference(json.dumps({"rtmr1": [TWO], "rtmr2": [TWO], "mrTd": [ONE]}))
        reasons = await policy.failures("tdx", tdx_claims(debug=True))
        assert {reason.rule for reason in reasons} == {"debug", "rtmr1", "rtmr2"}
        (rtmr1,) = [reason for reason in reasons if reason.rule == "rtmr1"]
        assert (rtmr1.measured, rtmr1.expected) == (ONE, TWO)

    async def test_a_change_applies_to_the_next_guest(
        self, policy: AppraisalPolicy, set_reference: SetReference
    ) -> None:
        for values, accepted in (([TWO], False), ([TWO, ONE], True), ([], True)):
            await set_reference(json.dumps({"rtmr1": values}))
            assert (await policy.failures("tdx", tdx_claims()) == ()) is accepted

    @pytest.mark.parametrize("text", ["", "{", '{"policy": {"allow": true}}'])
    async def test_with_data_that_cannot_be_used_no_guest_is_appraised(
        self, policy: AppraisalPolicy, set_reference: SetReference, text: str
    ) -> None:
        await set_reference(text)
        with pytest.raises(PolicyUnavailable):
            await policy.failures("tdx", tdx_claims())

    async def test_a_tee_without_documents_is_refused(self, policy: AppraisalPolicy) -> None:
        assert await policy.failures("csv", tdx_claims())

    @pytest.mark.parametrize("claims", [{}, {"tcbStatus": "Revoked"}])
    async def test_claims_without_proof_are_refused(
        self, policy: AppraisalPolicy, claims: dict[str, str]
    ) -> None:
        assert await policy.failures("tdx", dict(claims))


class _OverDocuments(AppraisalPolicySuite):
    """Suite with a document store, which subclasses define as `documents`."""

    @pytest.fixture
    def policy(self, documents: DocumentStore) -> AppraisalPolicy:
        return RegoAppraisalPolicy(DocumentsWithSets(documents, TEES, lambda: NOW), TEES)

    @pytest.fixture
    def set_reference(self, documents: DocumentStore) -> SetReference:
        async def put(text: str) -> None:
            await documents.put(Name.parse("tdxData"), text, expected=ANY)

        return put


class TestDirectory(_OverDocuments):
    @pytest.fixture
    def documents(self, directory: Directory) -> DocumentStore:
        return document_store(directory)


class TestMemory(_OverDocuments):
    @pytest.fixture
    def documents(self) -> DocumentStore:
        packaged = TEES.named("tdx").documents.defaults()
        return MemoryDocumentStore(
            TEES, {"tdxPolicy.rego": packaged.policy, "tdxData": packaged.data}
        )
