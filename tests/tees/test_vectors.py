"""Real evidence at its own time with Intel's root, and real certificates of rats-tls."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.tees import TEES
from tests.support.vectors import vector
from tests.support.verifiers import verified_by
from tests.tees.support import Source, run
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import (
    ClockBehind,
    CollateralUnavailable,
    EvidenceFormat,
    QuoteInvalid,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.protocols.ratstls.certificate import read
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.forms import collateral_from_json
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly, FileCollateral
from verdictd_py.tees.intel.pck import verify_pck_chain
from verdictd_py.tees.intel.quote import parse_quote
from verdictd_py.tees.intel.tcb import rate
from verdictd_py.tees.sgx.verifier import SgxVerifier
from verdictd_py.tees.tdx.verifier import TdxVerifier

TDX_TIME = datetime.fromisoformat("2025-06-20T10:16:03Z")
SGX_TIME = datetime.fromisoformat("2025-06-20T10:56:11Z")
RATS_TLS_TIME = datetime.fromisoformat("2026-11-24T12:00:00Z")
RATS_TLS = [
    "rpm-tdx-client",
    "5de6fc3-tdx-client",
    "8fbfdb6-tdx-client",
    "15724cf-tdx-client",
    "6675532-cbor010-tdx-client",
    "6675532-cbor010-tdx-endorsements-client",
    "6675532-tdx-client",
]


def _verify(tee: str, folder: str, now: datetime, quote: bytes | None = None) -> VerifiedEvidence:
    data = quote or vector(f"quotes/{folder}/quote.bin").read_bytes()
    source = FileCollateral(vector(f"quotes/{folder}/collateral.json"))
    verifier = (TdxVerifier if tee == "tdx" else SgxVerifier)(source, root_ca_der=None)
    return run(verified_by(verifier, Evidence(tee, data, None, "raw"), now=now))


def test_tdx() -> None:
    result = _verify("tdx", "tdx-v4-up-to-date", TDX_TIME)
    assert (result.tcb_status, result.advisory_ids, result.faults) == ("UpToDate", (), ())
    assert result.claims["fmspc"] == "b0c06f000000"
    assert result.claims["tcbDate"] == "2024-03-13T00:00:00Z"
    assert result.claims["tdAttributes"] == "0000001000000000"
    assert str(result.claims["mrTd"]).startswith("91eb2b44d141d4ece09f0c75c2c53d24")
    assert result.report_data.hex().startswith("9a9d48e7f6799642")


def test_sgx() -> None:
    result = _verify("sgx", "sgx-v3", SGX_TIME)
    assert result.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert result.advisory_ids == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert result.faults == ()
    assert result.claims == {
        "mrEnclave": "M9hzbbdW7UmX4EujWNJ4MxiPGTL/ex0VaQTT9WBFL7s=",
        "mrSigner": "gV9C8Rz2RDDDC6t4FrpZah2gEww7AotnMTOmbPmj4OY=",
        "productId": 0,
        "svn": 0,
        "reportData": b"Hello, world!".hex().ljust(128, "0"),
        "debug": False,
        "fmspc": "00a067110000",
        "tcbStatus": "ConfigurationAndSWHardeningNeeded",
        "advisoryIds": ["INTEL-SA-00289", "INTEL-SA-00615"],
        "tcbDate": "2024-03-13T00:00:00Z",
        "tcbBehind": ["platform: CPU component 7 has SVN 0, needs 12 since 2020-11-11"],
        "tcbBehindDays": 0,
    }


@pytest.mark.parametrize(
    ("tee", "folder", "now"),
    [("tdx", "tdx-v4-up-to-date", TDX_TIME), ("sgx", "sgx-v3", SGX_TIME)],
)
def test_expired_changed_and_misnamed(tee: str, folder: str, now: datetime) -> None:
    data = vector(f"quotes/{folder}/quote.bin").read_bytes()
    with pytest.raises(CollateralUnavailable, match=r"collateral\.json; fetch it again"):
        _verify(tee, folder, now + timedelta(days=60))
    with pytest.raises(ClockBehind):
        _verify(tee, folder, now - timedelta(days=365))
    for at in (60, 100, 300, 430):  # in the signed body
        with pytest.raises(QuoteInvalid):
            _verify(tee, folder, now, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    other = "sgx" if tee == "tdx" else "tdx"
    with pytest.raises(EvidenceFormat):
        _verify(other, folder, now)


@pytest.mark.parametrize(("folder", "now"), [("tdx-v4-up-to-date", TDX_TIME), ("sgx-v3", SGX_TIME)])
def test_our_rating_of_real_platforms(folder: str, now: datetime) -> None:
    """The rating for refusals equals the library's with Intel's own collateral."""
    quote = parse_quote(vector(f"quotes/{folder}/quote.bin").read_bytes())
    collateral = _collateral(f"quotes/{folder}/collateral.json")
    platform = verify_pck_chain(quote.pck_chain, root_key=root_key_digest(None), now=now)
    rated = rate(quote, platform, collateral)
    claims = _verify(quote.tee, folder, now).claims
    assert rated is not None
    assert (rated.status, list(rated.advisory_ids), rated.date) == (
        claims["tcbStatus"],
        claims["advisoryIds"],
        claims["tcbDate"],
    )


def _collateral(name: str) -> Collateral:
    return collateral_from_json(vector(name).read_bytes())


@pytest.mark.parametrize("name", RATS_TLS)
def test_certificates_of_rats_tls(name: str) -> None:
    """Every generation verifies with its root, and never with Intel's."""
    evidence = read(vector(f"rats-tls/{name}.der").read_bytes(), TEES, now=RATS_TLS_TIME)
    root = vector("rats-tls/root.der").read_bytes()
    source = FileCollateral(vector("rats-tls/collateral.json"))
    result = run(verified_by(TdxVerifier(source, root_ca_der=root), evidence, now=RATS_TLS_TIME))
    assert (result.tcb_status, result.faults) == ("UpToDate", ())
    assert evidence.binding is not None
    assert result.report_data.startswith(evidence.binding)
    with pytest.raises(QuoteInvalid, match="trusted root"):
        run(verified_by(TdxVerifier(source, root_ca_der=None), evidence, now=RATS_TLS_TIME))


