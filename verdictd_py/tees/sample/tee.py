"""Definition of the TEE `sample`: evidence that any client can make, for tests of clients."""

from __future__ import annotations

from typing import Final

from verdictd_py.domain.claims import TEXT, Claim, hexadecimal
from verdictd_py.domain.evidence import REPORT_DATA_BYTES
from verdictd_py.packaged import policy_text
from verdictd_py.ports import Verifier
from verdictd_py.ports.tees import Documents, InitDataBinding, Tee, VerifierContext, Wire
from verdictd_py.tees.sample.verifier import NAME, InsecureSampleVerifier


def _verifier(context: VerifierContext) -> Verifier:
    del context
    return InsecureSampleVerifier()


def _recognizes(evidence: bytes) -> bool:
    del evidence
    return False  # only RCAR carries sample evidence, and it names the TEE


TEE: Final = Tee(
    name=NAME,
    wire=Wire(recognizes=_recognizes, rcar=(NAME,)),
    claims={
        "svn": Claim(TEXT, "security version that the guest claims", sample="1"),
        "reportData": Claim(
            hexadecimal(REPORT_DATA_BYTES), "data that the guest claims", of_connection=True
        ),
    },
    documents=Documents("samplePolicy.rego", "sampleData", policy_text),
    verifier=_verifier,
    init_data=InitDataBinding(claim=None),
    proves=False,
)
