"""History of recent appraisals, for operators.

It is in memory and bounded (`retention`); a `Journal` stores it for the next run. Guests whose
evidence did not verify are stored separately: any unauthenticated client can cause them, and they
must not evict refusals of genuine guests.

A guest that is refused tries again. Refusals in a row of one guest for the same reasons are one
judgement with a count, the newest one: they tell the operator nothing more. Reasons are the same if
they differ only in numbers, dates and hex digits, such as the age of the evidence.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol, Self

from verdictd_py.broker.retention import CAPACITY, Retained
from verdictd_py.broker.tallies import OTHER, Key, Tallies
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.evidence import MAX_QUOTE_BYTES
from verdictd_py.domain.prefixes import only_match
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    NotAppraised,
    NotFound,
    PolicyRefused,
    Reason,
    ReasonKind,
    RequestError,
)
from verdictd_py.formats import eventlog, initdata

MAX_EARLIER: Final = 100
"""Maximum number of ids of earlier refusals that a judgement in a row has."""

MAX_STORED_LOG_BYTES: Final = 256 * 1024
"""Maximum size of an event log that is stored; firmware reserves as much for it."""

_FIXED_BYTES: Final = 2048
"""Rough size of a judgement without its texts and claims."""

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
        quote, event_log: what the guest presented, of a refused guest whose evidence is genuine;
            empty for any other guest, and if they are too long.
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
        measured = tuple(self.claims.get(name) for name in self.measurements)
        of_guest = self.guest, self.tee, self.form, measured
        reasons = tuple(map(_constant, self.reasons))
        return (*of_guest, self.verdict, self.code, reasons, self.tcb_status, self.judged)

    @property
    def size(self) -> int:
        """Rough number of bytes, for the limit of the history."""
        texts = sum(len(r.text) + len(r.measured) + len(r.expected) for r in self.reasons)
        claims = sum(len(value) for value in self.claims.values() if isinstance(value, str))
        presented = len(self.quote) + len(self.event_log)
        return _FIXED_BYTES + texts + claims + presented + 32 * len(self.earlier)

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
    """Return quote and event log of a refused guest, if they are genuine and not too long."""
    presented = appraisal.presented
    if presented is None or _verdict(appraisal) is not Verdict.REFUSED:
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


class JudgementSink(Protocol):
    """Receiver of judgements: the history, or what delivers them to it."""

    def remember(self, judgement: Judgement) -> None:
        """Store a judgement."""
        ...


class Journal(Protocol):
    """Receiver of the changes of the history, which stores them. It never raises or waits."""

    def put(self, judgement: Judgement) -> None:
        """Store a judgement."""
        ...

    def delete(self, judgement_id: str) -> None:
        """Delete a judgement that is no longer in the history."""
        ...

    def count(self, key: Key, number: int) -> None:
        """Store the number of guests of an interval (`Tallies`)."""
        ...


class History:
    """The last judgements of each verdict, and their numbers since the start.

    Args:
        capacity: maximum number of judgements of each verdict.

    Attributes:
        journal: receives every change, so that the history survives a restart; None without.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self.journal: Journal | None = None
        self._judgements = {verdict: Retained[Judgement](capacity) for verdict in Verdict}
        self._counts = dict.fromkeys(Verdict, 0)
        self._not_judged: Judgement | None = None
        self._capacity = capacity
        self._latest: dict[tuple[str, str | None], Judgement] = {}
        self._tallies = Tallies()

    def remember(self, judgement: Judgement) -> None:
        """Store a judgement, in place of the last one that it repeats."""
        if not judgement.judged:
            self._not_judged = judgement
        elif judgement.verdict is not Verdict.UNVERIFIED:
            self._not_judged = None
        self._count(judgement.at, judgement.verdict, judgement.code, 1)
        removed = []
        stored = self._judgements[judgement.verdict]
        last = self._latest.pop(judgement.guest, None)
        if last is not None and judgement.repeats(last):
            judgement = judgement.after(last)
            if stored.remove(last.id):  # otherwise it is evicted
                removed.append(last.id)
        removed += stored.add(judgement)
        if self.journal is not None:
            for judgement_id in removed:
                self.journal.delete(judgement_id)
            self.journal.put(judgement)
        self._latest[judgement.guest] = judgement
        if judgement.verdict is Verdict.ACCEPTED:  # it ends a row of refusals without a platform
            self._latest.pop((judgement.guest[0], None), None)
        if len(self._latest) > self._capacity:
            del self._latest[next(iter(self._latest))]

    def count_omitted(self, verdict: Verdict, number: int) -> None:
        """Count judgements that were omitted, because newer ones would have evicted them."""
        newest = self._judgements[verdict].newest
        if number and newest is not None:
            self._count(newest.at, verdict, OTHER, number)
        else:
            self._counts[verdict] += number

    def _count(self, at: datetime, verdict: Verdict, code: str, number: int) -> None:
        self._counts[verdict] += number
        key = self._tallies.add(at, verdict, code, number)
        if self.journal is not None:
            self.journal.count(key, self._tallies.number(key))

    def restore(
        self, judgements: Iterable[Judgement], counts: Iterable[tuple[Key, int]]
    ) -> tuple[str, ...]:
        """Add judgements and numbers of an earlier run, which are older than those of this one.

        Returns:
            The ids of judgements for which there is no capacity any more.
        """
        own = [judgement for stored in self._judgements.values() for judgement in stored]
        evicted = []
        for stored in self._judgements.values():
            for judgement in tuple(stored):
                stored.remove(judgement.id)
        ids = {judgement.id for judgement in own}
        older = sorted((j for j in judgements if j.id not in ids), key=lambda j: j.at)
        for judgement in (*older, *own):
            evicted += self._judgements[judgement.verdict].add(judgement)
        for judgement in reversed(older):
            self._latest.setdefault(judgement.guest, judgement)
        for key, number in counts:
            self._tallies.restore(key, number)
        return tuple(evicted)

    def number(self, key: Key) -> int:
        """Return the number of guests of an interval."""
        return self._tallies.number(key)

    def everything(self) -> tuple[tuple[Judgement, ...], tuple[tuple[Key, int], ...]]:
        """Return all judgements and numbers, for a store that has lost them."""
        stored = (judgement for each in self._judgements.values() for judgement in each)
        return tuple(stored), self._tallies.everything()

    def problems(self, caller: Caller) -> tuple[str, ...]:
        """Return why the broker could not judge the last genuine guest; empty if it could.

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
        """
        caller.require(Right.MANAGE)
        last = self._not_judged
        if last is None:
            return ()
        at = last.at.isoformat(timespec="seconds")
        return tuple(f"a guest was not judged at {at}: {it.text}" for it in last.reasons)

    def counts(self, caller: Caller) -> Mapping[Verdict, int]:
        """Return how many guests had each verdict since the start.

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
        """
        caller.require(Right.MANAGE)
        return dict(self._counts)

    def tallies(
        self, caller: Caller, now: datetime, step_seconds: int, steps: int
    ) -> tuple[datetime, tuple[tuple[int, Verdict, str, int], ...]]:
        """Return numbers of guests over time (`Tallies.between`).

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
            RequestError: the intervals are not supported.
        """
        caller.require(Right.MANAGE)
        until, counts = self._tallies.between(now, step_seconds, steps)
        return until, tuple((step, Verdict(name), code, n) for step, name, code, n in counts)

    def last(self, caller: Caller, verdict: Verdict, limit: int) -> tuple[Judgement, ...]:
        """Return the last judgements of a verdict, the newest first.

        Args:
            limit: how many; 0 for all that are stored.

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
        """
        caller.require(Right.MANAGE)
        newest = reversed(self._judgements[verdict])
        return tuple(
            judgement for judgement, _ in zip(newest, range(limit or CAPACITY), strict=False)
        )

    def find_by_prefix(self, caller: Caller, prefix: str) -> Judgement:
        """Return the only judgement with that id or evidence, or whose id or evidence begins so.

        For calls that change nothing: which judgement a prefix names may change at any time.

        Raises:
            NotAuthorized, NotFound: see `find`.
            RequestError: several judgements match; the message lists them.
        """
        try:
            return self.find(caller, prefix)
        except NotFound:
            matching = {
                judgement.id: judgement
                for judgements in self._judgements.values()
                for judgement in judgements
                if any(
                    name.startswith(prefix)
                    for name in (judgement.id, judgement.evidence, *judgement.earlier)
                )
            }
            if not prefix or not matching:
                raise
            return matching[only_match(prefix, matching, "guests")]

    def pinnable(self, caller: Caller, appraisal_id: str) -> tuple[Judgement, str]:
        """Return the judgement with that id and its TEE, if its measurements can be pinned.

        Raises:
            NotAuthorized, NotFound: see `find`.
            RequestError: no id was given, or the guest cannot be pinned.
        """
        if not appraisal_id:
            raise RequestError("no guest is named; give the id of its appraisal")
        judgement = self.find(caller, appraisal_id)
        if judgement.not_pinnable or judgement.tee is None:
            raise RequestError(f"this guest cannot be pinned: {judgement.not_pinnable}")
        return judgement, judgement.tee

    def find(self, caller: Caller, appraisal_id: str) -> Judgement:
        """Return the judgement with that id; without an id, the last that was not accepted.

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
            NotFound: there is no such judgement, or it is no longer stored.
        """
        caller.require(Right.MANAGE)
        if not appraisal_id:
            newest = (self._judgements[v].newest for v in (Verdict.REFUSED, Verdict.UNVERIFIED))
            lasts = [judgement for judgement in newest if judgement is not None]
            if not lasts:
                raise NotFound("no guest was refused as far as the history goes back")
            return max(lasts, key=lambda judgement: judgement.at)
        for judgements in self._judgements.values():
            for judgement in judgements:
                if appraisal_id == judgement.id or appraisal_id in judgement.earlier:
                    return judgement
        raise NotFound(
            "no guest with this id is stored; ids are in the log, older ones in the audit trail"
        )
