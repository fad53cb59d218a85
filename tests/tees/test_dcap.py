"""Every text of dcap-qvl becomes a typed error."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tees.support import NOW, REPORT_DATA, good_collateral, good_quote, platform
from verdictd_py.errors import AttestationError, CollateralExpired, QuoteInvalid, ReasonKind
from verdictd_py.simulator import Flaw, TdMeasurements
from verdictd_py.tees.intel.dcap import (
    CollateralRejected,
    ContentRefusal,
    QuoteRating,
    evaluate_quote,
    translate,
)


def _judge(quote: bytes, **changes: Any) -> QuoteRating | ContentRefusal:
    return evaluate_quote(
        quote,
        replace(good_collateral(), **changes),
        now=NOW,
        root_ca_der=platform().root_ca_der,
    )


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
    assert text in result.reasons[0].text
    assert text == "" or text not in str(result)  # the library's words are for the operator


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
