"""Explanation of refusals with the rules of the policy, evaluated when an operator requests it.

A guest with a fault (a debug TD, an event log of another boot) is refused before its policy is
evaluated, because it is refused anyway and could repeat that at any rate. An operator still
wants to see every failed rule, so the policy is evaluated here, for the claims that were
verified.
"""

from __future__ import annotations

from dataclasses import replace

from verdictd_py.broker.history import History, Judgement
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import Caller
from verdictd_py.errors import Reason, ReasonKind
from verdictd_py.ports import AppraisalPolicy


class Explainer:
    """Explains to operators why a guest was refused.

    Args:
        policy: the policy in force; evaluated for guests that were refused without it.
    """

    def __init__(self, history: History, policy: AppraisalPolicy) -> None:
        self._history = history
        self._policy = policy

    async def explain(self, caller: Caller, which: str) -> Judgement:
        """Return a judgement with every failed rule.

        Args:
            which: id of the appraisal; empty for the last guest that was not accepted.

        Raises:
            NotAuthorized, NotFound: see `History.find`.
        """
        judgement = self._history.find(caller, which)
        if not judgement.policy_skipped or judgement.tee is None:
            return judgement
        failures = await self._policy.failures(judgement.tee, judgement.claims)
        if judgement.withheld:
            failures = _without_policys_own(failures, judgement.withheld)
        return replace(judgement, reasons=_united(judgement.reasons, failures))


async def explain_appraisal(policy: AppraisalPolicy, appraisal: Appraisal) -> Appraisal:
    """Return the appraisal with every failed rule, the policy's included."""
    evidence, refusal = appraisal.evidence, appraisal.refusal
    if not appraisal.policy_skipped or evidence is None or refusal is None:
        return appraisal
    failures = await policy.failures(evidence.tee, evidence.claims)
    reasons = _united(refusal.reasons, failures)
    return replace(appraisal, refusal=type(refusal)(str(refusal), reasons=reasons))


def _united(faults: tuple[Reason, ...], failures: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Return each failed rule once: the faults, then rules of the policy that are not faults."""
    rules = {fault.rule for fault in faults}
    return faults + tuple(failure for failure in failures if failure.rule not in rules)


def _without_policys_own(
    failures: tuple[Reason, ...], withheld: tuple[str, ...]
) -> tuple[Reason, ...]:
    """Replace the policy's own reasons, which may have failed only for want of these claims."""
    names = ", ".join(withheld)
    unknown = Reason(
        "policy",
        "",
        "",
        f"policy: its further rules are not evaluated: {names} of this guest is not stored",
        kind=ReasonKind.POLICY,
    )
    compared = tuple(reason for reason in failures if reason.kind is not ReasonKind.POLICY)
    return (*compared, unknown)
