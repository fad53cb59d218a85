"""Explanations of refusals: the policy is evaluated when an operator requests it, not before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.events import RecordedEvents
from tests.support.memory import (
    EVIDENCE,
    NOW,
    VERIFIED,
    ScriptedPolicy,
    ScriptedVerifier,
)
from tests.support.tees import TEES
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.explanation import Explainer, explain_appraisal
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    BindingMismatch,
    NotAuthorized,
    PolicyRefused,
    Reason,
    ReasonKind,
)

OPERATOR = Caller("operator", ROLES["operator"])
DEBUG = Reason("debug", "true", "false", "debug: the TD is open", kind=ReasonKind.ATTRIBUTES)
MR_TD = Reason("mrTd", "ab", "cd", "mrTd: differs", kind=ReasonKind.MEASUREMENT)
OWN = Reason("policy", "", "", "the rack is wrong", kind=ReasonKind.POLICY)
FAULTY = replace(VERIFIED, faults=(DEBUG,))


def appraiser(verified: VerifiedEvidence, policy: ScriptedPolicy, history: History) -> Appraiser:
    return Appraiser(
        tees=TEES,
        verifiers={"tdx": ScriptedVerifier(verified)},
        policy=policy,
        clock=lambda: NOW,
        events=RecordedEvents(),
        history=history,
    )


async def refused(
    policy: ScriptedPolicy, history: History, verified: VerifiedEvidence = FAULTY
) -> Appraisal:
    judge = appraiser(verified, policy, history)
    appraisal = await judge.admit(lambda _: EVIDENCE, address="192.0.2.1:5")
    assert not appraisal.accepted
    return appraisal


async def test_the_policy_is_evaluated_once_for_each_explanation_of_a_fault() -> None:
    policy, history = ScriptedPolicy((MR_TD, replace(DEBUG, text="again"))), History()
    appraisal = await refused(policy, history)
    assert (appraisal.reasons, policy.asked) == ((DEBUG,), [])
    explainer = Explainer(history, policy)
    for which in (appraisal.id, ""):
        judgement = await explainer.explain(OPERATOR, which)
        assert judgement.reasons == (DEBUG, MR_TD)
        assert judgement.not_pinnable
    assert policy.asked == [("tdx", appraisal.claims)] * 2
    assert history.find(OPERATOR, appraisal.id).reasons == (DEBUG,)


async def test_a_refusal_by_the_policy_is_not_evaluated_again() -> None:
    """The explanation has the rules that refused the guest, not those of the current policy."""
    policy, history = ScriptedPolicy((MR_TD,)), History()
    appraisal = await refused(policy, history, VERIFIED)
    policy.answer = ()
    judgement = await Explainer(history, policy).explain(OPERATOR, appraisal.id)
    assert judgement.reasons == (MR_TD,)
    assert len(policy.asked) == 1


async def test_unbound_evidence_evaluates_no_policy() -> None:
    policy, history = ScriptedPolicy((MR_TD,)), History()
    refusal = BindingMismatch("no")
    appraisal = Appraisal("id", NOW, "tdx", "test", FAULTY, bound=False, refusal=refusal)
    history.remember(Judgement.of(appraisal, "192.0.2.1:5", ()))
    judgement = await Explainer(history, policy).explain(OPERATOR, "id")
    assert judgement.reasons == refusal.reasons
    assert not policy.asked


async def test_only_operators_make_the_broker_evaluate() -> None:
    policy, history = ScriptedPolicy((MR_TD,)), History()
    appraisal = await refused(policy, history)
    with pytest.raises(NotAuthorized):
        await Explainer(history, policy).explain(Caller("farm", ROLES["wrap"]), appraisal.id)
    assert not policy.asked


@pytest.mark.parametrize("log", [None, {"events": []}])
async def test_rules_that_a_withheld_claim_may_decide_are_not_reported(log: JsonValue) -> None:
    """The event log is not stored, so that a rule that reads it would fail."""
    policy, history = ScriptedPolicy((MR_TD, OWN)), History()
    claims = {**FAULTY.claims, "eventLog": log}
    appraisal = await refused(policy, history, replace(FAULTY, claims=claims))
    judgement = await Explainer(history, policy).explain(OPERATOR, appraisal.id)
    *reasons, last = judgement.reasons
    assert reasons == [DEBUG, MR_TD]
    if log is None:
        assert last == OWN
        assert judgement.claims["eventLog"] is None
    else:
        assert "eventLog of this guest is not stored" in last.text
        assert "eventLog" not in judgement.claims


async def test_offline_a_refusal_names_every_rule() -> None:
    policy = ScriptedPolicy((MR_TD, replace(DEBUG, text="again")))
    appraisal = await refused(policy, History())
    complete = await explain_appraisal(policy, appraisal)
    assert complete.reasons == (DEBUG, MR_TD)
    assert type(complete.refusal) is PolicyRefused
    assert (complete.id, complete.code) == (appraisal.id, appraisal.code)
    assert len(policy.asked) == 1
    by_policy = await refused(policy, History(), VERIFIED)
    assert await explain_appraisal(policy, by_policy) is by_policy
    assert len(policy.asked) == 2
