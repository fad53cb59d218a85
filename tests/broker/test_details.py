"""What a guest presented is displayed from the stored evidence; nothing unproved is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.broker.test_history import OPERATOR
from tests.support.eventlogs import command_line, event, written
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.bootchanges import changed_events
from verdictd_py.broker.details import details
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import MAX_STORED_LOG_BYTES, Judgement
from verdictd_py.broker.presentations import PAUSE, Presentations
from verdictd_py.broker.transfer import judgement_as_json, judgement_from_json
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import AttestationError, PolicyRefused, QuoteInvalid
from verdictd_py.formats.eventlog import EventLog
from verdictd_py.simulator import SimulatedPlatform, TdMeasurements
from verdictd_py.tees.tdx.tee import REGISTERS

EVENTS = (command_line(b"quiet"), event(1, 0x80000007, b"action"), event(2, 0x80000003, b"image"))


def judged(
    quote: bytes, log: bytes | None, refusal: AttestationError | None, *, bound: bool = True
) -> Judgement:
    presented = Evidence("tdx", quote, b"key", "test", event_log=log)
    verified = None if isinstance(refusal, QuoteInvalid) else VERIFIED
    appraisal = Appraisal(
        "id", NOW, "tdx", "test", verified, bound=bound, refusal=refusal, presented=presented
    )
    return Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx"))


def quote_of(*, measured: bool = True) -> bytes:
    registers = EventLog(EVENTS, REGISTERS).replay() if measured else {}
    platform = SimulatedPlatform.create(now=NOW)
    return platform.quote(bytes(64), TdMeasurements(**registers))  # type: ignore[arg-type]


def test_certificates_and_events_are_displayed() -> None:
    judgement = judged(quote_of(), written(*EVENTS), PolicyRefused("no"))
    judgement = judgement_from_json(judgement_as_json(judgement))
    found: Any = details(judgement, TEES, judgement)
    names = [link["name"] for link in found["chain"]]
    assert len(names) == 3
    assert "Root" in names[0]
    registers = {each["name"]: each for each in found["eventLog"]}
    assert all(each["replays"] for each in registers.values())
    texts = [e["text"] for each in registers.values() for e in each["events"]]
    assert "action" in texts
    image = registers["rtmr1"]["events"][0]
    assert (image["type"], image["text"], image["proved"]) == (
        "EV_EFI_BOOT_SERVICES_APPLICATION",
        "",
        False,
    )


def test_a_log_of_another_boot_does_not_replay() -> None:
    judgement = judged(quote_of(measured=False), written(*EVENTS), PolicyRefused("no"))
    found: Any = details(judgement, TEES, judgement)
    assert not all(each["replays"] for each in found["eventLog"])


def test_only_the_evidence_of_genuine_guests_is_stored() -> None:
    quote, log = quote_of(), written(*EVENTS)
    for judgement in (
        judged(quote, log, QuoteInvalid("no")),
        judged(quote, log, PolicyRefused("no"), bound=False),
    ):
        assert (judgement.quote, judgement.event_log) == (b"", b"")
        assert details(judgement, TEES, judgement) == {}
    large = judged(quote, bytes(MAX_STORED_LOG_BYTES + 1), PolicyRefused("no"))
    assert (large.quote, large.event_log) == (quote, b"")


def test_evidence_that_cannot_be_read_is_no_failure() -> None:
    judgement = judged(quote_of(), b"no log", PolicyRefused("no"))
    assert list(details(judgement, TEES, judgement)) == ["evidenceOf", "chain"]
    other = replace(judgement, quote=b"no quote")
    assert list(details(other, TEES, other)) == ["evidenceOf"]


def booted(number: int, log: bytes, kernel: str, refusal: AttestationError | None) -> Judgement:
    judgement = judged(quote_of(), log, refusal)
    claims = {**VERIFIED.claims, "rtmr1": kernel, "reportData": f"{number}"}
    at = NOW + timedelta(hours=number)
    return replace(judgement, id=f"id{number}", at=at, claims=claims)


def test_what_changed_since_the_last_accepted_boot_is_displayed() -> None:
    old, new = event(2, 0x80000003, b"kernel 1"), event(2, 0x80000003, b"kernel 2")
    both, end = event(1, 0x80000007, b"action"), event(2, 0x80000007, b"exit")
    history = History()
    history.remember(booted(0, written(both, old, end), "aa", None))
    refused = booted(2, written(both, new, end), "bb", PolicyRefused("no"))
    later = booted(3, written(both, end), "cc", None)
    for judgement in (refused, later):
        history.remember(judgement)
    before = history.accepted_before(refused)
    found: Any = details(refused, TEES, history.presented(refused), before)
    since = found["since"]
    assert (since["id"], since["sameGuest"]) == ("id0", True)
    assert since["claims"] == [{"name": "rtmr1", "before": "aa", "now": "bb"}]
    (register,) = since["events"]
    assert register["name"] == "rtmr1"
    assert [each["digest"] for each in register["added"]] == [new.digest.hex()]
    assert [each["digest"] for each in register["removed"]] == [old.digest.hex()]


def test_another_order_of_events_is_a_change() -> None:
    one, two = event(2, 0x80000003, b"one"), event(2, 0x80000003, b"two")
    history = History()
    history.remember(booted(0, written(one, two), "aa", None))
    refused = booted(1, written(two, one), "bb", PolicyRefused("no"))
    found: Any = details(refused, TEES, refused, history.accepted_before(refused))
    (register,) = found["since"]["events"]
    assert (register["added"], register["removed"], register["moved"]) == ([], [], True)


def test_a_log_of_equal_events_costs_no_more_than_its_length() -> None:
    """A difference that is quadratic would take minutes."""
    several, others = event(2, 1, b"a"), event(2, 1, b"b")
    registers = {"rtmr1": [(n, (several, others)[n % 2]) for n in range(200_000)]}
    reversed_ = {"rtmr1": [(n, (others, several)[n % 2]) for n in range(200_001)]}
    (found,) = changed_events(registers, reversed_, lambda number, _: number)
    assert isinstance(found, dict)
    assert (found["added"], found["removed"]) == ([], [0])


def test_the_boot_of_an_accepted_guest_is_stored_once() -> None:
    presentations = Presentations()
    first = booted(0, written(*EVENTS), "aa", None)
    again = replace(first, id="again", at=first.at + timedelta(minutes=1))
    other = replace(again, id="other", claims={**first.claims, "rtmr1": "bb"})
    late = replace(first, id="late", at=first.at + PAUSE)
    assert presentations.reduced(first).quote
    reduced = presentations.reduced(again)
    assert (reduced.quote, reduced.event_log) == (b"", b"")
    assert presentations.reduced(other).quote
    assert presentations.reduced(late).quote
    history = History()
    history.remember(first)
    history.remember(reduced)
    shown = history.presented(history.find(OPERATOR, "again"))
    assert shown is not None
    assert shown.id == first.id
