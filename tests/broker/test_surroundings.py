"""What an appraisal adds to a verified quote, and what it records for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha384

import pytest

from tests.support.eventlogs import command_line, event, written
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
from verdictd_py.broker.history import History
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.evidence import Evidence, InitData, VerifiedEvidence
from verdictd_py.domain.trust import TrustVector
from verdictd_py.errors import (
    BindingMismatch,
    CollateralUnavailable,
    EventLogRefused,
    EvidenceFormat,
    EvidenceMissing,
    InitDataRefused,
    Reason,
    ReasonKind,
)
from verdictd_py.formats.eventlog import EventLog
from verdictd_py.ports import Tees
from verdictd_py.tees.tdx import tee as tdx

ADDRESS = "192.0.2.1:5"
OPERATOR = Caller("operator", ROLES["operator"])
AFFIRMING: TrustVector = {"hardware": 2, "executables": 2}
DEBUG = Reason("debug", "true", "false", "debug: it can be debugged", kind=ReasonKind.ATTRIBUTES)
REVOKED = Reason("tcbStatus", "Revoked", "", "tcbStatus: revoked", kind=ReasonKind.TCB)
LOG = (command_line(b"quiet root=/dev/vda"), event(4, 0xD, b"what runs later"))
REGISTERS = {name: value.hex() for name, value in EventLog(LOG, tdx.REGISTERS).replay().items()}
INIT_DATA = InitData("toml", 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\nwho = "me"')


def reads(evidence: Evidence | Exception = EVIDENCE) -> Callable[[datetime], Evidence]:
    def read(now: datetime) -> Evidence:
        assert now == NOW
        if isinstance(evidence, Exception):
            raise evidence
        return evidence

    return read


def appraiser(
    verified: VerifiedEvidence | Exception = VERIFIED,
    policy: ScriptedPolicy | None = None,
    *,
    tees: Tees = TEES,
    history: History | None = None,
    served: tuple[str, ...] = ("tdx",),
) -> Appraiser:
    """Return an appraiser without any of the options that weaken it."""
    return Appraiser(
        verifiers=dict.fromkeys(served, ScriptedVerifier(verified)),
        tees=tees,
        policy=policy or ScriptedPolicy(),
        clock=lambda: NOW,
        events=RecordedEvents(),
        history=history,
    )


def without_init_data(tees: Tees) -> Tees:
    return Tees(tuple(replace(tee, init_data=None) for tee in tees))


async def test_without_options_a_guest_without_evidence_is_refused() -> None:
    missing = EvidenceMissing("the certificate carries no evidence")
    appraisal = await appraiser().admit(reads(missing), address=ADDRESS)
    assert appraisal.refusal is missing
    assert appraiser().serves("tdx")
    assert not appraiser().serves("sgx")


async def test_without_options_every_register_must_replay() -> None:
    claims = {**VERIFIED.claims, **REGISTERS, "rtmr3": "ee" * 48}
    evidence = replace(EVIDENCE, event_log=written(*LOG))
    appraisal = await appraiser(replace(VERIFIED, claims=claims)).appraise(reads(evidence))
    assert isinstance(appraisal.refusal, EventLogRefused)
    assert [reason.measured for reason in appraisal.reasons] == ["ee" * 48]


async def test_a_register_that_the_guest_does_not_report_does_not_replay() -> None:
    claims = {name: value for name, value in REGISTERS.items() if name != "rtmr3"}
    evidence = replace(EVIDENCE, event_log=written(*LOG))
    for more in ({}, {"rtmr3": 7}, {"rtmr3": None}):
        verified = replace(VERIFIED, claims={**claims, **more})
        appraisal = await appraiser(verified).appraise(reads(evidence))
        assert isinstance(appraisal.refusal, EventLogRefused)
        (reason,) = appraisal.reasons
        assert (reason.measured, reason.expected) == ("", REGISTERS["rtmr3"])


async def test_an_appraiser_that_accepts_every_guest_serves_every_tee() -> None:
    history = History()
    accepting = Appraiser(
        verifiers={},
        tees=TEES,
        policy=ScriptedPolicy((DEBUG,)),
        clock=lambda: NOW,
        events=RecordedEvents(),
        history=history,
        insecure_accept_anyone=True,
    )
    assert accepting.serves("tdx")
    first, second = [await accepting.admit(reads(), address=ADDRESS) for _ in range(2)]
    assert first.id != second.id
    assert first.at == NOW
    judgement = history.find(OPERATOR, first.id)
    assert (judgement.at, judgement.address, judgement.measurements) == (NOW, ADDRESS, ())


async def test_only_an_accepted_guest_is_rated() -> None:
    rated: list[VerifiedEvidence] = []

    async def trust(verified: VerifiedEvidence) -> TrustVector:
        rated.append(verified)
        return AFFIRMING

    for policy, trusted in ((ScriptedPolicy(), True), (ScriptedPolicy((DEBUG,)), False)):
        judge = Appraiser(
            verifiers={"tdx": ScriptedVerifier()},
            tees=TEES,
            policy=policy,
            clock=lambda: NOW,
            events=RecordedEvents(),
            trust=trust,
        )
        appraisal = await judge.admit(reads(), address=ADDRESS)
        assert appraisal.accepted is trusted
        assert (appraisal.trust == AFFIRMING) is trusted
    assert [found.claims["mrTd"] for found in rated] == ["ab"]


async def test_operators_see_when_and_from_where_a_guest_was_appraised() -> None:
    history = History()
    appraisal = await appraiser(history=history).admit(reads(), address=ADDRESS)
    judgement = history.find(OPERATOR, appraisal.id)
    assert (judgement.at, judgement.address) == (NOW, ADDRESS)
    assert judgement.measurements == TEES.measurements("tdx")
    later = CollateralUnavailable("no collateral now")
    with pytest.raises(CollateralUnavailable):
        await appraiser(later, history=history).admit(reads(), address=ADDRESS)
    judgement = history.find(OPERATOR, "")
    assert (judgement.at, judgement.address, judgement.code) == (NOW, ADDRESS, later.code)


async def test_a_refusal_says_whether_the_policy_was_evaluated() -> None:
    """For a guest with a fault `explanation` evaluates it when the operator requests that."""
    for verified, failures, skipped in (
        (replace(VERIFIED, faults=(DEBUG,)), (), True),
        (VERIFIED, (DEBUG,), False),
        (VERIFIED, (), False),
    ):
        appraisal = await appraiser(verified, ScriptedPolicy(failures)).appraise(reads())
        assert appraisal.policy_skipped is skipped


@pytest.mark.parametrize(("served", "said"), [(("tdx", "sample"), "sample, tdx"), ((), "nothing")])
async def test_evidence_of_another_tee_is_refused_with_those_that_are_served(
    served: tuple[str, ...], said: str
) -> None:
    appraisal = await appraiser(served=served).appraise(reads(replace(EVIDENCE, tee="sgx")))
    assert str(appraisal.refusal) == f"evidence of sgx is not served here (served: {said})"


async def test_a_revoked_tcb_is_one_fault_next_to_the_others() -> None:
    claims = {"tcbStatus": "Revoked"}
    for faults, rules in (
        ((), ["tcbStatus"]),
        ((DEBUG,), ["debug", "tcbStatus"]),
        ((REVOKED,), ["tcbStatus"]),
        ((REVOKED, DEBUG), ["tcbStatus", "debug"]),
    ):
        appraisal = await appraiser(replace(VERIFIED, claims=claims, faults=faults)).appraise(
            reads()
        )
        assert [reason.rule for reason in appraisal.reasons] == rules


async def test_the_reason_of_another_binding_has_every_accepted_spelling() -> None:
    evidence = replace(EVIDENCE, binding=b"\x01\x02", other_bindings=(b"\x03",))
    appraisal = await appraiser().appraise(reads(evidence))
    assert isinstance(appraisal.refusal, BindingMismatch)
    (reason,) = appraisal.reasons
    assert (reason.measured, reason.expected) == (VERIFIED.report_data[:2].hex(), "0102 or 03")


async def test_devices_that_no_verifier_knows_are_claims() -> None:
    policy = ScriptedPolicy()
    evidence = replace(EVIDENCE, devices=("nvidia", "nvidia"))
    await appraiser(policy=policy).appraise(reads(evidence))
    ((_, claims),) = policy.asked
    assert claims == {
        **VERIFIED.claims,
        "initData": None,
        "unverifiedDevices": ["nvidia", "nvidia"],
    }


async def test_a_tee_that_measures_no_init_data_has_no_such_claim() -> None:
    policy = ScriptedPolicy()
    await appraiser(policy=policy, tees=without_init_data(TEES)).appraise(reads())
    assert policy.asked == [("tdx", VERIFIED.claims)]


async def test_init_data_of_a_guest_that_proves_nothing_is_a_claim() -> None:
    sample = replace(VERIFIED, tee="sample")
    evidence = replace(EVIDENCE, tee="sample", init_data=INIT_DATA)
    appraisal = await appraiser(sample, served=("sample",)).appraise(reads(evidence))
    assert appraisal.accepted
    assert appraisal.claims["initData"] == {
        "version": "0.1.0",
        "algorithm": "sha384",
        "data": {"who": "me"},
    }


async def test_init_data_of_another_guest_is_refused_by_the_claim_that_measures_it() -> None:
    verified = replace(VERIFIED, claims={"mrConfigId": "aa" * 48})
    appraisal = await appraiser(verified).appraise(reads(replace(EVIDENCE, init_data=INIT_DATA)))
    assert isinstance(appraisal.refusal, InitDataRefused)
    (reason,) = appraisal.reasons
    expected = sha384(INIT_DATA.body.encode()).hexdigest()
    assert (reason.measured, reason.expected) == ("aa" * 48, expected)
    assert reason.text.endswith(f"but mrConfigId measured {'aa' * 48}")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"event_log": written(*LOG)}, "an event log of tdx is not served here"),
        ({"init_data": INIT_DATA}, "init-data of tdx is not served here"),
    ],
)
async def test_what_an_unknown_tee_does_not_measure_is_refused(
    more: Mapping[str, object], said: str
) -> None:
    unknown = Tees((TEES.named("sgx"),))
    appraisal = await appraiser(tees=unknown).appraise(reads(replace(EVIDENCE, **more)))  # type: ignore[arg-type]
    assert isinstance(appraisal.refusal, EvidenceFormat)
    assert str(appraisal.refusal) == said
    plain: Appraisal = await appraiser(tees=unknown).appraise(reads())
    assert plain.accepted
