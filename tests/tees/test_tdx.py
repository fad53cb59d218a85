"""TDX verification with the simulated platform: claims, faults, refusals and their kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
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
from verdictd_py.domain.evidence import Evidence, RefusedEvidence
from verdictd_py.errors import (
    AttestationError,
    ClockBehind,
    CollateralExpired,
    CollateralUnavailable,
    EvidenceExpired,
    EvidenceFormat,
    QuoteInvalid,
    ReasonKind,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import (
    TCB_DATE,
    TCB_STATUSES,
    Flaw,
    PlatformOptions,
    SimulatedPlatform,
    TdAttributes,
    TdBody,
    TdMeasurements,
)
from verdictd_py.tees.intel import verification as intel
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly
from verdictd_py.tees.intel.dcap import ContentRefusal
from verdictd_py.tees.tdx.verifier import TdxVerifier

HONEST = TdMeasurements()
BODIES = [(4, TdBody.TD10), (5, TdBody.TD10), (5, TdBody.TD15), (5, TdBody.TD15_EX)]


@pytest.mark.parametrize(("version", "body"), BODIES)
def test_measurements_reach_the_claims(version: Any, body: TdBody) -> None:
    """defects.md 8: every TDX measurement is a claim."""
    quote = platform().quote(REPORT_DATA, version=version, body=body)
    found = verify_tdx(quote)
    expected: dict[str, Any] = {
        "mrTd": HONEST.mr_td.hex(),
        "mrConfigId": HONEST.mr_config_id.hex(),
        "mrOwner": HONEST.mr_owner.hex(),
        "mrOwnerConfig": HONEST.mr_owner_config.hex(),
        "rtmr0": HONEST.rtmr0.hex(),
        "rtmr1": HONEST.rtmr1.hex(),
        "rtmr2": HONEST.rtmr2.hex(),
        "rtmr3": HONEST.rtmr3.hex(),
        "reportData": REPORT_DATA.hex(),
        "teeTcbSvn": "05010200000000000000000000000000",
        "tdAttributes": "0000001000000000",
        "debug": False,
        "xfam": "e702060000000000",
        "tcbStatus": "UpToDate",
        "advisoryIds": [],
        "tcbDate": TCB_DATE,
        "tcbBehindDays": 0,
        "fmspc": "50806f000000",
        "mrSignerSeam": "00" * 48,
    }
    if body is not TdBody.TD10:
        expected |= {
            "teeTcbSvn2": "05010200000000000000000000000000",
            "mrServiceTd": "00" * 48,
        }
    claims = dict(found.claims)
    assert claims.pop("mrSeam") not in ("", "00" * 48)
    assert claims == expected
    assert found.tee == "tdx"
    assert found.report_data == REPORT_DATA
    assert found.faults == ()
    assert found.digest == hashlib.sha256(quote).hexdigest()


@pytest.mark.parametrize("status", TCB_STATUSES)
def test_every_tcb_status_is_reported(status: str) -> None:
    """defects.md 9: an outdated platform is reported as such; `Revoked` is a fault."""
    machine = with_options(tcb_status=status, advisory_ids=("INTEL-SA-00615",))
    found = verify_tdx(machine.quote(REPORT_DATA), machine.collateral(NOW))
    assert found.tcb_status == found.claims["tcbStatus"] == status
    assert found.advisory_ids == ("INTEL-SA-00615",)
    assert [reason.rule for reason in found.faults] == (
        ["tcbStatus"] if status == "Revoked" else []
    )


SERVICE_TD = replace(HONEST, mr_service_td=b"\1" * 48)


@pytest.mark.parametrize(
    ("measurements", "rules"),
    [
        (HONEST.debug(), ["debug"]),
        (HONEST.without_attributes(TdAttributes.SEPT_VE_DISABLE), ["tdAttributes"]),
        (HONEST.debug().without_attributes(1 << 28), ["debug", "tdAttributes"]),
        (HONEST.with_attributes(1 << 4), ["tdAttributes"]),  # profiling
        (HONEST.with_attributes(1 << 1), ["tdAttributes"]),  # reserved
        (HONEST.with_attributes(1 << 61), ["tdAttributes"]),  # reserved
        (HONEST.with_attributes(TdAttributes.MIGRATABLE), ["tdAttributes"]),
        (HONEST.with_attributes(TdAttributes.SERVTD_EXT), ["tdAttributes"]),
        (SERVICE_TD, ["mrServiceTd"]),
        (SERVICE_TD.debug(), ["debug", "mrServiceTd"]),
    ],
)
@pytest.mark.parametrize("status", ["UpToDate", "OutOfDate", "TDRelaunchAdvised", "Revoked"])
def test_faults_that_no_policy_may_accept(
    measurements: TdMeasurements, rules: list[str], status: str
) -> None:
    """defects.md 9: debug mode is checked; the refusal has claims, TCB status and advisories."""
    machine = with_options(tcb_status=status, advisory_ids=("INTEL-SA-00615",))
    quote = machine.quote(REPORT_DATA, measurements, version=5, body=TdBody.TD15)
    found = verify_tdx(quote, machine.collateral(NOW))
    expected = rules + (["tcbStatus"] if status == "Revoked" else [])
    assert [reason.rule for reason in found.faults] == expected
    assert found.claims["rtmr1"] == HONEST.rtmr1.hex()
    assert found.claims["debug"] is ("debug" in rules)
    assert found.claims["tcbStatus"] == found.tcb_status == status
    assert found.advisory_ids == ("INTEL-SA-00615",)
    honest = machine.quote(REPORT_DATA, version=5, body=TdBody.TD15)
    same = verify_tdx(honest, machine.collateral(NOW))  # rated by the library, unless revoked
    assert found.claims["tcbDate"] == same.claims["tcbDate"]
    for reason in found.faults:
        assert reason.text.startswith(f"{reason.rule}: ")
        assert reason.measured
        assert reason.expected


@pytest.mark.parametrize("bit", range(64))
def test_every_attribute_that_the_library_refuses_is_a_fault(bit: int) -> None:
    """Each bit of TDATTRIBUTES is a fault with a measured value, or harmless."""
    quote = platform().quote(REPORT_DATA, replace(HONEST, td_attributes=1 << 28 ^ 1 << bit))
    found = verify_tdx(quote)
    harmless = {16, *range(18, 23), 27, 30, 31, 62, 63}
    assert (not found.faults) is (bit in harmless)
    assert all(reason.measured for reason in found.faults)


def test_a_debug_bit_flipped_after_signing_yields_no_claims() -> None:
    """defects.md 9: claims of a quote with a wrong signature are never trusted."""
    quote = bytearray(good_quote())
    quote[168] ^= 1  # TDATTRIBUTES.DEBUG
    source = Source(good_collateral())
    verifier = TdxVerifier(source, root_ca_der=platform().root_ca_der)
    with pytest.raises(QuoteInvalid) as caught:
        run(verified_by(verifier, tdx_evidence(bytes(quote)), now=NOW))
    assert [reason.rule for reason in caught.value.reasons] == ["signature"]
    assert source.requests == []  # and nobody was asked for collateral


@pytest.mark.parametrize("flaw", Flaw)
def test_forged_quotes_never_cause_a_fetch(flaw: Flaw) -> None:
    source = Source(good_collateral())
    verifier = TdxVerifier(source, root_ca_der=platform().root_ca_der)
    with pytest.raises(QuoteInvalid) as caught:
        run(verified_by(verifier, tdx_evidence(platform().quote(REPORT_DATA, flaw=flaw)), now=NOW))
    assert caught.value.reasons[0].rule == "signature"
    assert source.requests == []


def test_another_root_never_causes_a_fetch() -> None:
    """The chain of a platform under another root is refused; None means Intel's root."""
    source = Source(good_collateral())
    for root in (SimulatedPlatform.create(now=NOW).root_ca_der, None):
        verifier = TdxVerifier(source, root_ca_der=root)
        with pytest.raises(QuoteInvalid, match="trusted root") as caught:
            run(verified_by(verifier, tdx_evidence(good_quote()), now=NOW))
        assert caught.value.reasons[0].rule == "pck-chain"
    assert source.requests == []


