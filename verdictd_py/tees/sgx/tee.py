"""Definition of the TEE `sgx`: Intel Software Guard Extensions.

Names and forms of the claims are those of the original verdictd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verdictd_py.domain.claims import NUMBER, Claim, MatchRule, base64_of, measurement
from verdictd_py.packaged import policy_text
from verdictd_py.ports.tees import Documents, TcbStatus, Tee
from verdictd_py.tees.intel.quote import SGX
from verdictd_py.tees.intel.tee import (
    ACCEPTED_TCB,
    KNOWN_TCB,
    REVOKED_TCB,
    TCB_CLAIM,
    certificates,
    shared_claims,
    trust,
    wire,
)
from verdictd_py.tees.sgx.verifier import SgxVerifier, read_report_data

_CLAIMS: Final[Mapping[str, Claim]] = {
    "mrEnclave": measurement(base64_of(32), "initial contents of the enclave"),
    "mrSigner": measurement(base64_of(32), "signer of the enclave"),
    "productId": Claim(NUMBER, "the signer's number for the product", match=MatchRule.AT_LEAST),
    "svn": Claim(NUMBER, "security version of the enclave", match=MatchRule.AT_LEAST),
    **shared_claims(optional=True),
}


TEE: Final = Tee(
    name=SGX,
    aliases=("sgx_ecdsa",),  # spelling of the original
    wire=wire(SGX, "1.2.840.113741.1337.6"),  # wire-rats-tls.md, first row of the table
    claims=_CLAIMS,
    documents=Documents("sgxPolicy.rego", "sgxData", policy_text),
    verifier=SgxVerifier.of,
    tcb=TcbStatus(TCB_CLAIM, ACCEPTED_TCB, revoked=REVOKED_TCB, known=KNOWN_TCB),
    lists_required=True,
    report_data=read_report_data,
    trust=trust,
    certificates=certificates,
)
