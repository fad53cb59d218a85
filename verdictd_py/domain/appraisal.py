"""The appraiser's verdict, and the peer that only a good verdict can make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from verdictd_py.domain.evidence import NO_TEE, VerifiedEvidence
from verdictd_py.domain.trust import UNTRUSTED, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import AttestationError, Reason


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Everything found about one presentation of evidence, accepted or refused.

    Attributes:
        id: correlation id, the only part besides the code that a refused peer is told.
        at: when it was judged.
        evidence: verified claims, or None where the signature never verified.
        tee: what the peer claimed to be, None where that could not be read.
        bound: whether the evidence vouches for the key of a channel.
        refusal: None where accepted.
        trust: trust vector of a guest that was accepted.
    """

    id: str
    at: datetime
    tee: str | None
    form: str
    evidence: VerifiedEvidence | None
    bound: bool
    refusal: AttestationError | None
    trust: TrustVector = field(default_factory=lambda: UNTRUSTED, repr=False)

    @property
    def accepted(self) -> bool:
        return self.refusal is None

    @property
    def code(self) -> str:
        return "ok" if self.refusal is None else self.refusal.code

    @property
    def told(self) -> str:
        """All that a refused peer may be told."""
        return f"refused: {self.code}; ask the operator about {self.id}"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return () if self.refusal is None else self.refusal.reasons

    @property
    def claims(self) -> Mapping[str, JsonValue]:
        return {} if self.evidence is None else self.evidence.claims

    def as_json(self) -> dict[str, JsonValue]:
        """The report of `verdictd-py appraise --json`; all members always present."""
        found = self.evidence
        return {
            "verdict": "accepted" if self.accepted else "refused",
            "code": self.code,
            "tee": self.tee,
            "tcbStatus": None if found is None else found.tcb_status,
            "advisoryIds": [] if found is None else list(found.advisory_ids),
            "claims": dict(self.claims),
            "reasons": [dict(reason.as_json()) for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True, init=False)
class AppraisedPeer:
    """A peer that may ask for secrets. Made by `of` from an accepted appraisal only."""

    appraisal_id: str
    tee: str
    address: str
    claims: Mapping[str, JsonValue] = field(repr=False)
    trust: TrustVector = field(repr=False)

    def __init__(self) -> None:
        raise TypeError("an AppraisedPeer is made by AppraisedPeer.of(appraisal)")

    @classmethod
    def of(cls, appraisal: Appraisal, *, address: str) -> Self:
        """The peer behind `appraisal`.

        Args:
            address: the peer's, for log and audit; no decision looks at it.

        Raises:
            AttestationError: the appraisal refused.
            ValueError: it was of evidence bound to no channel, or accepted a TEE of which
                there is no evidence (our bugs).
        """
        if appraisal.refusal is not None:
            raise appraisal.refusal
        if not appraisal.bound or appraisal.tee is None:
            raise ValueError("evidence that is bound to no channel makes no peer")
        proved = NO_TEE if appraisal.evidence is None else appraisal.evidence.tee
        if appraisal.tee != proved:
            raise ValueError(f"evidence of {proved} makes no peer of {appraisal.tee}")
        peer = cls.__new__(cls)
        object.__setattr__(peer, "appraisal_id", appraisal.id)
        object.__setattr__(peer, "tee", appraisal.tee)
        object.__setattr__(peer, "address", address)
        object.__setattr__(peer, "claims", appraisal.claims)
        object.__setattr__(peer, "trust", appraisal.trust)
        return peer
