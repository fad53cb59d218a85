"""Every text of dcap-qvl becomes a typed error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import vector
from tests.tees.support import NOW, REPORT_DATA, good_collateral, good_quote, platform
from verdictd_py.errors import AttestationError, CollateralExpired, QuoteInvalid, Reason, ReasonKind
from verdictd_py.simulator import Flaw, TdMeasurements
from verdictd_py.tees.intel import dcap
from verdictd_py.tees.intel.collateral.forms import collateral_from_json
from verdictd_py.tees.intel.dcap import (
    CollateralRejected,
    ContentRefusal,
    QuoteRating,
    evaluate_quote,
    translate,
)
from verdictd_py.tees.intel.tcb import TcbRating


@pytest.fixture(autouse=True)
def _without_cached_verifiers() -> Iterator[None]:
    """Tests replace the library's verifier."""
    dcap._verifier.cache_clear()
    yield
    dcap._verifier.cache_clear()


def _judge(quote: bytes, **changes: Any) -> QuoteRating | ContentRefusal:
    return evaluate_quote(
        quote,
        replace(good_collateral(), **changes),
        now=NOW,
        root_ca_der=platform().root_ca_der,
    )


MESSAGES: dict[type[AttestationError], str] = {
    CollateralExpired: "the collateral is outside its validity",
    CollateralRejected: "the collateral does not verify for this quote",
    QuoteInvalid: "the quote does not verify",
}
PLAIN = [
    ("CertRevoked", "Intel has revoked a certificate of this platform"),
    ("No matching TCB level", "the platform is older than every TCB level that Intel lists"),
    ("TDX module", "Intel does not list the platform's TDX module"),
    ("TCBInfo expired", "newer TCB info is needed"),
    ("QE Identity expired", "a newer QE identity is needed"),
    ("CrlExpired", "a newer revocation list is needed"),
]


@pytest.mark.parametrize(
    ("text", "error", "rule"),
    [
        ("TCBInfo expired", CollateralExpired, "tcb-info"),
        ("TCBInfo issue date is in the future", CollateralExpired, "tcb-info"),
        ("QE Identity expired", CollateralExpired, "qe-identity"),
        ("QE Identity issue date is in the future", CollateralExpired, "qe-identity"),
        (
            "Failed to verify certificate chain Caused by: CertExpired { time: 1",
            CollateralExpired,
            None,
        ),
        (
            "Failed to verify certificate chain Caused by: CertNotValidYet {",
            CollateralExpired,
            None,
        ),
        (
            "Failed to verify certificate chain Caused by: CrlExpired {",
            CollateralExpired,
            "revocation",
        ),
        ("Failed to verify certificate chain Caused by: CertRevoked", QuoteInvalid, "revocation"),
        ("Caused by: UnknownRevocationStatus", CollateralRejected, "revocation"),
        ("Failed to parse PCK CRL", CollateralRejected, "revocation"),
        ("Signature is invalid for tcb_info in quote_collateral", CollateralRejected, "tcb-info"),
        ("Fmspc mismatch", CollateralRejected, "tcb-info"),
        ("TDX quote with non-TDX TCB info in the collateral", CollateralRejected, "tcb-info"),
        ("No matching TCB level found", QuoteInvalid, "tcb-info"),
        ("TDX module identity check", QuoteInvalid, "tdx-module"),
        (
            "Signature is invalid for qe_identity in quote_collateral",
            CollateralRejected,
            "qe-identity",
        ),
        ("Unsupported QE Identity id/version for the quote", CollateralRejected, "qe-identity"),
        ("QE MRSIGNER mismatch: expected 1, got 2", QuoteInvalid, "qe-identity"),
        ("QE ISVSVN 1 is below minimum required 2 from QE Identity", QuoteInvalid, "qe-identity"),
        (
            "QE report validation failed Caused by: Debug mode is enabled",
            QuoteInvalid,
            "qe-identity",
        ),
        ("Signature is invalid for qe_report in quote", QuoteInvalid, "signature"),
        ("QE report hash mismatch", QuoteInvalid, "signature"),
        ("ISV enclave report signature is invalid", QuoteInvalid, "signature"),
        ("Failed to decode quote", QuoteInvalid, "quote"),
        ("something nobody has heard of", QuoteInvalid, "quote"),
        ("", QuoteInvalid, "quote"),
    ],
)
def test_texts(text: str, error: type[AttestationError], rule: str | None) -> None:
    """defects.md 9: each refusal has its rule; an unknown text is a refusal too."""
    result = translate(text)
    assert type(result) is error
    assert rule is None or result.reasons[0].rule == rule
    assert text == "" or text not in str(result)  # the library's words are for the operator
    assert str(result) == MESSAGES[error]
    explained = next((f"{plain} ({text})" for part, plain in PLAIN if part in text), text)
    assert result.reasons == (
        Reason(result.reasons[0].rule, "", "", f"{MESSAGES[error]}: {explained}", kind=error.kind),
    )


@given(st.text())
def test_any_text_is_an_attestation_error(text: str) -> None:
    assert isinstance(translate(text), AttestationError)


@pytest.mark.parametrize("flaw", Flaw)
def test_the_library_alone_refuses_forged_quotes(flaw: Flaw) -> None:
    """The library refuses them without our own check, so that neither relies on the other."""
    with pytest.raises(QuoteInvalid) as caught:
        _judge(platform().quote(REPORT_DATA, flaw=flaw))
    assert caught.value.reasons[0].rule == "signature"


