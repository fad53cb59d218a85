"""Every option has its documented effect, by dcap-qvl and not this project's verifier."""

from __future__ import annotations

import os
import time
from dataclasses import fields, replace
from datetime import datetime, timedelta

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.simulator.support import NOW, judge
from verdictd_py.simulator import (
    BACKDATE,
    RELAUNCH_STATUSES,
    TCB_DATE,
    TCB_STATUSES,
    Flaw,
    PlatformOptions,
    SimulatedPlatform,
    TcbStatus,
    TdAttributes,
    TdBody,
    TdMeasurements,
)
from verdictd_py.simulator.pki import PckCa

REPORT_DATA = bytes(range(64))


@pytest.mark.parametrize(
    ("version", "body", "shape", "size"),
    [
        (4, None, "TD10", 584),
        (5, None, "TD15", 648),
        (5, TdBody.TD10, "TD10", 584),
        (None, TdBody.TD15_EX, "TD15Ex", 885),
    ],
)
def test_honest_quote_is_accepted_in_every_form(
    platform: SimulatedPlatform, version: int | None, body: TdBody | None, shape: str, size: int
) -> None:
    quote = platform.quote(REPORT_DATA, version=version, body=body)
    claims = judge(quote, platform.collateral(NOW), platform.root_ca_der)
    assert claims["tcb"] == {"status": "UpToDate", "advisory_ids": [], "eval_data_number": 17}
    assert list(claims["report"]) == [shape]
    descriptor = 0 if claims["header"]["version"] == 4 else 6
    declared = int.from_bytes(quote[48 + descriptor + size :][:4], "little")
    assert len(quote) == 48 + descriptor + size + 4 + declared


def test_the_verifier_reads_the_measurements(platform: SimulatedPlatform) -> None:
    registers = [field.name for field in fields(TdMeasurements) if field.type == "bytes"]
    assert len(registers) == 9
    values = {name: bytes([1 + index]) * 48 for index, name in enumerate(registers)}
    td = replace(
        TdMeasurements(), **values, td_attributes=0x80000000_50000000, xfam=0x0102030405060708
    )
    report = dcap_qvl.parse_quote(platform.quote(REPORT_DATA, td, version=5)).report
    assert report.mr_td == values["mr_td"]
    assert report.rt_mr0 == values["rtmr0"]
    assert report.rt_mr1 == values["rtmr1"]
    assert report.rt_mr2 == values["rtmr2"]
    assert report.rt_mr3 == values["rtmr3"]
    assert report.mr_config_id == values["mr_config_id"]
    assert report.mr_owner == values["mr_owner"]
    assert report.mr_owner_config == values["mr_owner_config"]
    assert report.mr_service_td == values["mr_service_td"]
    assert report.report_data == REPORT_DATA
    assert report.td_attributes == bytes.fromhex("0000005000000080")  # little-endian
    assert report.xfam == bytes.fromhex("0807060504030201")


def test_default_measurements_are_the_same_in_every_process() -> None:
    """The default measurements are pinned as reference values, so they must never change."""
    td = TdMeasurements()
    assert td == TdMeasurements()
    assert td.mr_td.hex().startswith("4abca82542b30a5d1d54a133")
    assert td.rtmr3 == bytes(48)


@pytest.mark.parametrize("status", TCB_STATUSES)
def test_every_tcb_status_can_be_simulated(platform: SimulatedPlatform, status: TcbStatus) -> None:
    options = PlatformOptions(
        tcb_status=status, advisory_ids=("INTEL-SA-00615",), tcb_evaluation_number=21
    )
    changed = platform.with_options(options)
    arguments = (changed.quote(REPORT_DATA), changed.collateral(NOW), platform.root_ca_der)
    if status == "Revoked":
        with pytest.raises(ValueError, match="TCB status is invalid: Revoked"):
            judge(*arguments)
        return
    claims = judge(*arguments)
    assert claims["tcb"] == {
        "status": status,
        "advisory_ids": ["INTEL-SA-00615"],
        "eval_data_number": 21,
    }
    expected_date = "2018-01-04T00:00:00Z" if status in RELAUNCH_STATUSES else TCB_DATE
    assert claims["platform"]["tcb_level"]["tcbDate"] == expected_date


