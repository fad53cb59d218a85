"""Suite of the port `Verifier`: what every verifier must do, whatever it verifies.

A `Case` brings a verifier and evidence that it accepts.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.verifiers import verified_by
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import (
    AttestationError,
    ClockBehind,
    CollateralUnavailable,
    EvidenceFormat,
    ReasonKind,
)
from verdictd_py.ports import Verifier


@dataclass(frozen=True)
class Case:
    """One verifier under test.

    Attributes:
        verifier: verifier with a root that `good` leads to.
        good: evidence without faults at `now`.
        debug: the same from a debug TEE, signed as well.
        stranger: the same verifier with a root that `good` does not lead to.
        padding: whether evidence may be followed by zeros, as in fixed-size buffers.
    """

    verifier: Verifier
    good: Evidence
    debug: Evidence
    stranger: Verifier
    report_data: bytes
    now: datetime
    padding: bool = True


class VerifierConformance:
    """Checks of a verifier; subclasses define `case`."""

    case: Case

    def _refuse(
        self,
        evidence: Evidence,
        *,
        verifier: Verifier | None = None,
        now: datetime | None = None,
    ) -> AttestationError:
        with pytest.raises(AttestationError) as caught:
            asyncio.run(
                verified_by(verifier or self.case.verifier, evidence, now=now or self.case.now)
            )
        for reason in caught.value.reasons:
            assert reason.rule
            assert reason.text
            assert reason.kind is not ReasonKind.OTHER
        assert "\n" not in str(caught.value)
        return caught.value

    def test_name_and_tee(self) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_-]*", self.case.verifier.name)
        assert self.case.verifier.tee == self.case.good.tee != "none"

    def test_good_evidence(self) -> None:
        case = self.case
        result = asyncio.run(verified_by(case.verifier, case.good, now=case.now))
        assert result.tee == case.good.tee
        assert result.report_data == case.report_data
        assert result.claims["reportData"] == case.report_data.hex()
        assert result.claims["debug"] is False
        assert result.faults == ()
        assert re.fullmatch(r"[0-9a-f]{64}", result.digest)
        assert json.loads(json.dumps(dict(result.claims))) == result.claims
        assert result == asyncio.run(verified_by(case.verifier, case.good, now=case.now))

    def test_form_and_binding_have_no_effect(self) -> None:
        case = self.case
        plain = asyncio.run(verified_by(case.verifier, case.good, now=case.now))
        other = replace(case.good, form="otherwise", binding=b"anything")
        assert asyncio.run(verified_by(case.verifier, other, now=case.now)) == plain

    def test_padding_does_not_change_the_digest(self) -> None:
        case = self.case
        padded = replace(case.good, quote=case.good.quote + bytes(70))
        if not case.padding:
            self._refuse(padded)
            return
        result = asyncio.run(verified_by(case.verifier, padded, now=case.now))
        assert result == asyncio.run(verified_by(case.verifier, case.good, now=case.now))

    def test_debug_is_a_fault_with_a_kind_and_its_claims(self) -> None:
        """defects.md 9: evidence of a debug TEE is refused whatever the policy says."""
        result = asyncio.run(verified_by(self.case.verifier, self.case.debug, now=self.case.now))
        kinds = {fault.rule: fault.kind for fault in result.faults}
        assert kinds.pop("debug") is ReasonKind.ATTRIBUTES
        assert ReasonKind.OTHER not in kinds.values()
        assert result.claims["debug"] is True
        assert result.report_data == self.case.report_data

    def test_evidence_of_another_root_is_refused(self) -> None:
        self._refuse(self.case.good, verifier=self.case.stranger)
        self._refuse(self.case.debug, verifier=self.case.stranger)

    def test_a_time_after_the_validity_is_refused(self) -> None:
        self._refuse(self.case.good, now=self.case.now + timedelta(days=40_000))

    def test_no_evidence_verifies_at_a_time_before_the_validity(self) -> None:
        """Evidence that was issued in the future is refused, or this host's clock is wrong."""
        with pytest.raises((AttestationError, ClockBehind)):
            asyncio.run(
                verified_by(
                    self.case.verifier,
                    self.case.good,
                    now=self.case.now - timedelta(days=20_000),
                )
            )

    @pytest.mark.parametrize("tee", ["tdx", "sgx", "sample", "toy", "snp", "none", ""])
    def test_other_tees(self, tee: str) -> None:
        if tee != self.case.verifier.tee:
            error = self._refuse(replace(self.case.good, tee=tee))
            assert isinstance(error, EvidenceFormat)

    @pytest.mark.parametrize("quote", [b"", b"\0", bytes(1000), bytes(70_000)])
    def test_garbage(self, quote: bytes) -> None:
        self._refuse(replace(self.case.good, quote=quote))

    def test_truncated(self) -> None:
        quote = self.case.good.quote
        for size in range(0, len(quote), max(1, len(quote) // 200)):
            self._refuse(replace(self.case.good, quote=quote[:size]))

    def test_changed_evidence_raises_attestation_errors_only(self) -> None:
        """Changed evidence has the same claims, or is refused with an AttestationError."""
        plain = asyncio.run(verified_by(self.case.verifier, self.case.good, now=self.case.now))
        for_each_change(self.case.good.quote, lambda quote: self._same_or_refused(quote, plain))

    def _same_or_refused(self, quote: bytes, plain: VerifiedEvidence) -> None:
        evidence = replace(self.case.good, quote=quote)
        try:
            result = asyncio.run(verified_by(self.case.verifier, evidence, now=self.case.now))
        except (AttestationError, CollateralUnavailable):
            return
        assert replace(result, digest="") == replace(plain, digest="")


def for_each_change(quote: bytes, check: Callable[[bytes], None]) -> None:
    """Run `check` with changed copies of `quote`."""

    @given(st.integers(0, len(quote) - 1), st.binary(min_size=1, max_size=8))
    @examples(60)
    def changed(at: int, by: bytes) -> None:
        check(quote[:at] + by + quote[at + len(by) :])

    changed()
