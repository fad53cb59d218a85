"""The last judgements: bounded, separated by verdict, and pinnable or not."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import MAX_EARLIER, Judgement, Verdict
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AttestationError,
    BindingMismatch,
    CollateralExpired,
    CollateralUnavailable,
    NotAuthorized,
    NotFound,
    PolicyRefused,
    QuoteInvalid,
    Reason,
    ReasonKind,
    RequestError,
    TcbStatusRefused,
)

OPERATOR = Caller("operator", ROLES["operator"])
ADDRESS = "192.0.2.1:5"
RTMR1 = Reason(
    "rtmr1",
    "ab",
    "cd",
    "rtmr1: measured ab, expected one of cd",
    kind=ReasonKind.MEASUREMENT,
)
NAMED_AS_A_MEASUREMENT = replace(RTMR1, kind=ReasonKind.OTHER)
DEBUG = Reason("debug", "true", "false", "debug: measured true, expected false")


def appraisal(
    number: int = 0,
    refusal: AttestationError | None = None,
    evidence: VerifiedEvidence | None = VERIFIED,
    *,
    bound: bool = True,
) -> Appraisal:
    at = NOW + timedelta(seconds=number)
    return Appraisal(f"id{number}", at, "tdx", "test", evidence, bound=bound, refusal=refusal)


def judged(*of: Appraisal) -> tuple[Judgement, ...]:
    return tuple(Judgement.of(each, ADDRESS, TEES.measurements("tdx")) for each in of)


def policy_refused(*reasons: Reason) -> PolicyRefused:
    return PolicyRefused("refused by policy", reasons=reasons)


def test_each_verdict_is_bounded_and_evicts_only_its_own() -> None:
    """Any unauthenticated client can send quotes that do not verify."""
    history = History(capacity=2)
    (important,) = judged(appraisal(0, policy_refused(RTMR1)))
    history.remember(important)
    for number in range(1, 6):
        forged = appraisal(number, QuoteInvalid("no"), None, bound=False)
        replayed = appraisal(number + 10, BindingMismatch("no"), bound=False)
        for each in judged(forged, replayed, appraisal(number + 20)):
            history.remember(each)
    assert history.last(OPERATOR, Verdict.REFUSED, 0) == (important,)
    unverified = history.last(OPERATOR, Verdict.UNVERIFIED, 0)
    assert [each.id for each in unverified] == ["id15", "id5"]
    assert [each.id for each in history.last(OPERATOR, Verdict.ACCEPTED, 1)] == ["id25"]
    counts = {Verdict.REFUSED: 1, Verdict.UNVERIFIED: 10, Verdict.ACCEPTED: 5}
    assert history.counts(OPERATOR) == counts


def test_find_returns_a_judgement_by_its_id_or_the_last_refusal() -> None:
    history = History()
    with pytest.raises(NotFound, match="no guest was refused"):
        history.find(OPERATOR, "")
    first, second, third = judged(
        appraisal(1, policy_refused(RTMR1)), appraisal(2, QuoteInvalid("no"), None), appraisal(3)
    )
    for each in (second, first, third):  # whatever the order they came in
        history.remember(each)
    assert history.find(OPERATOR, "") is second
    assert history.find(OPERATOR, "id3") is third
    with pytest.raises(NotFound):
        history.find(OPERATOR, "id4")


def test_a_caller_without_the_right_sees_no_guest() -> None:
    history, caller = History(), Caller("farm", ROLES["wrap"])
    for ask in (
        lambda: history.find(caller, ""),
        lambda: history.last(caller, Verdict.REFUSED, 0),
        lambda: history.counts(caller),
    ):
        with pytest.raises(NotAuthorized):
            ask()


def test_a_guest_that_was_not_appraised_is_stored_too() -> None:
    later = CollateralUnavailable("there is no collateral for this platform now")
    judgement = Judgement.not_appraised(later, judgement_id="id", at=NOW, address=ADDRESS)
    assert judgement.verdict is Verdict.UNVERIFIED
    assert judgement.reasons[0].text == str(later)
    assert judgement.reasons[0].kind is ReasonKind.COLLATERAL
    assert judgement.not_pinnable


FAULTY = replace(VERIFIED, faults=(DEBUG,))
FAULTY_MEASUREMENT = replace(VERIFIED, faults=(RTMR1,))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (appraisal(), ""),
        (appraisal(refusal=policy_refused(RTMR1)), ""),
        (appraisal(refusal=policy_refused(RTMR1, DEBUG)), "debug"),
        (appraisal(refusal=policy_refused(NAMED_AS_A_MEASUREMENT)), "rtmr1"),
        (appraisal(refusal=policy_refused(Reason("policy", "", "", "not yet"))), "policy"),
        (appraisal(refusal=policy_refused(Reason("tcbStatus", "", "", ""), RTMR1)), "tcbStatus"),
        (appraisal(refusal=policy_refused(Reason("fmspc", "", "", ""))), "fmspc"),
        (appraisal(refusal=policy_refused(Reason("reportData", "", "", ""))), "reportData"),
        (appraisal(refusal=policy_refused(RTMR1), evidence=FAULTY), "debug"),
        (appraisal(refusal=policy_refused(RTMR1), evidence=FAULTY_MEASUREMENT), "rtmr1"),
        (appraisal(refusal=TcbStatusRefused("no")), "tcb-status"),
        (appraisal(refusal=CollateralExpired("no")), "collateral-expired"),
        (appraisal(refusal=QuoteInvalid("no"), evidence=None), "did not verify"),
        (appraisal(refusal=BindingMismatch("no"), bound=False), "not bound"),
        (appraisal(bound=False), "not bound"),
        (appraisal(evidence=None), "did not verify"),  # nullverifier accepts anybody
    ],
)
def test_only_guests_refused_for_measurements_alone_can_be_pinned(
    seen: Appraisal, said: str
) -> None:
    """The kinds of the reasons decide, not their names; a fault never leaves a guest pinnable."""
    (judgement,) = judged(seen)
    assert said in judgement.not_pinnable
    assert bool(judgement.not_pinnable) == bool(said)


def test_a_judgement_contains_no_exception_and_no_frames() -> None:
    """A judgement is stored for hours and must not retain a connection's memory."""
    try:
        raise policy_refused(RTMR1)
    except PolicyRefused as error:
        (judgement,) = judged(appraisal(refusal=error))
    values = [getattr(judgement, field.name) for field in dataclasses.fields(judgement)]
    assert not any(isinstance(value, BaseException) for value in values)


