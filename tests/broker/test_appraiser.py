"""The appraiser: its steps, their order, and its records."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha384

import pytest

from tests.support.clock import elapse
from tests.support.eventlogs import command_line, event, written
from tests.support.events import RecordedEvents
from tests.support.memory import (
    BINDING,
    EVIDENCE,
    NOW,
    REPORT_DATA,
    VERIFIED,
    ScriptedPolicy,
    ScriptedVerifier,
)
from tests.support.tees import TEES
from verdictd_py import errors
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import GuestAccepted, GuestNotJudged, GuestRefused
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.evidence import Evidence, InitData, RefusedEvidence, VerifiedEvidence
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AppraisalTimeout,
    AttestationError,
    AuditUnavailable,
    BindingMismatch,
    CollateralExpired,
    CollateralUnavailable,
    EventLogRefused,
    EvidenceFormat,
    EvidenceMissing,
    InitDataRefused,
    InternalError,
    PolicyRefused,
    Reason,
    ReasonKind,
    StorageError,
    TcbStatusRefused,
)
from verdictd_py.formats.eventlog import EventLog
from verdictd_py.tees.tdx import tee as tdx

ADDRESS = "192.0.2.1:5"
REFUSALS = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, AttestationError)
]
MR_TD = Reason("mrTd", "ab", "cd", "mrTd: measured ab, expected cd", kind=ReasonKind.MEASUREMENT)
RTMR1 = Reason("rtmr1", "12", "34", "rtmr1: measured 12, expected 34", kind=ReasonKind.MEASUREMENT)
DEBUG = Reason(
    "debug", "true", "false", "debug: the TD can be debugged", kind=ReasonKind.ATTRIBUTES
)
REVOKED = Reason(
    "tcbStatus", "Revoked", "", "tcbStatus: Revoked is never accepted", kind=ReasonKind.TCB
)
UNCLASSIFIED = replace(REVOKED, kind=ReasonKind.OTHER)


def appraiser(
    verifier: ScriptedVerifier | None = None,
    policy: ScriptedPolicy | None = None,
    events: RecordedEvents | None = None,
    *,
    insecure_accept_anyone: bool = False,
    allow_unlogged: bool = False,
    history: History | None = None,
    seconds: float | None = None,
) -> Appraiser:
    return Appraiser(
        tees=TEES,
        verifiers={"tdx": verifier or ScriptedVerifier()},
        policy=policy or ScriptedPolicy(),
        clock=lambda: NOW,
        events=events or RecordedEvents(),
        insecure_accept_anyone=insecure_accept_anyone,
        allow_unlogged=allow_unlogged,
        history=history,
        seconds=seconds,
    )


def reads(evidence: Evidence | Exception) -> Callable[[datetime], Evidence]:
    def read(now: datetime) -> Evidence:
        assert now == NOW
        if isinstance(evidence, Exception):
            raise evidence
        return evidence

    return read


def refused(appraisal: Appraisal) -> AttestationError:
    """Return the refusal, after a check that the appraisal yields no peer."""
    assert not appraisal.accepted
    with pytest.raises(AttestationError) as error:
        AppraisedPeer.of(appraisal, address=ADDRESS)
    return error.value


async def test_a_guest_that_every_step_accepts_is_accepted() -> None:
    verifier, policy, events = ScriptedVerifier(), ScriptedPolicy(), RecordedEvents()
    appraisal = await appraiser(verifier, policy, events).admit(reads(EVIDENCE), address=ADDRESS)
    assert appraisal.accepted
    assert verifier.asked == [(EVIDENCE, NOW)]
    claims = {**VERIFIED.claims, "initData": None}
    assert policy.asked == [("tdx", claims)]
    peer = AppraisedPeer.of(appraisal, address=ADDRESS)
    assert (peer.tee, peer.appraisal_id, peer.claims) == ("tdx", appraisal.id, claims)
    assert events.events == [
        GuestAccepted(
            peer=ADDRESS,
            appraisal=appraisal.id,
            code="ok",
            tee="tdx",
            form="test",
            tcb_status="UpToDate",
            evidence=VERIFIED.digest,
            reasons=(),
        )
    ]


async def test_each_appraisal_has_its_own_id() -> None:
    judge = appraiser().appraise
    assert len({(await judge(reads(EVIDENCE))).id for _ in range(10)}) == 10


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("where", ["reading", "verifying", "policy"])
async def test_a_refusal_by_any_step_refuses_the_guest(
    kind: type[AttestationError], where: str
) -> None:
    """defects.md 7: absent, broken or unverified evidence never falls back to anything."""
    error = kind("no", reasons=(MR_TD,))
    verifier = ScriptedVerifier(error if where == "verifying" else VERIFIED)
    policy = ScriptedPolicy(error if where == "policy" else ())
    events = RecordedEvents()
    appraisal = await appraiser(verifier, policy, events).admit(
        reads(error if where == "reading" else EVIDENCE), address=ADDRESS
    )
    assert refused(appraisal) is error
    assert (appraisal.code, appraisal.reasons) == (kind.code, (MR_TD,))
    assert len(verifier.asked) == (where != "reading")
    assert len(policy.asked) == (where == "policy")
    assert (appraisal.evidence is None) == (where != "policy")
    assert appraisal.tee is (None if where == "reading" else "tdx")
    (event,) = events.events
    assert isinstance(event, GuestRefused)
    assert (event.code, event.peer, event.reasons) == (kind.code, ADDRESS, (MR_TD.text,))


async def test_a_refusal_after_the_signatures_has_claims_and_no_evaluation() -> None:
    """The guest is refused, is not bound to a channel and cannot be pinned."""
    refusal = CollateralExpired("the collateral is outside its validity")
    verifier, policy, history = ScriptedVerifier(), ScriptedPolicy(), History()
    verifier.answer = RefusedEvidence(refusal, VERIFIED)
    appraisal = await appraiser(verifier, policy, history=history).admit(
        reads(EVIDENCE), address=ADDRESS
    )
    assert refused(appraisal) is refusal
    assert (appraisal.evidence, appraisal.bound) == (VERIFIED, False)
    assert not policy.asked
    judgement = history.find(Caller("operator", frozenset({Right.MANAGE})), appraisal.id)
    assert judgement.verdict is Verdict.UNVERIFIED
    assert judgement.claims == VERIFIED.claims
    assert judgement.not_pinnable


async def test_without_evidence_no_verifier_and_no_policy_runs() -> None:
    """defects.md 7."""
    verifier, policy = ScriptedVerifier(), ScriptedPolicy()
    missing = EvidenceMissing("the certificate carries no evidence")
    appraisal = await appraiser(verifier, policy).appraise(reads(missing))
    assert refused(appraisal) is missing
    assert not verifier.asked
    assert not policy.asked


@pytest.mark.parametrize("tee", ["sgx", "none", "csv"])
async def test_a_tee_that_is_not_served(tee: str) -> None:
    verifier = ScriptedVerifier()
    appraisal = await appraiser(verifier).appraise(reads(replace(EVIDENCE, tee=tee)))
    error = refused(appraisal)
    assert type(error) is EvidenceFormat
    assert str(error) == f"evidence of {tee} is not served here (served: tdx)"
    assert appraisal.tee is tee
    assert not verifier.asked


@pytest.mark.parametrize(
    "binding",
    [
        b"",
        b"another key",
        BINDING[:-1] + b"x",
        REPORT_DATA + b"\0",
        bytes(32),
    ],
)
async def test_evidence_for_another_key_is_refused(binding: bytes) -> None:
    """An empty binding would be a prefix of any report data, so it is refused."""
    policy = ScriptedPolicy()
    appraisal = await appraiser(policy=policy).appraise(reads(replace(EVIDENCE, binding=binding)))
    error = refused(appraisal)
    assert type(error) is BindingMismatch
    assert [reason.rule for reason in error.reasons] == ["reportData"]
    assert binding.hex() in error.reasons[0].expected
    assert binding.hex() == "" or binding.hex() not in str(error)  # peers read this
    assert not appraisal.bound
    assert not policy.asked
    assert appraisal.evidence is VERIFIED


@pytest.mark.parametrize("binding", [REPORT_DATA, BINDING, BINDING[:20]])
async def test_report_data_must_begin_with_the_binding(binding: bytes) -> None:
    appraisal = await appraiser().appraise(reads(replace(EVIDENCE, binding=binding)))
    assert appraisal.bound


async def test_unbound_evidence_is_appraised_and_yields_no_peer() -> None:
    appraisal = await appraiser().appraise(reads(replace(EVIDENCE, binding=None)))
    assert appraisal.accepted
    assert not appraisal.bound
    with pytest.raises(ValueError, match="not bound to a channel"):
        AppraisedPeer.of(appraisal, address=ADDRESS)


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ((DEBUG,), PolicyRefused),
        ((REVOKED,), TcbStatusRefused),
        ((UNCLASSIFIED,), PolicyRefused),
        ((DEBUG, REVOKED), PolicyRefused),
    ],
)
async def test_a_guest_with_a_fault_costs_no_evaluation_of_the_policy(
    faults: tuple[Reason, ...], kind: type[AttestationError]
) -> None:
    """defects.md 9: no policy accepts a fault. A thousand such guests evaluate no policy."""
    verifier = ScriptedVerifier(replace(VERIFIED, faults=faults))
    policy = ScriptedPolicy((MR_TD,))
    for _ in range(1000):
        error = refused(await appraiser(verifier, policy).appraise(reads(EVIDENCE)))
    assert type(error) is kind
    assert error.reasons == faults
    assert str(error).endswith(": " + ", ".join(fault.rule for fault in faults))
    assert not policy.asked


async def test_a_refusal_by_the_policy_names_every_rule() -> None:
    """defects.md 17."""
    policy = ScriptedPolicy((MR_TD, RTMR1))
    error = refused(await appraiser(policy=policy).appraise(reads(EVIDENCE)))
    assert type(error) is PolicyRefused
    assert error.reasons == (MR_TD, RTMR1)
    assert str(error) == "refused by policy: mrTd, rtmr1"  # values are for the operator only
    assert len(policy.asked) == 1


async def test_a_revoked_tcb_is_a_fault_whatever_the_verifier_reports() -> None:
    """The TEE defines which TCB is revoked; its verifier need not add the fault."""
    policy, verifier = ScriptedPolicy(), ScriptedVerifier()
    verifier.answer = replace(VERIFIED, claims={"tcbStatus": "Revoked"}, tcb_status="Revoked")
    error = refused(await appraiser(verifier, policy).appraise(reads(EVIDENCE)))
    assert type(error) is TcbStatusRefused
    assert [reason.rule for reason in error.reasons] == ["tcbStatus"]
    assert not policy.asked


async def test_a_guest_that_cannot_be_appraised_is_neither_accepted_nor_refused() -> None:
    events = RecordedEvents()
    later = CollateralUnavailable("no collateral for this platform; try again later")
    judge = appraiser(ScriptedVerifier(later), events=events)
    with pytest.raises(CollateralUnavailable) as raised:
        await judge.appraise(reads(EVIDENCE))
    assert raised.value is later
    assert events.events == []
    with pytest.raises(CollateralUnavailable):
        await judge.admit(reads(EVIDENCE), address=ADDRESS)
    (event,) = events.events
    assert isinstance(event, GuestNotJudged)
    assert event.appraisal
    assert (event.peer, event.code) == (ADDRESS, "collateral-unavailable")
    assert event.reason == str(later)


async def test_an_appraisal_that_takes_too_long_is_recorded_by_its_id() -> None:
    class Slow(ScriptedVerifier):
        async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
            await asyncio.Event().wait()
            raise AssertionError

    events, history = RecordedEvents(), History()
    judge = appraiser(Slow(), events=events, history=history, seconds=60)
    admitting = asyncio.create_task(judge.admit(reads(EVIDENCE), address=ADDRESS))
    await elapse(60)
    with pytest.raises(AppraisalTimeout) as raised:
        await admitting
    assert raised.value.text_for_guest == "not judged: timeout; try again later"
    (fields,) = events.named("guest.not-judged")
    assert (fields["peer"], fields["code"]) == (ADDRESS, "timeout")
    operator = Caller("operator", frozenset({Right.MANAGE}))
    judgement = history.find(operator, str(fields["appraisal"]))
    assert (judgement.verdict, judgement.reasons[0].rule) == (Verdict.UNVERIFIED, "appraisal")


async def test_an_appraisal_without_a_peer_is_not_recorded() -> None:
    """Offline appraisals are not of guests."""
    events = RecordedEvents()
    await appraiser(events=events).appraise(reads(EVIDENCE))
    assert events.events == []


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("claim"), AssertionError()])
@pytest.mark.parametrize("where", ["verifying", "policy"])
async def test_a_bug_is_never_a_verdict(error: Exception, where: str) -> None:
    answer: VerifiedEvidence | Exception = error if where == "verifying" else VERIFIED
    events = RecordedEvents()
    judge = appraiser(
        ScriptedVerifier(answer), ScriptedPolicy(error if where == "policy" else ()), events
    )
    with pytest.raises(InternalError) as caught:
        await judge.admit(reads(EVIDENCE), address=ADDRESS)
    assert caught.value.text_for_guest == "not judged: internal-error; try again later"
    (bug,), (judged,) = events.named("warning.bug"), events.named("guest.not-judged")
    assert bug["error"] == type(error).__name__
    assert str(bug["incident"]) in str(judged["reason"])


async def test_nullverifier_accepts_without_verifier_and_policy() -> None:
    """defects.md 7: only if the operator named it."""
    verifier, policy, events = ScriptedVerifier(), ScriptedPolicy((MR_TD,)), RecordedEvents()
    judge = appraiser(verifier, policy, events, insecure_accept_anyone=True)
    missing = EvidenceMissing("the certificate carries no evidence")
    appraisal = await judge.admit(reads(missing), address=ADDRESS)
    peer = AppraisedPeer.of(appraisal, address=ADDRESS)
    assert (peer.tee, dict(peer.claims)) == ("none", {})
    assert not verifier.asked
    assert not policy.asked
    (fields,) = events.named("guest.accepted")
    assert (fields["tee"], fields["form"], fields["evidence"]) == ("none", "none", None)


class FullTrail(RecordedEvents):
    """Events whose audit trail cannot be written."""

    async def commit(self, *events: Event) -> None:
        raise StorageError(f"the audit trail cannot be written: {len(events)} records")


async def test_nullverifier_accepts_no_peer_without_a_record() -> None:
    history = History()
    judge = appraiser(events=FullTrail(), insecure_accept_anyone=True, history=history)
    with pytest.raises(AuditUnavailable):
        await judge.admit(reads(EVIDENCE), address=ADDRESS)
    assert history.problems(Caller("uid 0", frozenset({Right.MANAGE})))


async def test_nullverifier_does_not_apply_to_offline_appraisal() -> None:
    judge = appraiser(policy=ScriptedPolicy((MR_TD,)), insecure_accept_anyone=True)
    assert type(refused(await judge.appraise(reads(EVIDENCE)))) is PolicyRefused


BOOT = (
    command_line(b"quiet root=/dev/vda"),
    event(1, 0x80000007, b"Calling EFI Application from Boot Option"),
)
REGISTERS = EventLog(BOOT, tdx.REGISTERS).replay()
BOOTED = dataclasses.replace(
    VERIFIED, claims={**VERIFIED.claims, **{name: each.hex() for name, each in REGISTERS.items()}}
)


async def judged_with_log(
    log: bytes, verified: VerifiedEvidence = BOOTED, policy: ScriptedPolicy | None = None
) -> Appraisal:
    judge = appraiser(ScriptedVerifier(verified), policy)
    return await judge.appraise(reads(dataclasses.replace(EVIDENCE, event_log=log)))


async def test_an_event_log_that_replays_reaches_the_policy_as_claims() -> None:
    policy = ScriptedPolicy()
    judge = appraiser(ScriptedVerifier(BOOTED), policy)
    evidence = dataclasses.replace(EVIDENCE, event_log=written(*BOOT))
    appraisal = await judge.appraise(reads(evidence))
    assert appraisal.accepted
    ((_, claims),) = policy.asked
    proved = claims["eventLog"]
    assert isinstance(proved, dict)
    assert proved["kernelCommandLine"] == "quiet root=/dev/vda"
    assert "eventLog" not in (await judge.appraise(reads(EVIDENCE))).claims


@pytest.mark.parametrize(
    "log",
    [
        written(BOOT[0]),
        written(*BOOT, command_line(b"more")),
        written(event(3, 0xD, b"kernel_cmdline: good\0", b"quiet root=/dev/vda"), BOOT[1]),
        written(),
    ],
)
async def test_an_event_log_that_does_not_replay_is_refused_and_never_pinned(log: bytes) -> None:
    policy = ScriptedPolicy()
    appraisal = await judged_with_log(log, policy=policy)
    assert isinstance(refused(appraisal), EventLogRefused)
    assert not policy.asked
    assert {reason.rule for reason in appraisal.reasons} == {"eventLog"}
    assert Judgement.of(appraisal, ADDRESS, TEES.measurements("tdx")).not_pinnable.endswith(
        ": event-log"
    )


async def test_rtmr3_may_be_extended_later_if_the_operator_allows_it() -> None:
    """In that case, no event of RTMR3 is a claim, because it is not proved."""
    later = event(4, 0xD, b"what runs later")
    log = written(*BOOT, later)
    claims = {**BOOTED.claims, "rtmr3": "ee" * 48}
    measured = dataclasses.replace(BOOTED, claims=claims)
    evidence = dataclasses.replace(EVIDENCE, event_log=log)
    strict = await appraiser(ScriptedVerifier(measured)).appraise(reads(evidence))
    assert [reason.text.split(":")[0] for reason in strict.reasons] == ["rtmr3"]
    lax = appraiser(ScriptedVerifier(measured), allow_unlogged=True)
    appraisal = await lax.appraise(reads(evidence))
    assert appraisal.accepted
    proved = appraisal.claims["eventLog"]
    assert isinstance(proved, dict)
    assert later.digest.hex() not in json.dumps(proved)
    assert proved["kernelCommandLine"] == "quiet root=/dev/vda"
    other = dataclasses.replace(measured, claims={**claims, "rtmr1": "ee" * 48})
    still = appraiser(ScriptedVerifier(other), allow_unlogged=True)
    assert not (await still.appraise(reads(evidence))).accepted


@pytest.mark.parametrize("index", [0, 5, 77])
async def test_an_event_of_no_register_is_not_a_claim(index: int) -> None:
    """It is not replayed, so an attacker could have added it to the log."""
    stray = event(index, 0xD, b"not measured")
    appraisal = await judged_with_log(written(*BOOT, stray))
    assert appraisal.accepted
    assert stray.digest.hex() not in json.dumps(appraisal.claims["eventLog"])


@pytest.mark.parametrize("is_its_own", [True, False])
async def test_init_data_reaches_the_policy_once_its_digest_was_measured(is_its_own: bool) -> None:
    """The content of another guest's init-data is not a claim, and no policy is evaluated."""
    body = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\nwho = "me"'
    digest = sha384(body.encode()).hexdigest() if is_its_own else "aa" * 48
    verified = dataclasses.replace(VERIFIED, claims={**VERIFIED.claims, "mrConfigId": digest})
    policy = ScriptedPolicy()
    evidence = dataclasses.replace(EVIDENCE, init_data=InitData("toml", body))
    appraisal = await appraiser(ScriptedVerifier(verified), policy).appraise(reads(evidence))
    document: JsonValue = {
        "version": "0.1.0",
        "algorithm": "sha384",
        "data": {"who": "me"},
    }
    assert appraisal.claims["initData"] == (document if is_its_own else None)
    assert [claims for _, claims in policy.asked] == ([appraisal.claims] if is_its_own else [])
    assert appraisal.accepted is is_its_own
    if not is_its_own:
        assert isinstance(refused(appraisal), InitDataRefused)


async def test_init_data_of_a_tee_that_does_not_measure_it_is_refused() -> None:
    """Nothing in the evidence would prove it, but a policy would trust it."""
    sgx = dataclasses.replace(VERIFIED, tee="sgx")
    body = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\nwho = "me"'
    policy = ScriptedPolicy()
    evidence = dataclasses.replace(EVIDENCE, init_data=InitData("toml", body))
    appraisal = await appraiser(ScriptedVerifier(sgx), policy).appraise(reads(evidence))
    error = refused(appraisal)
    assert type(error) is EvidenceFormat
    assert str(error) == "init-data of sgx is not served here"
    assert not policy.asked


async def test_data_that_is_not_an_event_log_is_refused() -> None:
    assert type(refused(await judged_with_log(b"junk"))) is EvidenceFormat
    sgx = dataclasses.replace(VERIFIED, tee="sgx")
    assert type(refused(await judged_with_log(written(*BOOT), sgx))) is EvidenceFormat


async def test_the_history_does_not_store_the_events_of_a_boot() -> None:
    appraisal = await judged_with_log(written(*BOOT))
    assert "eventLog" in appraisal.claims
    assert "eventLog" not in Judgement.of(appraisal, ADDRESS, TEES.measurements("tdx")).claims
