"""Conformance of every verifier, including those of two plug-ins, to the port `Verifier`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.conformance.verifiers import Case, VerifierConformance
from tests.support.tees import TEES
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
from verdictd_py.domain.evidence import Evidence, RefusedEvidence
from verdictd_py.errors import EvidenceExpired, EvidenceFormat
from verdictd_py.simulator import TdMeasurements
from verdictd_py.tees.sgx.verifier import SgxVerifier
from verdictd_py.tees.tdx.verifier import TdxVerifier

PACKAGE: Final = Path(__file__).parents[1] / "support" / "plugin_tee" / "toy_tee"


def _plugin() -> Any:
    """Load the package of the plug-in, which is not on the path."""
    spec = importlib.util.spec_from_file_location("toy_tee", PACKAGE / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "other"), [("tdx", "sgx"), ("sgx", "tdx")])
def test_report_data_is_read_without_verification(name: str, other: str) -> None:
    """The broker compares it with the guest's key while no collateral is available."""
    quotes = {"tdx": good_quote(), "sgx": sgx_quote()}
    read = TEES.named(name).report_data
    assert read is not None
    assert read(quotes[name]) == read(quotes[name] + bytes(70)) == REPORT_DATA
    for unreadable in (b"", bytes(700), quotes[name][:600], quotes[other]):
        with pytest.raises(EvidenceFormat):
            read(unreadable)


PLUGIN: Final = _plugin()
VENDOR: Final = Ed25519PrivateKey.generate()


def plugin_evidence(**claims: Any) -> Evidence:
    signed = PLUGIN.evidence(VENDOR, REPORT_DATA, **claims)
    return Evidence("toy", json.dumps(signed).encode(), None, "toy")


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


class TestPlugin(VerifierConformance):
    case = Case(
        verifier=PLUGIN.ToyVerifier(VENDOR.public_key()),
        good=plugin_evidence(),
        debug=plugin_evidence(debug=True),
        stranger=PLUGIN.ToyVerifier(Ed25519PrivateKey.generate().public_key()),
        report_data=REPORT_DATA,
        now=NOW,
        padding=False,
    )

    def test_a_refusal_after_the_signatures_has_the_verified_claims(self) -> None:
        work = self.case.verifier.verify(self.case.good, now=PLUGIN.VALID[0] - NOW.resolution)
        result = asyncio.run(work)
        assert isinstance(result, RefusedEvidence)
        assert type(result.refusal) is EvidenceExpired
        assert result.verified.report_data == REPORT_DATA
