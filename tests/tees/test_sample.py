"""Sample evidence: every claim is accepted, and no other evidence is mistaken for it."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.verifiers import Case, VerifierConformance
from tests.support.verifiers import verified_by
from tests.tees.support import NOW, REPORT_DATA, run
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import EvidenceFormat
from verdictd_py.tees.sample.verifier import InsecureSampleVerifier


def sample(raw: bytes = REPORT_DATA, /, **changes: Any) -> Evidence:
    members = {"svn": "1", "report_data": base64.b64encode(raw).decode(), **changes}
    quote = json.dumps({name: value for name, value in members.items() if value is not ...})
    return Evidence("sample", quote.encode(), None, "sample")


def verified(evidence: Evidence) -> VerifiedEvidence:
    return run(verified_by(InsecureSampleVerifier(), evidence, now=NOW))


class TestSample(VerifierConformance):
    """Applicable checks: sample evidence has no root, no debug mode and no expiry."""

    case = Case(
        verifier=InsecureSampleVerifier(),
        good=sample(),
        debug=sample(),
        stranger=InsecureSampleVerifier(),
        report_data=REPORT_DATA,
        now=NOW,
        padding=False,
    )

    def test_good_evidence(self) -> None:
        result = verified(self.case.good)
        assert (result.tee, result.report_data) == ("sample", REPORT_DATA)
        assert result.claims == {"svn": "1", "reportData": REPORT_DATA.hex()}
        assert result.tcb_status is None
        assert (result.advisory_ids, result.faults) == ((), ())
        assert result.digest == sha256(self.case.good.quote).hexdigest()

    def test_debug_is_a_fault_with_a_kind_and_its_claims(self) -> None:
        """Sample evidence has no claim about debug mode."""
        assert not {"debug", "tcbStatus", "mrTd"} & set(verified(self.case.good).claims)

    def test_evidence_of_another_root_is_refused(self) -> None:
        """Sample evidence has no root: any client can make it."""
        assert self.case.verifier.tee == "sample"

    def test_a_time_after_the_validity_is_refused(self) -> None:
        """Nothing of this evidence expires."""
        self._verifies_at(NOW + timedelta(days=40_000))

    def test_no_evidence_verifies_at_a_time_before_the_validity(self) -> None:
        self._verifies_at(NOW - timedelta(days=20_000))

    def _verifies_at(self, now: datetime) -> None:
        assert run(verified_by(self.case.verifier, self.case.good, now=now)).report_data

    def _same_or_refused(self, quote: bytes, plain: VerifiedEvidence) -> None:
        """Changed evidence has other claims, because it is not signed, or is refused."""
        try:
            result = verified(Evidence("sample", quote, None, "sample"))
        except EvidenceFormat:
            return
        assert len(result.report_data) == 64


@pytest.mark.parametrize("size", [0, 1, 48, 63, 64])
def test_short_report_data_is_padded(size: int) -> None:
    """Guests send only the digest: 48 bytes."""
    result = verified(sample(REPORT_DATA[:size]))
    assert result.report_data == REPORT_DATA[:size].ljust(64, b"\0")
    assert result.claims["reportData"] == result.report_data.hex()


@pytest.mark.parametrize(
    "changes",
    [
        *({"svn": ...}, {"svn": 1}, {"svn": None}, {"svn": []}, {"svn": "1" * 65}),
        *({"report_data": ...}, {"report_data": None}, {"report_data": 1}, {"report_data": "A"}),
        *({"report_data": "é"}, {"report_data": base64.b64encode(bytes(65)).decode()}),
        {"report_data": "_" * 8},
    ],
)
def test_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EvidenceFormat) as refused:
        verified(sample(**changes))
    assert "\n" not in str(refused.value)


def test_more_members_are_not_claims() -> None:
    """Further members do not become claims."""
    result = verified(sample(mrTd="ab" * 48, debug=False, tcbStatus="UpToDate"))
    assert set(result.claims) == {"svn", "reportData"}
    assert result.tcb_status is None


@given(st.binary(max_size=200))
def test_garbage_raises_its_own_error_only(quote: bytes) -> None:
    with pytest.raises(EvidenceFormat):
        verified(Evidence("sample", quote, None, "sample"))
