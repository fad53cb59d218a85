"""SGX verification on a platform made here: the simulator knows TDX only."""

from __future__ import annotations

import hashlib
import json
import struct
from base64 import b64encode

import pytest

from tests.tees.support import (
    NOW,
    REPORT_DATA,
    Source,
    good_collateral,
    good_quote,
    platform,
    run,
    signed_again,
)
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import AttestationError, EvidenceFormat, QuoteInvalid
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import pki
from verdictd_py.tees.intel.quote import parse_quote
from verdictd_py.tees.sgx.verifier import SgxVerifier

FLAGS = 0x05  # INIT and MODE64BIT
DEBUG = 0x02


def sgx_quote(flags: int = FLAGS, *, version: int = 3) -> bytes:
    """A version 3 quote by the simulated platform's quoting enclave."""
    inner = parse_quote(good_quote())
    header = struct.pack(
        "<HHIHH16s20x", version, 2, 0, 0, 0, bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    )
    body = struct.pack(
        "<16sI28xQQ32s32x32s96xHH60x64s",
        platform().identity.cpu_svn,
        0,
        flags,
        0,
        b"E" * 32,
        b"S" * 32,
        7,
        3,
        REPORT_DATA,
    )
    signature = (
        pki.sign_raw(platform().attestation_key, header + body)
        + inner.attestation_key
        + inner.qe_report
        + inner.qe_report_signature
        + struct.pack("<H", len(inner.qe_auth_data))
        + inner.qe_auth_data
        + struct.pack("<HI", 5, len(inner.pck_chain))
        + inner.pck_chain
    )
    return header + body + struct.pack("<I", len(signature)) + signature


def sgx_collateral(status: str = "UpToDate") -> Collateral:
    info = json.loads(good_collateral().tcb_info)
    info["id"] = "SGX"
    info["tcbLevels"][0]["tcbStatus"] = status
    identity = json.loads(good_collateral().qe_identity)
    identity["id"] = "QE"
    return signed_again(
        good_collateral(), tcb_info=json.dumps(info), qe_identity=json.dumps(identity)
    )


def verify_sgx(quote: bytes, status: str = "UpToDate") -> VerifiedEvidence:
    verifier = SgxVerifier(Source(sgx_collateral(status)), root_ca_der=platform().root_ca_der)
    return run(verifier.verify(Evidence("sgx", quote, None, "raw"), now=NOW))


def test_claims() -> None:
    quote = sgx_quote()
    found = verify_sgx(quote + b"padding", "SWHardeningNeeded")
    assert found.faults == ()
    assert found.report_data == REPORT_DATA
    assert found.digest == hashlib.sha256(quote).hexdigest()
    assert found.claims["mrEnclave"] == b64encode(b"E" * 32).decode()
    assert found.claims["mrSigner"] == b64encode(b"S" * 32).decode()
    assert (found.claims["productId"], found.claims["svn"]) == (7, 3)
    assert found.claims["tcbStatus"] == found.tcb_status == "SWHardeningNeeded"
    assert found.claims["debug"] is False


@pytest.mark.parametrize("status", ["UpToDate", "OutOfDate", "Revoked"])
def test_debug_enclave_is_refused_with_its_claims(status: str) -> None:
    """defects.md 9: debug enclaves are looked at, and the TCB is told all the same."""
    found = verify_sgx(sgx_quote(FLAGS | DEBUG), status)
    rules = [reason.rule for reason in found.faults]
    assert rules == ["debug"] + (["tcbStatus"] if status == "Revoked" else [])
    assert found.claims["debug"] is True
    assert found.claims["tcbStatus"] == status


def test_other_versions() -> None:
    with pytest.raises(EvidenceFormat):
        verify_sgx(sgx_quote(version=4))


def test_truncations_and_flips() -> None:
    async def judge_all() -> None:
        verifier = SgxVerifier(Source(sgx_collateral()), root_ca_der=platform().root_ca_der)
        quote = sgx_quote()
        for size in range(0, len(quote), 3):
            with pytest.raises(AttestationError):
                await verifier.verify(Evidence("sgx", quote[:size], None, "raw"), now=NOW)
        for at in range(48, 432, 5):
            changed = quote[:at] + bytes([quote[at] ^ 1]) + quote[at + 1 :]
            with pytest.raises(QuoteInvalid):
                await verifier.verify(Evidence("sgx", changed, None, "raw"), now=NOW)

    run(judge_all())