def test_request_names_tee_fmspc_and_ca() -> None:
    machine = SimulatedPlatform.create(
        now=NOW, options=PlatformOptions(fmspc="00A067110000", ca="processor")
    )
    source = Source(machine.collateral(NOW))
    verifier = TdxVerifier(source, root_ca_der=machine.root_ca_der)
    found = run(verified_by(verifier, tdx_evidence(machine.quote(REPORT_DATA)), now=NOW))
    request = source.requests[0]
    assert (request.tee, request.fmspc, request.ca) == ("tdx", "00a067110000", "processor")
    assert found.claims["fmspc"] == "00a067110000"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({"pck_revoked": True}, "revocation"), ({"pck_ca_revoked": True}, "revocation")],
)
def test_revocation_is_final(changes: dict[str, bool], rule: str) -> None:
    """Older collateral, which may lack the revocation, is not tried afterwards."""
    revoking = with_options(**changes).collateral(NOW)
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(good_quote(), revoking, good_collateral())
    assert caught.value.reasons[0].rule == rule


@pytest.mark.parametrize(
    ("offset", "error"),
    [(timedelta(days=31), CollateralExpired), (timedelta(days=-2), CollateralUnavailable)],
)
def test_collateral_outside_its_validity(offset: timedelta, error: type[Exception]) -> None:
    machine = SimulatedPlatform.create(now=NOW - timedelta(days=10))
    verifier = TdxVerifier(Source(machine.collateral(NOW)), root_ca_der=machine.root_ca_der)
    with pytest.raises(error):
        run(verified_by(verifier, tdx_evidence(machine.quote(REPORT_DATA)), now=NOW + offset))