def test_claims_that_a_guest_makes_long_are_withheld_and_named() -> None:
    """A test of a policy with the stored claims must report that some are withheld."""
    long: dict[str, JsonValue] = {"eventLog": {"events": []}, "initData": None}
    evidence = replace(VERIFIED, claims={**VERIFIED.claims, **long})
    (judgement,) = judged(appraisal(evidence=evidence))
    assert judgement.claims == {**VERIFIED.claims, "initData": None}
    assert judgement.withheld == ("eventLog",)
    (judgement,) = judged(appraisal())
    assert judgement.withheld == ()


def refusals(*refused: AttestationError | None, addresses: tuple[str, ...] = ()) -> History:
    """Return a history of these appraisals in their order, each from another port."""
    history = History(capacity=3)
    for number, refusal in enumerate(refused):
        address = addresses[number] if addresses else f"192.0.2.1:{40_000 + number}"
        done = appraisal(number, refusal)
        history.remember(Judgement.of(done, address, TEES.measurements("tdx")))
    return history


def lines(history: History, verdict: Verdict = Verdict.REFUSED) -> list[tuple[str, int]]:
    return [(one.id, one.times) for one in history.last(OPERATOR, verdict, 0)]


def test_refusals_of_one_guest_in_a_row_are_one_line_with_a_count() -> None:
    """A refused guest tries again, with a new key from another port."""
    history = refusals(*[policy_refused(RTMR1)] * 5)
    ((name, times),) = lines(history)
    assert (name, times) == ("id4", 5)
    last = history.find(OPERATOR, "")
    assert (last.first_at, last.at) == (NOW, NOW + timedelta(seconds=4))
    assert history.counts(OPERATOR)[Verdict.REFUSED] == 5
    for number in range(5):  # the id that the guest printed is still one of a judgement
        assert history.find(OPERATOR, f"id{number}") is last


def test_other_reasons_begin_another_line() -> None:
    rtmr1, debug = policy_refused(RTMR1), policy_refused(RTMR1, DEBUG)
    history = refusals(rtmr1, rtmr1, debug, rtmr1)
    assert lines(history) == [("id3", 1), ("id2", 1), ("id1", 2)]


def timed(text: str, **members: str) -> Reason:
    """Return a reason about the evidence, whose values differ in each attempt."""
    values = {"rule": "pck-chain", "measured": "", "expected": "", **members}
    return Reason(**values, text=text, kind=ReasonKind.VERIFICATION)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            "not valid after 2026-11-27 17:00:00+00:00",
            "not valid after 2026-01-01 02:03:04.5+00:00",
        ),
        ("reportData is 00ab34cd56ef78ab, not ab12", "reportData is deadbeefdeadbeef, not ab12"),
        ("the clock is 3 minutes ahead", "the clock is 14 minutes ahead"),
    ],
)
def test_reasons_that_differ_by_time_or_random_data_are_one_line(first: str, second: str) -> None:
    reasons = timed(first, measured="2026-11-27"), timed(second, measured="2026-11-28")
    history = refusals(*(QuoteInvalid("no", reasons=(reason,)) for reason in reasons))
    assert lines(history) == [("id1", 2)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (timed("the signature is wrong"), timed("the certificate has expired")),
        (timed("event log of rtmr1"), timed("event log of rtmr2")),
        (timed("no"), timed("no", rule="signature")),
        (timed("no"), replace(timed("no"), kind=ReasonKind.FORMAT)),
        (replace(RTMR1, expected="12"), replace(RTMR1, expected="34")),
    ],
)
def test_reasons_that_differ_by_more_are_two_lines(first: Reason, second: Reason) -> None:
    history = refusals(*(PolicyRefused("no", reasons=(reason,)) for reason in (first, second)))
    assert lines(history) == [("id1", 1), ("id0", 1)]


