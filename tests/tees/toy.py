"""TEE of another package: its evidence is authenticated with a shared key."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime

from verdictd_py.domain.claims import FLAG, Claim, MatchRule, hexadecimal
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import CollateralExpired, EvidenceFormat, QuoteInvalid, Reason, ReasonKind
from verdictd_py.ports import Verifier
from verdictd_py.ports.tees import Documents, Tee, VerifierContext, Wire

BODY_BYTES = 65  # debug flag and report data; 32 bytes of MAC follow
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)
BEGINS = datetime(2020, 1, 1, tzinfo=UTC)


def toy_quote(key: bytes, report_data: bytes, *, debug: bool = False) -> bytes:
    body = bytes([debug]) + report_data
    return body + hmac.digest(key, body, "sha256")


class ToyVerifier:
    name = "toy"
    tee = "toy"

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        body, seal = evidence.quote[:BODY_BYTES], evidence.quote[BODY_BYTES : BODY_BYTES + 32]
        if evidence.tee != self.tee or len(seal) != 32:
            raise EvidenceFormat("this is no toy")
        if not hmac.compare_digest(seal, hmac.digest(self._key, body, "sha256")):
            raise QuoteInvalid("the seal is broken")
        if not BEGINS <= now <= EXPIRES:
            raise CollateralExpired("toys were sealed from 2020 to 2029")
        debug = bool(body[0])
        return VerifiedEvidence(
            tee=self.tee,
            report_data=body[1:],
            claims={"reportData": body[1:].hex(), "debug": debug},
            tcb_status=None,
            advisory_ids=(),
            digest=hashlib.sha256(body + seal).hexdigest(),
            faults=(
                Reason(
                    "debug", "true", "false", "debug: the toy is open", kind=ReasonKind.ATTRIBUTES
                ),
            )
            if debug
            else (),
        )


def _verifier(context: VerifierContext) -> Verifier:
    return ToyVerifier(context.root_ca_der or b"")


def _wrong(context: VerifierContext) -> Verifier:
    verifier = ToyVerifier(context.root_ca_der or b"")
    verifier.tee = "tdx"
    return verifier


TEE = Tee(
    name="toy",
    wire=Wire(recognizes=lambda data: data[:1] in (b"\0", b"\1"), rcar=("toy",)),
    claims={
        "reportData": Claim(hexadecimal(64), "data that the guest had signed"),
        "debug": Claim(FLAG, "whether the toy is open", match=MatchRule.ALWAYS_FALSE),
    },
    documents=Documents("toyPolicy.rego", "toyData", lambda name: f"# {name}\n"),
    verifier=_verifier,
)
WRONG = replace(TEE, name="wrong", verifier=_wrong)
THIEF = replace(TEE, name="thief", aliases=("tdx_ecdsa",))
TWIN = replace(TEE, name="twin", documents=Documents("twinPolicy.rego", "tdxData", str))