def test_a_platform_certificate_that_has_expired() -> None:
    later = NOW + timedelta(days=365 * 31)
    with pytest.raises(EvidenceExpired) as caught:
        verify_tdx(good_quote(), now=later)
    assert caught.value.reasons[0].rule == "pck-chain"
    assert caught.value.reasons[0].measured == later.isoformat()


def test_a_platform_certificate_that_is_not_valid_yet() -> None:
    """Intel issued it, so that this host's clock is behind: that is no verdict."""
    with pytest.raises(ClockBehind, match="check this host's clock"):
        verify_tdx(good_quote(), now=NOW - timedelta(days=3))


def _unsigned(name: str) -> Collateral:
    good = good_collateral()
    return replace(good, **{name: getattr(good, name).replace('"tcbType":0', '"tcbType":1') + " "})


OTHER = SimulatedPlatform.create(now=NOW)

BAD_COLLATERAL = {
    "tcb-info changed": (_unsigned("tcb_info"), "tcb-info"),
    "qe-identity changed": (_unsigned("qe_identity"), "qe-identity"),
    "no JSON": (replace(good_collateral(), tcb_info="{"), "tcb-info"),
    "signature too short": (replace(good_collateral(), tcb_info_signature=b"1"), "tcb-info"),
    "no chain": (replace(good_collateral(), tcb_info_issuer_chain=""), "tcb-info"),
    "garbage chain": (replace(good_collateral(), qe_identity_issuer_chain="x"), "qe-identity"),
    "lone surrogate": (replace(good_collateral(), tcb_info="\ud800"), None),
    "no CRL": (replace(good_collateral(), pck_crl=b""), "revocation"),
    "root CRL of another": (
        replace(good_collateral(), root_ca_crl=OTHER.collateral(NOW).root_ca_crl),
        "revocation",
    ),
    "PCK CRL of another": (
        replace(good_collateral(), pck_crl=OTHER.collateral(NOW).pck_crl),
        "revocation",
    ),
    "another platform's": (OTHER.collateral(NOW), "tcb-info"),
}


@pytest.mark.parametrize("name", BAD_COLLATERAL)
def test_collateral_that_does_not_verify(name: str) -> None:
    """Alone, it is refused; with good collateral after it, the quote is accepted."""
    bad, rule = BAD_COLLATERAL[name]
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(good_quote(), bad)
    if rule is not None:
        assert caught.value.reasons[0].rule == rule
    assert caught.value.reasons[0].text not in str(caught.value)  # details: operator only


@pytest.mark.parametrize(
    "name", ["tcb-info changed", "qe-identity changed", "no JSON", "no CRL", "another platform's"]
)
def test_the_next_candidate_is_tried(name: str) -> None:
    expired = platform().collateral(NOW - timedelta(days=60))
    found = verify_tdx(good_quote(), BAD_COLLATERAL[name][0], expired, good_collateral())
    assert found.tcb_status == "UpToDate"
    with pytest.raises(CollateralExpired):  # the best candidate's error is told
        verify_tdx(good_quote(), expired, BAD_COLLATERAL[name][0])


