"""Verification as the appraiser uses it, for tests that expect claims or a refusal."""

from __future__ import annotations

from datetime import datetime

from verdictd_py.domain.evidence import Evidence, RefusedEvidence, VerifiedEvidence
from verdictd_py.ports import Verifier


async def verified_by(verifier: Verifier, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
    """Return the verified claims.

    Raises:
        AttestationError: the evidence is refused, with or without authentic claims.
    """
    result = await verifier.verify(evidence, now=now)
    if isinstance(result, RefusedEvidence):
        raise result.refusal
    return result