@pytest.mark.parametrize("status", RELAUNCH_STATUSES)
def test_relaunch_statuses_need_a_body_with_both_svns(
    platform: SimulatedPlatform, status: TcbStatus
) -> None:
    changed = platform.with_options(PlatformOptions(tcb_status=status))
    assert changed.quote(REPORT_DATA)[0] == 5
    for version, body in ((4, None), (5, TdBody.TD10)):
        with pytest.raises(ValueError, match=r"TD 1\.5 bod"):
            changed.quote(REPORT_DATA, version=version, body=body)


SERVICE_TD = replace(TdMeasurements(), mr_service_td=b"\x01" * 48)


@pytest.mark.parametrize(
    ("td", "version", "text"),
    [
        (TdMeasurements().debug(), 4, "Debug mode is enabled"),
        (TdMeasurements().debug(), 5, "Debug mode is enabled"),
        (
            TdMeasurements().without_attributes(TdAttributes.SEPT_VE_DISABLE),
            4,
            "SEPT_VE_DISABLE is not enabled",
        ),
        (TdMeasurements().with_attributes(1 << 8), 4, "Reserved bits in TD attributes are set"),
        (TdMeasurements().with_attributes(TdAttributes.MIGRATABLE), 4, "TD migration is enabled"),
        (TdMeasurements().with_attributes(TdAttributes.SERVTD_EXT), 4, "SERVTD_EXT is enabled"),
        (SERVICE_TD, 5, "Invalid MR service TD"),
        (SERVICE_TD.debug(), 5, "Invalid MR service TD"),
    ],
)
def test_attributes_that_no_verifier_accepts_are_refused(
    platform: SimulatedPlatform, td: TdMeasurements, version: int | None, text: str
) -> None:
    quote = platform.quote(REPORT_DATA, td, version=version)
    with pytest.raises(ValueError, match=rf"^Verification failed: {text}$"):
        judge(quote, platform.collateral(NOW), platform.root_ca_der)


def test_harmless_attributes_are_accepted(platform: SimulatedPlatform) -> None:
    td = TdMeasurements().with_attributes(TdAttributes.PKS | TdAttributes.KL | TdAttributes.PERFMON)
    judge(platform.quote(REPORT_DATA, td), platform.collateral(NOW), platform.root_ca_der)


