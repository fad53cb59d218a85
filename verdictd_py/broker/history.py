"""History of recent appraisals, for operators.

It is in memory and bounded (`retention`); a `Journal` stores it for the next run. Guests whose
evidence did not verify are stored separately: any unauthenticated client can cause them, and they
must not evict refusals of genuine guests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.broker.retention import CAPACITY, Retained
from verdictd_py.broker.tallies import OTHER, Key, Tallies
from verdictd_py.broker.uses import Uses
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.prefixes import only_match
from verdictd_py.errors import NotFound, RequestError


class JudgementSink(Protocol):
    """Receiver of judgements and releases: the history, or what delivers them to it."""

    def note_release(self, paths: Sequence[str], at: datetime) -> None:
        """Count a release of each path."""
        ...

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


def _is_same_boot(judgement: Judgement, other: Judgement) -> bool:
    """Return whether another judgement has the evidence of the same software on the same guest."""
    same = other.guest == judgement.guest and other.measured == judgement.measured
    return same and bool(other.quote)


class History:
    """The last judgements of each verdict, and their numbers since the start.

    Args:
        capacity: maximum number of judgements of each verdict.

    Attributes:
        journal: receives every change, so that the history survives a restart; None without.
        uses: releases by path.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self.journal: Journal | None = None
        self.uses = Uses()
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

    def note_release(self, paths: Sequence[str], at: datetime) -> None:
        self.uses.note(paths, at)

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

    def presented(self, judgement: Judgement) -> Judgement | None:
        """Return the judgement with the evidence of a guest's boot; None if none is stored."""
        if judgement.quote or judgement.verdict is not Verdict.ACCEPTED:
            return judgement if judgement.quote else None
        return self._accepted(judgement, lambda other: _is_same_boot(judgement, other))

    def accepted_before(self, judgement: Judgement) -> Judgement | None:
        """Return the last accepted judgement before another one, with its evidence if it is stored.

        It is of the same guest, otherwise of the same machine; None if there is neither.
        """
        last = self._accepted(judgement, lambda other: other.guest == judgement.guest)
        if last is None and judgement.platform is not None:
            last = self._accepted(judgement, lambda other: other.platform == judgement.platform)
        evidence = None if last is None else self.presented(last)
        if last is None or evidence is None:
            return last
        return replace(last, quote=evidence.quote, event_log=evidence.event_log)

    def _accepted(
        self, judgement: Judgement, matches: Callable[[Judgement], bool]
    ) -> Judgement | None:
        """Return the newest accepted judgement before another one that matches."""
        return next(
            (
                other
                for other in reversed(self._judgements[Verdict.ACCEPTED])
                if other.at <= judgement.at and other.id != judgement.id and matches(other)
            ),
            None,
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
