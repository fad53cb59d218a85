"""Guests that connect again are not evaluated again, unless anything that decides has changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
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
    tdx_evidence,
    with_options,
)
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.errors import (
    AttestationError,
    ClockBehind,
    CollateralExpired,
    CollateralUnavailable,
    EvidenceExpired,
    NotAppraised,
    QuoteInvalid,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.simulator.platform import CERTIFICATE_LIFETIME
from verdictd_py.tees.intel import verification
from verdictd_py.tees.intel.collateral.check import ends_at
from verdictd_py.tees.intel.dcap import evaluate_quote
from verdictd_py.tees.intel.seen import EvaluatedQuotes
from verdictd_py.tees.tdx.verifier import TdxVerifier

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


class Verifier:
    """A verifier with one source of collateral, and the number of quotes that it evaluated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: SimulatedPlatform, **more: Any) -> None:
        self.source = Source(of.collateral(NOW))
        self.evaluated = 0
        self._verifier = TdxVerifier(self.source, root_ca_der=of.root_ca_der, **more)

        def counted(*args: Any, **options: Any) -> object:
            self.evaluated += 1
            return evaluate_quote(*args, **options)

        monkeypatch.setattr(verification, "evaluate_quote", counted)

    def verify(
        self, quote: bytes, now: datetime = NOW, sent: Collateral | None = None
    ) -> VerifiedEvidence:
        return run(verified_by(self._verifier, tdx_evidence(quote, sent), now=now))


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> Verifier:
    return Verifier(monkeypatch, platform())


def test_a_quote_that_was_accepted_is_evaluated_once(verifier: Verifier) -> None:
    first = verifier.verify(good_quote())
    assert verifier.verify(good_quote(), NOW + MINUTE) == first
    assert verifier.evaluated == 1
    verifier.verify(platform().quote(bytes(64)))
    assert verifier.evaluated == 2


def test_a_changed_signature_is_refused_after_the_genuine_quote(verifier: Verifier) -> None:
    verifier.verify(good_quote())
    for place in (700, 650, 100):  # attestation key, signature, body
        changed = bytearray(good_quote())
        changed[place] ^= 1
        with pytest.raises(AttestationError):
            verifier.verify(bytes(changed))


def test_padding_does_not_make_another_quote(verifier: Verifier) -> None:
    verifier.verify(good_quote())
    verifier.verify(good_quote() + bytes(100))
    assert verifier.evaluated == 1


def test_a_new_revocation_list_refuses_a_quote_that_was_accepted(verifier: Verifier) -> None:
    verifier.verify(good_quote())
    revoking = with_options(pck_revoked=True).collateral(NOW)
    verifier.source.collateral = (replace(good_collateral(), pck_crl=revoking.pck_crl),)
    with pytest.raises(QuoteInvalid) as caught:
        verifier.verify(good_quote())
    assert caught.value.reasons[0].rule == "revocation"
    assert "CertRevoked" in caught.value.reasons[0].text


def test_a_new_root_revocation_list_refuses_a_quote_that_was_accepted(verifier: Verifier) -> None:
    verifier.verify(good_quote())
    revoking = with_options(pck_ca_revoked=True).collateral(NOW)
    verifier.source.collateral = (replace(good_collateral(), root_ca_crl=revoking.root_ca_crl),)
    with pytest.raises(QuoteInvalid):
        verifier.verify(good_quote())


def test_new_tcb_info_rates_a_quote_that_was_accepted(verifier: Verifier) -> None:
    assert verifier.verify(good_quote()).tcb_status == "UpToDate"
    recovered = with_options(tcb_evaluation_number=18, tcb_status="OutOfDate")
    verifier.source.collateral = (recovered.collateral(NOW),)
    assert verifier.verify(good_quote()).tcb_status == "OutOfDate"


def test_the_end_of_the_collateral_refuses_a_quote_that_was_accepted(verifier: Verifier) -> None:
    verifier.verify(good_quote())
    end = ends_at(good_collateral())
    assert verifier.verify(good_quote(), end - SECOND).tcb_status == "UpToDate"
    with pytest.raises((CollateralExpired, CollateralUnavailable)):
        verifier.verify(good_quote(), end + SECOND)


def test_a_clock_that_was_set_back_evaluates_a_quote_again(verifier: Verifier) -> None:
    verifier.verify(good_quote())
    verifier.verify(good_quote(), NOW - MINUTE)
    assert verifier.evaluated == 2
    with pytest.raises((ClockBehind, NotAppraised)):
        verifier.verify(good_quote(), NOW - timedelta(days=400))


def test_the_end_of_a_certificate_refuses_a_quote_that_was_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The certificates of the platform end before its collateral."""
    aging = SimulatedPlatform.create(now=NOW - CERTIFICATE_LIFETIME + timedelta(days=10))
    verifier = Verifier(monkeypatch, aging)
    quote, end = aging.quote(REPORT_DATA), aging.root.certificate.not_valid_after_utc
    assert ends_at(aging.collateral(NOW)) > end
    verifier.verify(quote)
    verifier.verify(quote, end)
    with pytest.raises(EvidenceExpired):
        verifier.verify(quote, end + SECOND)


def test_days_behind_are_those_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rating is cached; what follows from it and from the time is not."""
    late = with_options(tcb_status="OutOfDate")
    verifier = Verifier(monkeypatch, late)
    quote = late.quote(REPORT_DATA)
    days = verifier.verify(quote).claims["tcbBehindDays"]
    assert isinstance(days, int)
    assert verifier.verify(quote, NOW + timedelta(days=2)).claims["tcbBehindDays"] == days + 2
    assert verifier.evaluated == 1


def test_only_the_last_quotes_are_cached() -> None:
    cache = EvaluatedQuotes[str](most=2)
    for name in "ab":
        cache.add(name, b"c", name, since=NOW, until=NOW + MINUTE)
    assert cache.get("a", b"c", NOW) == "a"
    cache.add("d", b"c", "d", since=NOW, until=NOW + MINUTE)
    assert [name for name in "abd" if name in cache] == ["a", "d"]


@pytest.mark.parametrize(
    ("collateral", "moment", "known"),
    [
        (b"c", NOW, True),
        (b"c", NOW + MINUTE - SECOND, True),
        (b"c", NOW - SECOND, False),
        (b"c", NOW + MINUTE, False),
        (b"d", NOW, False),
    ],
)
def test_collateral_and_time_decide(collateral: bytes, moment: datetime, known: bool) -> None:
    cache = EvaluatedQuotes[str]()
    cache.add("a", b"c", "result", since=NOW, until=NOW + MINUTE)
    assert (cache.get("a", collateral, moment) == "result") is known