@pytest.mark.parametrize(
    ("flaw", "text"),
    [
        (Flaw.CHANGED_AFTER_SIGNING, "ISV enclave report signature is invalid"),
        (Flaw.WRONG_SIGNATURE, "ISV enclave report signature is invalid"),
        (Flaw.FOREIGN_KEY, "QE report hash mismatch"),
        (Flaw.FORGED_QE_REPORT, "Signature is invalid for qe_report"),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_every_flaw_is_detected(
    platform: SimulatedPlatform, flaw: Flaw, text: str, version: int | None
) -> None:
    quote = platform.quote(REPORT_DATA, version=version, flaw=flaw)
    with pytest.raises(ValueError, match=text):
        judge(quote, platform.collateral(NOW), platform.root_ca_der)


@pytest.mark.parametrize("version", [4, 5])
def test_change_after_signing_is_one_bit_of_rtmr1(
    platform: SimulatedPlatform, version: int | None
) -> None:
    changed = platform.quote(REPORT_DATA, version=version, flaw=Flaw.CHANGED_AFTER_SIGNING)
    report = dcap_qvl.parse_quote(changed).report
    honest = TdMeasurements()
    assert report.rt_mr1 == bytes([honest.rtmr1[0] ^ 1]) + honest.rtmr1[1:]
    assert (report.rt_mr0, report.rt_mr2) == (honest.rtmr0, honest.rtmr2)


@pytest.mark.parametrize(
    "options", [PlatformOptions(pck_revoked=True), PlatformOptions(pck_ca_revoked=True)]
)
def test_revoked_certificates(platform: SimulatedPlatform, options: PlatformOptions) -> None:
    revoked = platform.with_options(options)
    with pytest.raises(ValueError, match="CertRevoked"):
        judge(revoked.quote(REPORT_DATA), revoked.collateral(NOW), platform.root_ca_der)
    # The collateral says it, not the quote: with yesterday's lists it is still accepted.
    judge(revoked.quote(REPORT_DATA), platform.collateral(NOW), platform.root_ca_der)


def test_collateral_has_the_requested_lifetime(platform: SimulatedPlatform) -> None:
    hour = platform.with_options(PlatformOptions(collateral_lifetime=timedelta(hours=1)))
    quote, collateral = hour.quote(REPORT_DATA), hour.collateral(NOW)
    nearly = NOW + timedelta(minutes=59)
    assert judge(quote, collateral, platform.root_ca_der, now=nearly)["tcb"]["status"] == "UpToDate"
    with pytest.raises(ValueError, match="CrlExpired"):
        judge(quote, collateral, platform.root_ca_der, now=NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("document", "text"), [("tcb_info", "TCBInfo expired"), ("qe_identity", "QE Identity expired")]
)
def test_one_expired_document_is_enough(
    platform: SimulatedPlatform, document: str, text: str
) -> None:
    old, fresh = platform.collateral(NOW - timedelta(days=60)), platform.collateral(NOW)
    signature = f"{document}_signature"
    mixed = replace(fresh, **{document: getattr(old, document), signature: getattr(old, signature)})
    with pytest.raises(ValueError, match=text):
        judge(platform.quote(REPORT_DATA), mixed, platform.root_ca_der)


def test_another_root_accepts_nothing(platform: SimulatedPlatform) -> None:
    other = SimulatedPlatform.create(now=NOW)
    assert other.root_ca_der != platform.root_ca_der
    with pytest.raises(ValueError, match="InvalidCrlSignatureForPublicKey"):
        judge(platform.quote(REPORT_DATA), platform.collateral(NOW), other.root_ca_der)
    with pytest.raises(ValueError, match="Failed to verify certificate chain"):
        judge(platform.quote(REPORT_DATA), other.collateral(NOW), other.root_ca_der)


def test_intels_root_accepts_nothing(platform: SimulatedPlatform) -> None:
    """product.md, journey 5: the simulated root is never trusted outside demo and tests."""
    theirs = dcap_qvl.QuoteCollateralV3(*_in_order(platform))
    with pytest.raises(ValueError, match="InvalidCrlSignatureForPublicKey"):
        dcap_qvl.verify(platform.quote(REPORT_DATA), theirs, int(NOW.timestamp()))


def _in_order(platform: SimulatedPlatform) -> list[object]:
    collateral = platform.collateral(NOW)
    return [getattr(collateral, name) for name in type(collateral).__slots__]


@pytest.mark.parametrize(
    ("years", "accepted"), [(-1, False), (0, True), (10, True), (29, True), (31, False)]
)
def test_root_and_certificates_are_valid_a_long_time(
    platform: SimulatedPlatform, years: int, accepted: bool
) -> None:
    then = NOW + timedelta(days=365 * years)
    arguments = (platform.quote(REPORT_DATA), platform.collateral(then), platform.root_ca_der)
    if accepted:
        judge(*arguments, now=then)
    else:
        with pytest.raises(ValueError, match="Failed to verify certificate chain"):
            judge(*arguments, now=then)


@pytest.mark.parametrize("lag", [timedelta(), BACKDATE])
def test_a_verifier_whose_clock_lags_still_accepts(
    platform: SimulatedPlatform, lag: timedelta
) -> None:
    quote, collateral = platform.quote(REPORT_DATA), platform.collateral(NOW)
    judge(quote, collateral, platform.root_ca_der, now=NOW - lag)


@pytest.mark.parametrize("ca", ["platform", "processor"])
def test_pck_certificate_says_what_it_must(ca: PckCa) -> None:
    options = PlatformOptions(fmspc="B0C06F000000", ca=ca, pcs_url="https://pccs.test:8081")
    platform = SimulatedPlatform.create(now=NOW, options=options)
    quote = dcap_qvl.parse_quote(platform.quote(REPORT_DATA))
    assert (quote.fmspc(), quote.ca()) == ("B0C06F000000", ca)
    extension = quote.pck_extension()
    assert extension is not None
    assert extension.ppid == platform.identity.ppid
    assert extension.cpu_svn == platform.identity.cpu_svn
    assert extension.pce_svn == platform.identity.pce_svn
    assert extension.pce_id == b"\x00\x00"
    assert extension.platform_instance_id == platform.identity.platform_instance_id
    assert (extension.platform_instance_id is not None) is (ca == "platform")
    assert extension.sgx_type == (1 if ca == "platform" else 0)
    for arc, svn in enumerate(platform.identity.cpu_svn, start=1):
        assert extension.get_value(f"1.2.840.113741.1.13.1.2.{arc}") == bytes([svn])
    claims = judge(platform.quote(REPORT_DATA), platform.collateral(NOW), platform.root_ca_der)[
        "platform"
    ]["pck"]
    configuration = "False" if ca == "platform" else "Undefined"
    assert claims["dynamic_platform"] == claims["smt_enabled"] == configuration


def test_certificates_name_where_their_crl_is() -> None:
    options = PlatformOptions(pcs_url="https://pccs.test:8081")
    platform = SimulatedPlatform.create(now=NOW, options=options)

    def crl_url(certificate: x509.Certificate) -> str:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        return str((points[0].full_name or [])[0].value)

    assert crl_url(platform.root.certificate) == "https://pccs.test:8081/SimulatedRootCA.der"
    assert crl_url(platform.pck.certificate) == (
        "https://pccs.test:8081/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
    )


def test_key_usages_are_those_of_intels_profile(platform: SimulatedPlatform) -> None:
    for signer in (platform.root, platform.pck_ca, platform.pck, platform.tcb_signer):
        usage = signer.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        is_ca = signer in (platform.root, platform.pck_ca)
        assert usage.key_cert_sign is usage.crl_sign is is_ca
        assert usage.digital_signature is usage.content_commitment is (not is_ca)


def test_every_certificate_says_that_it_is_simulated(platform: SimulatedPlatform) -> None:
    for signer in (platform.root, platform.pck_ca, platform.pck, platform.tcb_signer):
        subject = signer.certificate.subject.rfc4514_string()
        assert "Simulated" in subject
        assert "not Intel" in subject


def test_padding_after_the_quote_changes_nothing(platform: SimulatedPlatform) -> None:
    padded = platform.quote(REPORT_DATA) + bytes(70)
    judge(padded, platform.collateral(NOW), platform.root_ca_der)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.quote(bytes(63)),
        lambda p: p.quote(REPORT_DATA, SERVICE_TD),
        lambda p: p.quote(REPORT_DATA, version=4, body=TdBody.TD15),
        lambda p: p.quote(REPORT_DATA, version=3),
        lambda p: TdMeasurements(mr_td=bytes(32)),
        lambda p: TdMeasurements(td_attributes=1 << 64),
        lambda p: TdMeasurements(xfam=-1),
        lambda p: PlatformOptions(fmspc="5080"),
        lambda p: PlatformOptions(fmspc="5080 6f 0000"),
        lambda p: PlatformOptions(fmspc="not hex diit"),
        lambda p: PlatformOptions(ca="root"),  # type: ignore[arg-type]  # wrong on purpose
        lambda p: PlatformOptions(tcb_status="Fine"),  # type: ignore[arg-type]  # wrong on purpose
        lambda p: p.with_options(PlatformOptions(fmspc="00806f050000")),
        lambda p: p.with_options(PlatformOptions(ca="processor")),
        lambda p: p.collateral(datetime(2026, 11, 24)),  # noqa: DTZ001  # naive is the point
        lambda p: SimulatedPlatform.create(now=datetime(2026, 11, 24)),  # noqa: DTZ001  # as above
    ],
)
def test_impossible_options_are_refused(platform: SimulatedPlatform, make: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the texts are for people
        make(platform)  # type: ignore[operator]  # a table of lambdas


def test_keys_are_not_in_any_text_form(platform: SimulatedPlatform) -> None:
    for signer in (platform.root, platform.pck_ca, platform.pck, platform.tcb_signer):
        secret = signer.key.private_numbers().private_value
        for text in (repr(platform), str(platform), repr(signer)):
            assert str(secret) not in text
            assert "key" not in text


def test_root_pem_is_the_root(platform: SimulatedPlatform) -> None:
    parsed = x509.load_pem_x509_certificate(platform.root_ca_pem.encode())
    assert parsed.public_bytes(serialization.Encoding.DER) == platform.root_ca_der


@pytest.mark.timing
def test_a_platform_is_made_quickly() -> None:
    """Creation takes far less than a second, because suites and demos create many (10 ms here)."""
    started = time.process_time()
    platform = SimulatedPlatform.create(now=NOW)
    platform.collateral(NOW)
    platform.quote(os.urandom(64))
    assert time.process_time() - started < 2
