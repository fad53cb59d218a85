"""Record of one appraisal for operators: plain values, which outlive the connection.

A guest that is refused tries again. Refusals in a row of one guest for the same reasons are one
judgement with a count, the newest one: they tell the operator nothing more. Reasons are the same if
they differ only in numbers, dates and hex digits, such as the age of the evidence.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from verdictd_py.domain.appraisal import Appraisal, DecidedBy
from verdictd_py.domain.evidence import MAX_QUOTE_BYTES
from verdictd_py.domain.tcb import TcbComparison
from verdictd_py.domain.trust import UNTRUSTED, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import NotAppraised, PolicyRefused, Reason, ReasonKind
from verdictd_py.formats import eventlog, initdata

MAX_EARLIER: Final = 100
"""Maximum number of ids of earlier refusals that a judgement in a row has."""

MAX_STORED_LOG_BYTES: Final = 256 * 1024
"""Maximum size of an event log that is stored; firmware reserves as much for it."""

_FIXED_BYTES: Final = 2048
"""Rough size of a judgement without its texts and claims."""

_COMPONENT_BYTES: Final = 96
"""Rough size of a component of the TCB; guests of one platform share it."""

_WITHHELD: Final = (eventlog.RULE, initdata.CLAIM)
"""Claims that are not stored unless they are null, because the guest chooses their length."""


_VARIABLE: Final = re.compile(r"\b(?:[0-9][\w:.+-]*|[0-9a-fA-F]{8,}\b)")
"""A number, a date or hex digits in the text of a reason; no name that ends in a digit."""


class Verdict(StrEnum):
    """Outcome of an appraisal; the history stores judgements separately by verdict."""

    REFUSED = "refused"
    UNVERIFIED = "unverified"
    ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Record of an appraisal: plain values, because it outlives the connection.

    Attributes:
        address: address of the guest, `host:port`.
        code: code that was disclosed to the guest.
        claims: verified claims without the withheld ones; empty if the evidence did not verify.
        withheld: names of the claims that the guest has and that are not stored.
        evidence: SHA-256 of the quote; empty if the evidence did not verify.
        measurements: names of the claims that identify its software.
        not_pinnable: why its measurements cannot become reference values; empty if they can.
        judged: whether the guest was appraised; otherwise, the reasons are the broker's own.
        policy_skipped: whether the reasons contain no rule of the policy, because the guest was
            refused for a fault (see `Explainer`).
        platform: identifies the guest's machine; None if that is not known.
        times: number of refusals in a row that it stands for.
        first_at: when the first of them was.
        earlier: ids of the last of them, the oldest first, without its own id.
        quote, event_log: what the guest presented, if its evidence is genuine; empty for any
            other guest, if they are too long, and of an accepted guest of which they are stored
            with an earlier appraisal (`presentations`).
        decided_by: documents by which the policy decided; None if no policy was evaluated.
        collateral: SHA-256 digest of the collateral; empty if it is not known.
        trust: trust vector of a guest that was accepted.
        tcb: components of the platform next to the TCB levels; None if they are not known.
    """

    id: str
    at: datetime
    address: str
    verdict: Verdict
    code: str
    tee: str | None
    form: str
    tcb_status: str
    advisory_ids: tuple[str, ...]
    claims: Mapping[str, JsonValue] = field(repr=False)
    withheld: tuple[str, ...]
    evidence: str
    reasons: tuple[Reason, ...]
    measurements: tuple[str, ...]
    not_pinnable: str
    policy_skipped: bool = False
    judged: bool = True
    platform: str | None = None
    times: int = 1
    first_at: datetime | None = None
    earlier: tuple[str, ...] = ()
    quote: bytes = field(default=b"", repr=False)
    event_log: bytes = field(default=b"", repr=False)
    decided_by: DecidedBy | None = None
    collateral: str = ""
    trust: TrustVector = field(default_factory=lambda: UNTRUSTED, repr=False)
    tcb: TcbComparison | None = field(default=None, repr=False)

    def repeats(self, last: Judgement) -> bool:
        """Return whether this is another refusal of the same guest, for the same reasons.

        The evidence differs each time, because guests make a new key for each connection.
        """
        return self.verdict is not Verdict.ACCEPTED and self._identity() == last._identity()

    def after(self, last: Judgement) -> Judgement:
        """Return this judgement, which `repeats` the last one, with its count and ids."""
        return replace(
            self,
            times=last.times + 1,
            first_at=last.first_at or last.at,
            earlier=(*last.earlier, last.id)[-MAX_EARLIER:],
        )

    def _identity(self) -> tuple[object, ...]:
        """Return guest and result: what two refusals in a row have in common."""
        of_guest = self.guest, self.tee, self.form, self.measured
        reasons = tuple(map(_constant, self.reasons))
        return (*of_guest, self.verdict, self.code, reasons, self.tcb_status, self.judged)

    @property
    def size(self) -> int:
        """Rough number of bytes, for the limit of the history."""
        texts = sum(len(r.text) + len(r.measured) + len(r.expected) for r in self.reasons)
        claims = sum(len(value) for value in self.claims.values() if isinstance(value, str))
        presented = len(self.quote) + len(self.event_log)
        components = 0 if self.tcb is None else _COMPONENT_BYTES * len(self.tcb.components)
        return _FIXED_BYTES + components + texts + claims + presented + 32 * len(self.earlier)

    @property
    def measured(self) -> tuple[object, ...]:
        """Values of the claims that identify its software."""
        return tuple(self.claims.get(name) for name in self.measurements)

    @property
    def guest(self) -> tuple[str, str | None]:
        """Identifies the guest as far as possible: its address without the port, its machine."""
        return self.address.rpartition(":")[0], self.platform

    @property
    def groups(self) -> tuple[Hashable, ...]:
        """What it counts for in the history: its guest, and its machine if that is known."""
        return (self.guest,) if self.platform is None else (self.guest, self.platform)

    @classmethod
    def of(cls, appraisal: Appraisal, address: str, measurements: tuple[str, ...]) -> Self:
        """Return the record of an appraisal.

        Args:
            measurements: names of the claims of its TEE that identify software.
        """
        evidence = appraisal.evidence
        withheld = tuple(name for name in _WITHHELD if appraisal.claims.get(name) is not None)
        quote, event_log = _presented(appraisal)
        return cls(
            id=appraisal.id,
            at=appraisal.at,
            address=address,
            verdict=_verdict(appraisal),
            code=appraisal.code,
            tee=appraisal.tee,
            form=appraisal.form,
            tcb_status="" if evidence is None else evidence.tcb_status or "",
            advisory_ids=() if evidence is None else evidence.advisory_ids,
            claims={name: v for name, v in appraisal.claims.items() if name not in withheld},
            withheld=withheld,
            evidence="" if evidence is None else evidence.digest,
            reasons=appraisal.reasons,
            measurements=measurements,
            not_pinnable=_not_pinnable(appraisal),
            policy_skipped=appraisal.policy_skipped,
            platform=appraisal.platform,
            quote=quote,
            event_log=event_log,
            decided_by=appraisal.decided_by,
            collateral="" if evidence is None else evidence.collateral or "",
            trust=appraisal.trust,
            tcb=None if evidence is None else evidence.tcb,
        )

    @classmethod
    def not_appraised(
        cls,
        error: NotAppraised,
        *,
        judgement_id: str,
        at: datetime,
        address: str,
    ) -> Self:
        """Return the record of a guest that could not be appraised at the time."""
        return cls(
            id=judgement_id,
            at=at,
            address=address,
            verdict=Verdict.UNVERIFIED,
            code=error.code,
            tee=None,
            form="",
            tcb_status="",
            advisory_ids=(),
            claims={},
            withheld=(),
            evidence="",
            reasons=(Reason(error.rule, "", "", str(error), kind=error.kind),),
            measurements=(),
            not_pinnable="it was not appraised",
            judged=False,
        )