def test_endorsements_of_rats_tls_are_sufficient() -> None:
    """A broker without collateral verifies a guest that sends its own."""
    certificate = vector("rats-tls/6675532-cbor010-tdx-endorsements-client.der").read_bytes()
    evidence = read(certificate, TEES, now=RATS_TLS_TIME)
    root = vector("rats-tls/root.der").read_bytes()
    verifier = TdxVerifier(EndorsementsOnly(), root_ca_der=root)
    assert run(verified_by(verifier, evidence, now=RATS_TLS_TIME)).tcb_status == "UpToDate"
    with pytest.raises(CollateralUnavailable, match="the guest sent none"):
        run(verified_by(verifier, replace(evidence, endorsements=None), now=RATS_TLS_TIME))


def test_an_unsigned_sgx_debug_bit_is_not_reported() -> None:
    """defects.md 9: a debug bit that was set after signing is not reported."""
    data = bytearray(vector("quotes/sgx-v3/quote.bin").read_bytes())
    data[48 + 48] |= 2
    source = Source(_collateral("quotes/sgx-v3/collateral.json"))
    verifier = SgxVerifier(source, root_ca_der=None)
    with pytest.raises(QuoteInvalid) as caught:
        run(verified_by(verifier, Evidence("sgx", bytes(data), None, "raw"), now=SGX_TIME))
    assert caught.value.reasons[0].rule == "signature"
    assert source.requests == []


def test_collateral_of_the_other_tee() -> None:
    """SGX collateral for a TDX quote is refused as collateral, not as evidence."""
    sgx = _collateral("quotes/sgx-v3/collateral.json")
    tdx = _collateral("quotes/tdx-v4-up-to-date/collateral.json")
    mixed = replace(
        tdx,
        tcb_info=sgx.tcb_info,
        tcb_info_signature=sgx.tcb_info_signature,
        tcb_info_issuer_chain=sgx.tcb_info_issuer_chain,
    )
    quote = vector("quotes/tdx-v4-up-to-date/quote.bin").read_bytes()
    evidence = Evidence("tdx", quote, None, "raw")
    verifier = TdxVerifier(Source(mixed), root_ca_der=None)
    with pytest.raises(QuoteInvalid) as caught:
        run(verified_by(verifier, evidence, now=TDX_TIME + timedelta(hours=1)))
    assert caught.value.reasons[0].rule == "tcb-info"
    verifier = TdxVerifier(Source(mixed, tdx), root_ca_der=None)
    assert run(verified_by(verifier, evidence, now=TDX_TIME + timedelta(hours=1))).faults == ()
