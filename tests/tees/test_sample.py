"""Sample evidence: believed, whatever it says, and never taken for anything else."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
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
    """What fits: it trusts no root, knows no debug mode, and its evidence has no end."""

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
        found = verified(self.case.good)
        assert (found.tee, found.report_data) == ("sample", REPORT_DATA)
        assert found.claims == {"svn": "1", "reportData": REPORT_DATA.hex()}
        assert found.tcb_status is None
        assert (found.advisory_ids, found.faults) == ((), ())
        assert found.digest == sha256(self.case.good.quote).hexdigest()

    def test_debug_is_a_fault_with_a_kind_and_its_claims(self) -> None:
        """It claims nothing of the kind: no policy can take it for a production TEE."""
        assert not {"debug", "tcbStatus", "mrTd"} & set(verified(self.case.good).claims)

    def test_another_root_trusts_nothing(self) -> None:
        """Anybody can make it, hence the flag."""
        assert self.case.verifier.tee == "sample"

    def test_long_before_and_long_after(self) -> None:
        for days in (-20_000, 40_000):
            now = NOW + timedelta(days=days)
            assert run(verified_by(self.case.verifier, self.case.good, now=now)).report_data

    def _same_or_refused(self, quote: bytes, plain: VerifiedEvidence) -> None:
        """Changed evidence says something else: nothing seals it. But nothing else breaks."""
        try:
            found = verified(Evidence("sample", quote, None, "sample"))
        except EvidenceFormat:
            return
        assert len(found.report_data) == 64


@pytest.mark.parametrize("size", [0, 1, 48, 63, 64])
def test_short_report_data_is_filled(size: int) -> None:
    """Guests show the digest alone: 48 bytes."""
    found = verified(sample(REPORT_DATA[:size]))
    assert found.report_data == REPORT_DATA[:size].ljust(64, b"\0")
    assert found.claims["reportData"] == found.report_data.hex()


@pytest.mark.parametrize(
    "changes",
    [
        *({"svn": ...}, {"svn": 1}, {"svn": None}, {"svn": []}, {"svn": "1" * 65}),
        *({"report_data": ...}, {"report_data": None}, {"report_data": 1}, {"report_data": "A"}),
        *({"report_data": "é"}, {"report_data": base64.b64encode(bytes(65)).decode()}),
        {"report_data": "_" * 8},
    ],
)
def test_another_shape(changes: dict[str, Any]) -> None:
    with pytest.raises(EvidenceFormat) as refused:
        verified(sample(**changes))
    assert "\n" not in str(refused.value)


def test_more_members_are_not_claims() -> None:
    """Whatever it calls itself."""
    found = verified(sample(mrTd="ab" * 48, debug=False, tcbStatus="UpToDate"))
    assert set(found.claims) == {"svn", "reportData"}
    assert found.tcb_status is None


@given(st.binary(max_size=200))
def test_only_its_own_error(quote: bytes) -> None:
    with pytest.raises(EvidenceFormat):
        verified(Evidence("sample", quote, None, "sample"))