def _constant(reason: Reason) -> tuple[object, ...]:
    """Return the parts of a reason that are the same when the guest tries again.

    The time and the random data of an attempt are replaced. A reason about a measurement has
    neither: its values show whether the operator changed the reference values in between.
    """
    values: tuple[str, ...] = (reason.measured, reason.expected, reason.text)
    if reason.kind is not ReasonKind.MEASUREMENT:
        values = tuple(_VARIABLE.sub("#", value) for value in values)
    return (reason.rule, reason.kind, *values)


def _verdict(appraisal: Appraisal) -> Verdict:
    """Return the verdict. A refusal is `REFUSED` only if the evidence is bound to the guest's key.

    Otherwise, any client could present another guest's quote any number of times.
    """
    if appraisal.accepted:
        return Verdict.ACCEPTED
    genuine = appraisal.evidence is not None and appraisal.bound
    return Verdict.REFUSED if genuine else Verdict.UNVERIFIED


def _presented(appraisal: Appraisal) -> tuple[bytes, bytes]:
    """Return quote and event log of a guest, if they are genuine and not too long."""
    presented = appraisal.presented
    if presented is None or _verdict(appraisal) is Verdict.UNVERIFIED:
        return b"", b""
    quote, log = presented.quote, presented.event_log or b""
    return (
        quote if len(quote) <= MAX_QUOTE_BYTES else b"",
        log if len(log) <= MAX_STORED_LOG_BYTES else b"",
    )


def _not_pinnable(appraisal: Appraisal) -> str:
    """Return why the measurements cannot be pinned; empty if they can.

    1. Quote and collateral verified. 2. The evidence is bound to the guest's key. 3. The guest
    was accepted, or the policy refused it. 4. Only its measurements were refused: it has no
    fault such as debug, and no rule about the TCB and no other rule of the policy failed.
    """
    evidence = appraisal.evidence
    if evidence is None:  # 1
        return "its evidence did not verify"
    if not appraisal.bound:  # 2
        return "its evidence is not bound to its key"
    if appraisal.refusal is None:
        return ""
    if not isinstance(appraisal.refusal, PolicyRefused):  # 3
        return f"it was refused, but not for its measurements: {appraisal.code}"
    others = {fault.rule for fault in evidence.faults}
    others.update(r.rule for r in appraisal.reasons if r.kind is not ReasonKind.MEASUREMENT)
    if others:  # 4
        return "it was refused not only for its measurements, but also for " + ", ".join(
            sorted(others)
        )
    return ""
