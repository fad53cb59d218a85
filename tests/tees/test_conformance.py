"""The conformance suite against every verifier there is, and a toy from outside."""

from __future__ import annotations

from tests.tees.conformance import Case, VerifierConformance
from tests.tees.sgx_quotes import DEBUG, FLAGS, sgx_collateral, sgx_quote
from tests.tees.support import (
    NOW,
    REPORT_DATA,
    Source,
    good_collateral,
    good_quote,
    platform,
    tdx_evidence,
)
from tests.tees.toy import ToyVerifier, toy_quote
from verdictd_py.domain.evidence import Evidence
from verdictd_py.simulator import TdMeasurements
from verdictd_py.tees.sgx.verifier import SgxVerifier
from verdictd_py.tees.tdx.verifier import TdxVerifier


class TestTdx(VerifierConformance):
    case = Case(
        verifier=TdxVerifier(Source(good_collateral()), root_ca_der=platform().root_ca_der),
        good=tdx_evidence(good_quote()),
        debug=tdx_evidence(platform().quote(REPORT_DATA, TdMeasurements().debug())),
        stranger=TdxVerifier(Source(good_collateral()), root_ca_der=None),
        report_data=REPORT_DATA,
        now=NOW,
    )


class TestSgx(VerifierConformance):
    case = Case(
        verifier=SgxVerifier(Source(sgx_collateral()), root_ca_der=platform().root_ca_der),
        good=Evidence("sgx", sgx_quote(), None, "raw"),
        debug=Evidence("sgx", sgx_quote(FLAGS | DEBUG), None, "raw"),
        stranger=SgxVerifier(Source(sgx_collateral()), root_ca_der=None),
        report_data=REPORT_DATA,
        now=NOW,
    )


class TestToy(VerifierConformance):
    case = Case(
        verifier=ToyVerifier(b"key"),
        good=Evidence("toy", toy_quote(b"key", REPORT_DATA), None, "toy"),
        debug=Evidence("toy", toy_quote(b"key", REPORT_DATA, debug=True), None, "toy"),
        stranger=ToyVerifier(b"other"),
        report_data=REPORT_DATA,
        now=NOW,
    )
