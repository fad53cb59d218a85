"""Verification of SGX quotes: version 3, enclave reports."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime

from verdictd_py.domain.evidence import Evidence, VerificationResult
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvidenceFormat, Reason, ReasonKind
from verdictd_py.tees.intel.quote import SGX, Quote
from verdictd_py.tees.intel.tee import IntelVerifier
from verdictd_py.tees.intel.verification import parse_evidence, parse_quote_of


class SgxVerifier(IntelVerifier):
    """Verifier for SGX (port `Verifier`)."""

    name = tee = SGX

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerificationResult:
        """Verify an SGX quote.

        1. Parse the quote; Intel's libraries make only version 3 for SGX.
        2. Find faults, which no policy may accept: a debug enclave.
        3. Verify PCK chain, signatures, collateral, revocation and TCB (`IntelEngine.verify`).
        4. Combine the claims. A refusal has them as well, if the signatures verified.

        Raises:
            AttestationError: the quote is refused and none of its claims is authentic.
            CollateralUnavailable: the quote cannot be appraised now.
        """
        # 1.
        quote = parse_evidence(evidence, self.tee)
        if quote.version != 3:
            raise EvidenceFormat(f"SGX quotes of version {quote.version} are not served, 3 is")
        # 2.
        faults: tuple[Reason, ...] = ()
        if _debug(quote):
            text = "debug: measured true, expected false: the host can read the enclave's memory"
            faults = (Reason("debug", "true", "false", text, kind=ReasonKind.ATTRIBUTES),)
        # 3.
        verified = await self._engine.verify(quote, evidence.endorsements, now)
        # 4.
        return verified.evidence(
            quote,
            report_data=_report_data(quote),
            claims=_claims(quote),
            faults=faults,
        )


def read_report_data(evidence: bytes) -> bytes:
    """Return REPORTDATA of an SGX quote, 64 bytes. Nothing is verified here.

    Raises:
        EvidenceFormat: it is not an SGX quote.
    """
    return _report_data(parse_quote_of(SGX, evidence))


def _report_data(quote: Quote) -> bytes:
    return quote.body[320:384]


def _debug(quote: Quote) -> bool:
    """Return ATTRIBUTES.DEBUG: bit 1 of the flags at offset 48 of the report body."""
    return bool(quote.body[48] & 0x02)


def _claims(quote: Quote) -> dict[str, JsonValue]:
    """Return the claims: names and encodings are those of the original's SGX policy.

    `reportData` and `debug` are added here.
    Offsets: Intel, "SGX ECDSA Quote Library Reference", table "Enclave Report Body".
    """
    body = quote.body
    return {
        "mrEnclave": b64encode(body[64:96]).decode("ascii"),
        "mrSigner": b64encode(body[128:160]).decode("ascii"),
        "productId": int.from_bytes(body[256:258], "little"),  # ISVPRODID
        "svn": int.from_bytes(body[258:260], "little"),  # ISVSVN
        "reportData": _report_data(quote).hex(),
        "debug": _debug(quote),
    }
