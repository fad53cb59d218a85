"""Explanation of refusals with the rules of the policy, evaluated when an operator requests it.

A guest with a fault (a debug TD, an event log of another boot) is refused before its policy is
evaluated, because the result is known and the guest could repeat the request at any rate.
Operators nevertheless want to see every failed rule, so the policy is evaluated here with the
verified claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import Caller
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyUnavailable, Reason, ReasonKind
from verdictd_py.ports import AppraisalPolicy


class Explainer:
    """Explains to operators why a guest was refused.

    Args:
        policy: the policy in force; evaluated for guests that were refused without it.
    """

    def __init__(self, history: History, policy: AppraisalPolicy) -> None:
        self._history = history
        self._policy = policy

    async def explain(self, caller: Caller, appraisal_id: str) -> Judgement:
        """Return a judgement with every failed rule.

        Args:
            appraisal_id: id of the appraisal, or a prefix; empty for the last guest that was not
                accepted.

        Raises:
            NotAuthorized, NotFound, RequestError: see `History.find_by_prefix`.
        """
        judgement = self._history.find_by_prefix(caller, appraisal_id)
        if not judgement.policy_skipped or judgement.tee is None:
            return judgement
        failures = await _failures(self._policy, judgement.tee, judgement.claims)
        if judgement.withheld:
            failures = _without_own_reasons(failures, judgement.withheld)
        return replace(judgement, reasons=_united(judgement.reasons, failures))


async def explain_appraisal(policy: AppraisalPolicy, appraisal: Appraisal) -> Appraisal:
    """Return the appraisal with every failed rule, including those of the policy."""
    evidence, refusal = appraisal.evidence, appraisal.refusal
    if not appraisal.policy_skipped or evidence is None or refusal is None:
        return appraisal
    failures = await _failures(policy, evidence.tee, evidence.claims)
    reasons = _united(refusal.reasons, failures)
    return replace(appraisal, refusal=type(refusal)(str(refusal), reasons=reasons))


async def _failures(
    policy: AppraisalPolicy, tee: str, claims: Mapping[str, JsonValue]
) -> tuple[Reason, ...]:
    """Return every failed rule, or why the policy cannot be evaluated."""
    try:
        return await policy.failures(tee, claims)
    except PolicyUnavailable as error:
        return (Reason(error.rule, "", "", str(error), kind=error.kind),)


def _united(faults: tuple[Reason, ...], failures: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Return the faults, then the failed rules of the policy that are not faults."""
    rules = {fault.rule for fault in faults}
    return faults + tuple(failure for failure in failures if failure.rule not in rules)


def _without_own_reasons(
    failures: tuple[Reason, ...], withheld: tuple[str, ...]
) -> tuple[Reason, ...]:
    """Replace the reasons from the policy itself: they may only be due to the withheld claims."""
    names = ", ".join(withheld)
    unknown = Reason(
        "policy",
        "",
        "",
        f"policy: its own rules are not evaluated, because {names} of this guest is not stored",
        kind=ReasonKind.POLICY,
    )
    compared = tuple(reason for reason in failures if reason.kind is not ReasonKind.POLICY)
    return (*compared, unknown)