def test_debug_is_reported_only_after_everything_else_was_verified() -> None:
    """defects.md 9: `Debug mode is enabled` is never reported if a signature is wrong."""
    debug = TdMeasurements().debug()
    assert _judge(platform().quote(REPORT_DATA, debug)) == ContentRefusal(
        "debug", "Debug mode is enabled", ReasonKind.ATTRIBUTES
    )
    for flaw in Flaw:
        with pytest.raises(QuoteInvalid):
            _judge(platform().quote(REPORT_DATA, debug, flaw=flaw))
    for changes in ({"tcb_info_signature": bytes(64)}, {"qe_identity_signature": bytes(64)}):
        with pytest.raises(CollateralRejected):
            _judge(platform().quote(REPORT_DATA, debug), **changes)


def test_the_cause_is_reported_to_the_operator() -> None:
    """The library's first text is only "Failed to verify certificate chain"."""
    revoking = platform().with_options(replace(platform().options, pck_revoked=True))
    with pytest.raises(QuoteInvalid) as caught:
        evaluate_quote(
            good_quote(), revoking.collateral(NOW), now=NOW, root_ca_der=platform().root_ca_der
        )
    assert "CertRevoked" in caught.value.reasons[0].text
    assert "\n" not in caught.value.reasons[0].text


INTELS_QUOTE = "quotes/tdx-v4-up-to-date"
INTELS_NOW = datetime(2025, 7, 18, tzinfo=UTC)


def _judge_by_intels_root(now: datetime, **changes: Any) -> QuoteRating | ContentRefusal:
    """Evaluate a real quote with its own collateral, some members of it changed."""
    collateral = collateral_from_json(vector(f"{INTELS_QUOTE}/collateral.json").read_bytes())
    return evaluate_quote(
        vector(f"{INTELS_QUOTE}/quote.bin").read_bytes(),
        replace(collateral, **changes),
        now=now,
        root_ca_der=None,
    )


def test_the_rating_of_a_real_quote() -> None:
    """The date of its TCB level is compared with the operator's tolerance."""
    assert _judge_by_intels_root(INTELS_NOW) == QuoteRating(
        TcbRating("UpToDate", (), "2024-03-13T00:00:00Z"), "b0c06f000000"
    )


def test_the_cause_is_reported_under_intels_root() -> None:
    """It decides whether other collateral may be tried: not after a revocation."""
    collateral = collateral_from_json(vector(f"{INTELS_QUOTE}/collateral.json").read_bytes())
    with pytest.raises(CollateralRejected) as caught:
        _judge_by_intels_root(INTELS_NOW, pck_crl=collateral.root_ca_crl)
    (reason,) = caught.value.reasons
    assert reason.rule == "revocation"
    assert reason.text == (
        f"{MESSAGES[CollateralRejected]}: "
        "Failed to verify certificate chain Caused by: UnknownRevocationStatus"
    )


def test_times_are_reported_as_dates_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with pytest.raises(CollateralExpired) as caught:
            _judge_by_intels_root(datetime(2100, 1, 1, tzinfo=UTC))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert caught.value.reasons[0].text.endswith(
        "(CrlExpired { time: 2100-01-01T00:00:00Z, next_update: 2026-04-03T11:21:57Z })"
    )


def test_a_time_that_no_date_can_show_is_reported_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "CrlExpired { time: UnixTime(999999999999999) }"

    def refuse(*_: object) -> None:
        raise ValueError(f"Verification failed: {text}")

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", refuse)
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", refuse)
    with pytest.raises(CollateralExpired) as caught:
        _judge(good_quote())
    assert caught.value.reasons[0].text.endswith(f"({text})")


def test_a_backtrace_is_not_part_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """With RUST_BACKTRACE=1, names of functions in it could decide the class of the error."""

    def refuse(*_: object) -> None:
        raise ValueError(
            "Verification failed: Fmspc mismatch\n\n"
            "Stack backtrace:\n   0: webpki::crl::check\n   1: CertRevoked::fmt"
        )

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", refuse)
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", refuse)
    with pytest.raises(CollateralRejected) as caught:
        _judge(good_quote())
    (reason,) = caught.value.reasons
    assert reason.text == f"{MESSAGES[CollateralRejected]}: Fmspc mismatch"


class PanicException(BaseException):
    """Substitute for PyO3's exception, which Python code cannot create."""


def test_a_panic_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic in Rust is a BaseException, which the usual handlers do not catch."""

    def panic(*_: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", panic)
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", panic)
    with pytest.raises(QuoteInvalid) as caught:
        _judge(good_quote())
    assert "panicked" in caught.value.reasons[0].text


def test_interrupts_are_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _judge(good_quote())


@pytest.mark.parametrize("claims", ["{}", "[]", '{"tcb":{},"platform":{}}', "nonsense"])
def test_claims_of_an_unknown_form(monkeypatch: pytest.MonkeyPatch, claims: str) -> None:
    class Claims:
        def to_json(self) -> str:
            return claims

    class Verifier:
        def __init__(self, *_: object) -> None: ...

        def verify_with_policy(self, *_: object) -> Claims:
            return Claims()

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Verifier)
    with pytest.raises(QuoteInvalid):
        _judge(good_quote())


@pytest.mark.parametrize(
    "now",
    [datetime(1960, 1, 1, tzinfo=UTC), NOW - timedelta(days=9), datetime(9999, 1, 1, tzinfo=UTC)],
)
def test_clocks_out_of_range(now: datetime) -> None:
    with pytest.raises(AttestationError):
        evaluate_quote(good_quote(), good_collateral(), now=now, root_ca_der=platform().root_ca_der)
