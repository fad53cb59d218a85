"""Port of the verifiers, one for each TEE."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from verdictd_py.domain.evidence import Evidence, VerificationResult


class Verifier(Protocol):
    """Verifier of the evidence of one TEE, up to a trusted root."""

    @property
    def name(self) -> str:
        """Name of the verifier, as on the command line."""
        ...

    @property
    def tee(self) -> str:
        """Name of the TEE whose evidence it verifies."""
        ...

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerificationResult:
        """Verify signature, chain, revocation and TCB of `evidence` at `now`.

        Returns:
            The verified claims; as `RefusedEvidence` if the signatures of the evidence verified
            and something else did not (expired collateral, a revoked certificate).

        Raises:
            AttestationError: the evidence is refused and none of its claims is authentic.
            CollateralUnavailable: the evidence cannot be appraised now.
        """
        ...
