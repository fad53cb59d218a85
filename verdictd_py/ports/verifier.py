"""What verifies evidence of one kind."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from verdictd_py.domain.evidence import Evidence, VerifiedEvidence


class Verifier(Protocol):
    """Verifies evidence of one kind up to a trusted root."""

    @property
    def name(self) -> str:
        """Name of the verifier, as on the command line."""
        ...

    @property
    def tee(self) -> str:
        """Name of the TEE whose evidence it verifies."""
        ...

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        """Verifies signature, chain, revocation and TCB of `evidence` at `now`.

        Raises:
            AttestationError: refused before its claims could be believed.
            CollateralUnavailable: it cannot be judged now.
        """
        ...