def test_an_accepted_guest_that_is_refused_later_begins_another_line() -> None:
    refused = policy_refused(RTMR1)
    assert lines(refusals(refused, refused, None, refused)) == [("id3", 1), ("id1", 2)]


def test_an_acceptance_ends_the_row_of_unverified_guests_of_that_address() -> None:
    """Their evidence identifies no machine."""
    history = History()
    verified = replace(VERIFIED, platform="ab" * 32)
    for number, (refusal, evidence) in enumerate(
        [(QuoteInvalid("no"), None), (None, verified), (QuoteInvalid("no"), None)]
    ):
        done = appraisal(number, refusal, evidence)
        history.remember(Judgement.of(done, ADDRESS, TEES.measurements("tdx")))
    assert lines(history, Verdict.UNVERIFIED) == [("id2", 1), ("id0", 1)]


def test_accepted_guests_have_a_line_each() -> None:
    assert len(lines(refusals(None, None), Verdict.ACCEPTED)) == 2


def test_the_rows_of_two_guests_do_not_interrupt_each_other() -> None:
    addresses = ("192.0.2.1:1", "192.0.2.2:1") * 2
    history = refusals(*[policy_refused(RTMR1)] * 4, addresses=addresses)
    assert lines(history) == [("id3", 2), ("id2", 2)]


def test_a_row_whose_line_was_evicted_goes_on() -> None:
    refused = policy_refused(RTMR1)
    history = refusals(*[refused] * 5, addresses=tuple(f"192.0.2.{n}:1" for n in (1, 2, 3, 4, 1)))
    assert [name for name, _ in lines(history)] == ["id4", "id3", "id2"]


def test_the_number_of_ids_in_a_row_is_limited() -> None:
    history = refusals(*[policy_refused(RTMR1)] * (MAX_EARLIER + 5))
    last = history.find(OPERATOR, "")
    assert (last.times, len(last.earlier)) == (MAX_EARLIER + 5, MAX_EARLIER)
    with pytest.raises(NotFound):
        history.find(OPERATOR, "id0")


def test_a_unique_prefix_of_an_id_or_of_the_evidence_names_a_judgement() -> None:
    history = History()
    for judgement in judged(appraisal(12, policy_refused(RTMR1)), appraisal(13)):
        history.remember(judgement)
    assert history.find_by_prefix(OPERATOR, "id12").id == "id12"
    assert history.find_by_prefix(OPERATOR, "").id == "id12"  # the last that was not accepted
    with pytest.raises(RequestError) as ambiguous:
        history.find_by_prefix(OPERATOR, "id1")
    assert str(ambiguous.value).startswith("several guests begin with 'id1': id12, id13; ")
    with pytest.raises(RequestError, match="id12, id13"):  # both presented the same evidence
        history.find_by_prefix(OPERATOR, VERIFIED.digest[:8])
    with pytest.raises(NotFound):
        history.find_by_prefix(OPERATOR, "id2")
    with pytest.raises(NotFound):  # nothing is pinned by a prefix
        history.pinnable(OPERATOR, "id1")
    with pytest.raises(NotAuthorized):
        history.find_by_prefix(Caller("wrapper", ROLES["wrap"]), "id1")


def test_an_exact_id_wins_over_longer_ones() -> None:
    history = History()
    for judgement in judged(appraisal(1), appraisal(11)):
        history.remember(judgement)
    assert history.find_by_prefix(OPERATOR, "id1").id == "id1"


def test_a_machine_does_not_push_out_the_guests_of_others() -> None:
    history = History(capacity=8)
    (one,) = judged(appraisal(0, PolicyRefused("no", reasons=(RTMR1,))))
    history.remember(replace(one, id="rare", address="192.0.2.9:1", platform="other"))
    for number in range(20):
        address = f"[2001:db8::{number:x}]:1"
        history.remember(replace(one, id=str(number), address=address, platform="machine"))
    stored = history.last(OPERATOR, Verdict.REFUSED, 0)
    assert len(stored) == 8
    assert stored[-1].id == "rare"
