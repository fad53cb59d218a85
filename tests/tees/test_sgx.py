"""SGX verification with quotes of the test, because the simulator supports only TDX."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest

from tests.support.verifiers import verified_by
from tests.tees.sgx_quotes import DEBUG, FLAGS, sgx_collateral, sgx_quote
from tests.tees.support import (
    NOW,
    REPORT_DATA,
    Source,
    platform,
    run,
)
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import AttestationError, EvidenceFormat, QuoteInvalid
from verdictd_py.tees.sgx.verifier import SgxVerifier


def verify_sgx(quote: bytes, status: str = "UpToDate") -> VerifiedEvidence:
    verifier = SgxVerifier(Source(sgx_collateral(status)), root_ca_der=platform().root_ca_der)
    return run(verified_by(verifier, Evidence("sgx", quote, None, "raw"), now=NOW))


def test_claims() -> None:
    quote = sgx_quote()
    result = verify_sgx(quote + b"padding", "SWHardeningNeeded")
    assert result.faults == ()
    assert result.report_data == REPORT_DATA
    assert result.digest == hashlib.sha256(quote).hexdigest()
    assert result.claims["mrEnclave"] == b64encode(b"E" * 32).decode()
    assert result.claims["mrSigner"] == b64encode(b"S" * 32).decode()
    assert (result.claims["productId"], result.claims["svn"]) == (7, 3)
    assert result.claims["tcbStatus"] == result.tcb_status == "SWHardeningNeeded"
    assert result.claims["debug"] is False


@pytest.mark.parametrize("status", ["UpToDate", "OutOfDate", "Revoked"])
def test_a_debug_enclave_is_refused_with_its_claims(status: str) -> None:
    """defects.md 9: debug mode is checked, and the TCB status is reported nevertheless."""
    result = verify_sgx(sgx_quote(FLAGS | DEBUG), status)
    rules = [reason.rule for reason in result.faults]
    assert rules == ["debug"] + (["tcbStatus"] if status == "Revoked" else [])
    assert result.claims["debug"] is True
    assert result.claims["tcbStatus"] == status


def test_other_versions() -> None:
    with pytest.raises(EvidenceFormat):
        verify_sgx(sgx_quote(version=4))


def test_truncations_and_flips() -> None:
    async def judge_all() -> None:
        verifier = SgxVerifier(Source(sgx_collateral()), root_ca_der=platform().root_ca_der)
        quote = sgx_quote()
        for size in range(0, len(quote), 3):
            with pytest.raises(AttestationError):
                await verified_by(verifier, Evidence("sgx", quote[:size], None, "raw"), now=NOW)
        for at in range(48, 432, 5):
            changed = quote[:at] + bytes([quote[at] ^ 1]) + quote[at + 1 :]
            with pytest.raises(QuoteInvalid):
                await verified_by(verifier, Evidence("sgx", changed, None, "raw"), now=NOW)

    run(judge_all())