def test_debug_td_with_unsigned_tcb_info_is_not_rated() -> None:
    quote = platform().quote(REPORT_DATA, HONEST.debug())
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(quote, _unsigned("tcb_info"))
    assert caught.value.reasons[0].rule == "tcb-info"


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_verification_does_not_rely_on_the_librarys_order(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Even if the library checked the debug bit first, forged TCB info would not be trusted."""

    def too_early(*_: object, **__: object) -> ContentRefusal:
        return ContentRefusal("debug", "Debug mode is enabled", ReasonKind.ATTRIBUTES)

    monkeypatch.setattr(intel, "evaluate_quote", too_early)
    quote = platform().quote(REPORT_DATA, HONEST.debug())
    assert verify_tdx(quote).tcb_status == "UpToDate"
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(quote, _unsigned(name))
    assert caught.value.reasons[0].rule == name.replace("_", "-")
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(quote, OTHER.collateral(NOW))
    assert caught.value.reasons[0].rule == "tcb-info"


def test_no_tcb_level_is_met() -> None:
    info = good_collateral().tcb_info.replace('"pcesvn":1', '"pcesvn":9')
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(good_quote(), signed_again(good_collateral(), tcb_info=info))
    assert "No matching TCB level" in caught.value.reasons[0].text


def test_a_source_without_collateral() -> None:
    verifier = TdxVerifier(Source(), root_ca_der=platform().root_ca_der)
    with pytest.raises(CollateralUnavailable):
        run(verified_by(verifier, tdx_evidence(good_quote()), now=NOW))


def test_older_endorsements_are_replaced_by_newer_ones_of_another_guest() -> None:
    """The guest chose them: the TCB levels in use must never be older."""
    verifier = TdxVerifier(EndorsementsOnly(), root_ca_der=platform().root_ca_der)

    def judge(brought: Collateral) -> str | None:
        return run(verified_by(verifier, tdx_evidence(good_quote(), brought), now=NOW)).tcb_status

    older = with_options(tcb_evaluation_number=17).collateral(NOW)
    newer = with_options(tcb_evaluation_number=18, tcb_status="OutOfDate").collateral(NOW)
    assert [judge(sent) for sent in (older, newer, older)] == ["UpToDate", "OutOfDate", "OutOfDate"]


def test_endorsements_that_are_not_signed_replace_nothing() -> None:
    verifier = TdxVerifier(EndorsementsOnly(), root_ca_der=platform().root_ca_der)
    forged = with_options(tcb_evaluation_number=99, tcb_status="OutOfDate").collateral(NOW)
    forged = replace(forged, tcb_info_signature=bytes(64))
    with pytest.raises(QuoteInvalid):
        run(verified_by(verifier, tdx_evidence(good_quote(), forged), now=NOW))
    evidence = tdx_evidence(good_quote(), good_collateral())
    assert run(verified_by(verifier, evidence, now=NOW)).tcb_status == "UpToDate"


@pytest.mark.parametrize("padding", [bytes(70), bytes(3065), b"garbage"])
def test_padding_has_no_effect(padding: bytes) -> None:
    assert verify_tdx(good_quote() + padding) == verify_tdx(good_quote())


def test_evidence_of_another_tee() -> None:
    verifier = TdxVerifier(Source(), root_ca_der=None)
    with pytest.raises(EvidenceFormat):
        run(verified_by(verifier, Evidence("sgx", good_quote(), None, "raw"), now=NOW))


def test_truncations_and_flips_raise_only_their_own_errors() -> None:
    """Cases: every truncation, and one flipped bit in each byte of header and body."""

    async def judge_all() -> None:
        verifier = TdxVerifier(Source(good_collateral()), root_ca_der=platform().root_ca_der)
        quote = good_quote()
        for size in range(len(quote)):
            with pytest.raises(AttestationError):
                await verified_by(verifier, tdx_evidence(quote[:size]), now=NOW)
        for at in range(636):
            changed = quote[:at] + bytes([quote[at] ^ 0x10]) + quote[at + 1 :]
            with pytest.raises(AttestationError):
                await verified_by(verifier, tdx_evidence(changed), now=NOW)

    run(judge_all())


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(1, 255)), min_size=1, max_size=4))
@examples(200)
def test_flipped_bytes_anywhere(flips: list[tuple[int, int]]) -> None:
    """A changed quote is refused, unless the change has no meaning (base64, padding)."""
    quote = bytearray(good_quote())
    for at, mask in flips:
        quote[at % len(quote)] ^= mask
    try:
        found = verify_tdx(bytes(quote))
    except (AttestationError, CollateralUnavailable):
        return
    assert found.claims == verify_tdx(good_quote()).claims


@pytest.mark.parametrize(
    ("collateral", "error"),
    [
        (lambda: with_options(pck_revoked=True).collateral(NOW), QuoteInvalid),
        (lambda: platform().collateral(NOW - timedelta(days=60)), CollateralExpired),
    ],
)
def test_a_refusal_has_claims_once_the_signature_verified(
    collateral: Callable[[], Collateral], error: type[AttestationError]
) -> None:
    """The result has the claims for the operator, but is not verified evidence."""
    verifier = TdxVerifier(Source(collateral()), root_ca_der=platform().root_ca_der)
    result = run(verifier.verify(tdx_evidence(good_quote()), now=NOW))
    assert isinstance(result, RefusedEvidence)
    assert type(result.refusal) is error
    assert not hasattr(result, "claims")
    assert result.verified.claims["mrTd"] == HONEST.mr_td.hex()
    assert result.verified.tcb_status == "UpToDate"


@pytest.mark.parametrize("flaw", list(Flaw))
def test_a_refusal_has_no_claims_if_a_signature_is_wrong(flaw: Flaw) -> None:
    verifier = TdxVerifier(Source(good_collateral()), root_ca_der=platform().root_ca_der)
    evidence = tdx_evidence(platform().quote(REPORT_DATA, flaw=flaw))
    with pytest.raises(QuoteInvalid):
        run(verifier.verify(evidence, now=NOW))
