"""Result of an appraisal, and the peer that is made from an accepted appraisal only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from verdictd_py.domain.evidence import NO_TEE, Evidence, VerifiedEvidence
from verdictd_py.domain.trust import UNTRUSTED, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import AttestationError, Reason


@dataclass(frozen=True, slots=True)
class DecidedBy:
    """Documents that produced a decision, by their SHA-256 digests in lower-case hex.

    Attributes:
        policy: text of the policy.
        data: text of the data that the policy read: reference data with the named sets in force,
            or the data of the release policy.
    """

    policy: str
    data: str


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Result of the appraisal of one presentation of evidence, accepted or refused.

    Attributes:
        id: correlation id; a refused peer receives only this id and the code.
        at: time of the appraisal.
        tee: TEE that the peer claimed, None if the claim could not be read.
        form: form in which a protocol carried the evidence.
        evidence: verified claims, None if the signature did not verify.
        bound: whether the evidence vouches for the key of a channel.
        refusal: None if the guest is accepted.
        policy_skipped: whether the guest was refused for a fault before the policy was
            evaluated, so that the reasons contain no rule of the policy.
        trust: trust vector of a guest that was accepted.
        decided_by: documents by which the policy decided; None if no policy was evaluated.
    """

    id: str
    at: datetime
    tee: str | None
    form: str
    evidence: VerifiedEvidence | None
    bound: bool
    refusal: AttestationError | None
    policy_skipped: bool = False
    trust: TrustVector = field(default_factory=lambda: UNTRUSTED, repr=False)
    presented: Evidence | None = field(default=None, repr=False)
    decided_by: DecidedBy | None = None

    @property
    def accepted(self) -> bool:
        return self.refusal is None

    @property
    def code(self) -> str:
        return "ok" if self.refusal is None else self.refusal.code

    @property
    def text_for_guest(self) -> str:
        """The only text that is disclosed to a refused peer."""
        return f"refused: {self.code}; ask the operator about {self.id}"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return () if self.refusal is None else self.refusal.reasons

    @property
    def platform(self) -> str | None:
        """Identifies the machine (see `VerifiedEvidence`); None if that is not known."""
        return None if self.evidence is None else self.evidence.platform

    @property
    def claims(self) -> Mapping[str, JsonValue]:
        return {} if self.evidence is None else self.evidence.claims

    def as_json(self) -> dict[str, JsonValue]:
        """Return the report of `verdictd-py appraise --json`; all members are always present."""
        evidence = self.evidence
        return {
            "verdict": "accepted" if self.accepted else "refused",
            "code": self.code,
            "tee": self.tee,
            "tcbStatus": None if evidence is None else evidence.tcb_status,
            "advisoryIds": [] if evidence is None else list(evidence.advisory_ids),
            "claims": dict(self.claims),
            "reasons": [dict(reason.as_json()) for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True, init=False)
class AppraisedPeer:
    """A peer that may request secrets. Only `of` creates it, from an accepted appraisal."""

    appraisal_id: str
    tee: str
    address: str
    platform: str | None
    claims: Mapping[str, JsonValue] = field(repr=False)
    trust: TrustVector = field(repr=False)

    def __init__(self) -> None:
        raise TypeError("use AppraisedPeer.of(appraisal)")

    @classmethod
    def of(cls, appraisal: Appraisal, *, address: str) -> Self:
        """Return the peer of an accepted appraisal.

        Args:
            address: address of the peer, for log and audit; no decision depends on it.

        Raises:
            AttestationError: the appraisal is a refusal.
            ValueError: the evidence is not bound to a channel, or is not of the TEE that was
                accepted (internal errors).
        """
        if appraisal.refusal is not None:
            raise appraisal.refusal
        if not appraisal.bound or appraisal.tee is None:
            raise ValueError("the evidence is not bound to a channel")
        proved = NO_TEE if appraisal.evidence is None else appraisal.evidence.tee
        if appraisal.tee != proved:
            raise ValueError(f"the evidence is of {proved}, not of {appraisal.tee}")
        peer = cls.__new__(cls)
        object.__setattr__(peer, "appraisal_id", appraisal.id)
        object.__setattr__(peer, "tee", appraisal.tee)
        object.__setattr__(peer, "address", address)
        object.__setattr__(peer, "platform", appraisal.platform)
        object.__setattr__(peer, "claims", appraisal.claims)
        object.__setattr__(peer, "trust", appraisal.trust)
        return peer
