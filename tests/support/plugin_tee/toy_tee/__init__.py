"""The TEE `toy`, as a package of another author brings it: JSON evidence, signed with Ed25519."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from verdictd_py.domain.claims import FLAG, TEXT, Claim, MatchRule, hexadecimal, measurement
from verdictd_py.domain.evidence import (
    Evidence,
    RefusedEvidence,
    VerificationResult,
    VerifiedEvidence,
)
from verdictd_py.domain.trust import (
    EXECUTABLES_APPROVED,
    EXECUTABLES_UNRECOGNIZED,
    HARDWARE_GENUINE,
    TrustVector,
)
from verdictd_py.encoding import JsonValue, decode_object
from verdictd_py.errors import (
    ConfigError,
    EvidenceExpired,
    EvidenceFormat,
    QuoteInvalid,
    Reason,
    ReasonKind,
    RequestError,
)
from verdictd_py.ports import Verifier
from verdictd_py.ports.tees import Documents, TcbStatus, Tee, VerifierContext, Wire

TAG: Final = 61_000
OID: Final = "1.3.6.1.4.1.99999.7"
VALID: Final = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def evidence(key: Ed25519PrivateKey, report_data: bytes, **claims: JsonValue) -> dict[str, Any]:
    """Return signed evidence of a toy guest."""
    said: dict[str, Any] = {
        "image": "ab" * 16,
        "level": "current",
        "debug": False,
        "reportData": report_data.ljust(64, b"\0").hex(),
        **claims,
    }
    return {**said, "signature": key.sign(_signed(said)).hex()}


class ToyVerifier:
    """Verifier for `toy` (port `Verifier`)."""

    name = tee = "toy"

    def __init__(self, vendor: Ed25519PublicKey) -> None:
        self._vendor = vendor

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerificationResult:
        """Verify the vendor's signature, and that the toys have not expired.

        Raises:
            EvidenceFormat: it is not evidence of this TEE.
            QuoteInvalid: the signature does not verify.
        """
        if evidence.tee != self.tee:
            raise EvidenceFormat(f"evidence of {evidence.tee} is no evidence of a toy")
        try:
            said = decode_object(evidence.quote, "the evidence")
            signature = bytes.fromhex(str(said.pop("signature", "")))
            report_data = bytes.fromhex(str(said.get("reportData")))
        except (RequestError, ValueError):
            raise EvidenceFormat("this is no evidence of a toy") from None
        try:
            self._vendor.verify(signature, _signed(said))
        except InvalidSignature:
            raise QuoteInvalid("the toy is not the vendor's") from None
        verified = VerifiedEvidence(
            tee=self.tee,
            report_data=report_data,
            claims=said,
            tcb_status=str(said["level"]),
            advisory_ids=(),
            digest=hashlib.sha256(evidence.quote).hexdigest(),
            faults=(_OPEN,) if said["debug"] is True else (),
        )
        if not VALID[0] <= now <= VALID[1]:
            return RefusedEvidence(EvidenceExpired("the toys have expired"), verified)
        return verified


_OPEN: Final = Reason(
    "debug", "true", "false", "debug: the toy is open", kind=ReasonKind.ATTRIBUTES
)


def _signed(said: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(said, sort_keys=True).encode()


def _verifier(context: VerifierContext) -> Verifier:
    vendor = context.settings.get("vendor")
    if not isinstance(vendor, str):
        raise ConfigError("toys need the vendor's key; write vendor = HEX below [tee.toy]")
    return ToyVerifier(Ed25519PublicKey.from_public_bytes(bytes.fromhex(vendor)))


def _packaged(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _trust(found: VerifiedEvidence, unrecognized: tuple[str, ...]) -> TrustVector:
    del found
    executables = EXECUTABLES_UNRECOGNIZED if unrecognized else EXECUTABLES_APPROVED
    return {"hardware": HARDWARE_GENUINE, "executables": executables}


TEE: Final = Tee(
    name="toy",
    aliases=("toy_signed",),
    wire=Wire(
        recognizes=lambda data: data.startswith(b"{"), rcar=("toy",), oids=(OID,), tags=(TAG,)
    ),
    claims={
        "image": measurement(hexadecimal(16), "digest of the guest's image"),
        "level": Claim(TEXT, "the vendor's verdict about the toy", sample="current"),
        "debug": Claim(FLAG, "whether the toy is open", match=MatchRule.ALWAYS_FALSE),
        "reportData": Claim(hexadecimal(64), "data that the guest had signed"),
    },
    documents=Documents("toyPolicy.rego", "toyData", _packaged),
    verifier=_verifier,
    tcb=TcbStatus("level", accepted=("current",), revoked=("broken",)),
    trust=_trust,
)
