"""Verification shared by the Intel TEEs: whose collateral it is, grace, refusals by the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.verifiers import verified_by
from tests.tees.support import (
    NOW,
    REPORT_DATA,
    Source,
    good_collateral,
    good_quote,
    platform,
    run,
    signed_again,
    tdx_evidence,
    verify_tdx,
    with_options,
)
from verdictd_py.errors import AttestationError, CollateralExpired, QuoteInvalid, Reason, ReasonKind
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform, TdAttributes, TdMeasurements
from verdictd_py.simulator.platform import CERTIFICATE_LIFETIME
from verdictd_py.tees.intel import verification
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import ends_at
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly
from verdictd_py.tees.intel.dcap import QuoteRating, evaluate_quote
from verdictd_py.tees.tdx import verifier as tdx
from verdictd_py.tees.tdx.verifier import TdxVerifier

HONEST = TdMeasurements()
GRACE = timedelta(days=7)
SECOND = timedelta(seconds=1)


def rule_and_kind(reasons: tuple[Reason, ...]) -> list[tuple[str, ReasonKind | None]]:
    return [(reason.rule, reason.kind) for reason in reasons]


class TestCollateralOfAGuest:
    """A guest's collateral counts for guests without other collateral, and for no others."""

    def test_newer_collateral_of_a_guest_does_not_replace_the_operators(self) -> None:
        root = platform().root_ca_der
        newest = NewestCollateral(root_key_digest(root))
        early = with_options(tcb_evaluation_number=18, tcb_status="OutOfDate").collateral(NOW)

        def status(source: Any, sent: Collateral | None = None) -> str | None:
            verifier = TdxVerifier(source, root_ca_der=root, newest=newest)
            evidence = tdx_evidence(good_quote(), sent)
            return run(verified_by(verifier, evidence, now=NOW)).tcb_status

        assert status(EndorsementsOnly(), early) == "OutOfDate"
        assert status(Source(good_collateral())) == "UpToDate"
        assert status(EndorsementsOnly(), good_collateral()) == "OutOfDate"  # early still counts


class TestGracePeriod:
    @pytest.mark.parametrize(
        ("after", "accepted"),
        [(-2 * SECOND, True), (timedelta(0), True), (GRACE - SECOND, True), (GRACE, False)],
    )
    def test_it_ends_with_the_last_second(self, after: timedelta, accepted: bool) -> None:
        """Collateral is valid up to the second before its next update; grace extends that."""
        collateral = good_collateral()
        verifier = TdxVerifier(Source(collateral), root_ca_der=platform().root_ca_der, grace=GRACE)
        work = verified_by(verifier, tdx_evidence(good_quote()), now=ends_at(collateral) + after)
        if accepted:
            assert run(work).tcb_status == "UpToDate"
        else:
            with pytest.raises(CollateralExpired):
                run(work)

    def test_before_the_expiry_everything_is_evaluated_now(self) -> None:
        """Certificates that expire before the collateral are still valid now."""
        days = timedelta(days=10)
        aging = SimulatedPlatform.create(now=NOW - CERTIFICATE_LIFETIME + days)
        collateral = aging.collateral(NOW)
        assert ends_at(collateral) > NOW + days
        verifier = TdxVerifier(Source(collateral), root_ca_der=aging.root_ca_der, grace=GRACE)
        evidence = tdx_evidence(aging.quote(REPORT_DATA))
        assert run(verified_by(verifier, evidence, now=NOW)).tcb_status == "UpToDate"


class TestContentThatTheLibraryRefuses:
    """A refusal by the library is a fault, even if this project's own checks find nothing."""

    @pytest.fixture(autouse=True)
    def without_own_checks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tdx, "find_faults", lambda quote: ())

    @pytest.mark.parametrize(
        ("measurements", "rule"),
        [
            (HONEST.debug(), "debug"),
            (HONEST.without_attributes(TdAttributes.SEPT_VE_DISABLE), "tdAttributes"),
            (HONEST.with_attributes(TdAttributes.MIGRATABLE), "tdAttributes"),
        ],
    )
    def test_it_is_a_fault_with_the_librarys_text(
        self, measurements: TdMeasurements, rule: str
    ) -> None:
        result = verify_tdx(platform().quote(REPORT_DATA, measurements))
        assert rule_and_kind(result.faults) == [(rule, ReasonKind.ATTRIBUTES)]
        assert result.faults[0].text.startswith(f"{rule}: ")
        assert "enabled" in result.faults[0].text
        assert result.tcb_status == "UpToDate"

    def test_a_revoked_tcb_without_a_rating_is_a_fault(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "rate", lambda quote, platform, collateral: None)
        machine = with_options(tcb_status="Revoked")
        result = verify_tdx(machine.quote(REPORT_DATA), machine.collateral(NOW))
        assert result.tcb_status is None
        assert rule_and_kind(result.faults) == [("tcbStatus", ReasonKind.TCB)]

    def test_a_revoked_tcb_is_one_fault(self) -> None:
        """The rating and the library both report it."""
        machine = with_options(tcb_status="Revoked")
        result = verify_tdx(machine.quote(REPORT_DATA), machine.collateral(NOW))
        assert rule_and_kind(result.faults) == [("tcbStatus", ReasonKind.TCB)]
        assert result.faults[0].measured == "Revoked"


def test_a_quote_in_which_the_library_reads_another_fmspc_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collateral was selected by one FMSPC and would be applied to another. This is final."""

    def evaluated(*args: Any, **options: Any) -> object:
        result = evaluate_quote(*args, **options)
        assert isinstance(result, QuoteRating)
        return replace(result, fmspc="00a067110000")

    monkeypatch.setattr(verification, "evaluate_quote", evaluated)
    with pytest.raises(QuoteInvalid, match=r"^the quote does not verify$") as caught:
        verify_tdx(good_quote())
    assert caught.value.reasons == (
        Reason(
            "fmspc",
            "00a067110000",
            "50806f000000",
            "two libraries read different FMSPCs from the quote",
            kind=ReasonKind.VERIFICATION,
        ),
    )


def _texts(change: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    """Return TCB info and QE identity, both with a change."""
    texts = {}
    for name in ("tcb_info", "qe_identity"):
        members = json.loads(getattr(good_collateral(), name))
        change(members)
        texts[name] = json.dumps(members)
    return texts


def test_collateral_with_an_unreadable_evaluation_number_is_older_than_any_minimum() -> None:
    """It is signed, but its number is a text: the lowest minimum already refuses it."""
    texts = _texts(lambda members: members.update(tcbEvaluationDataNumber="17"))
    source = Source(signed_again(good_collateral(), **texts))
    verifier = TdxVerifier(source, root_ca_der=platform().root_ca_der, minimum_evaluation=1)
    with pytest.raises(AttestationError) as caught:
        run(verified_by(verifier, tdx_evidence(good_quote()), now=NOW))
    (reason,) = caught.value.reasons
    assert (reason.rule, reason.measured, reason.expected) == ("tcb-info", "0", "at least 1")
    assert reason.kind is ReasonKind.COLLATERAL
