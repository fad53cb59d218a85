"""What a refused guest presented is displayed from the stored evidence; nothing unproved is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.eventlogs import command_line, event, written
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.details import details
from verdictd_py.broker.history import MAX_STORED_LOG_BYTES, Judgement
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
    found: Any = details(judgement_from_json(judgement_as_json(judgement)), TEES)
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
    found: Any = details(judgement, TEES)
    assert not all(each["replays"] for each in found["eventLog"])


def test_only_the_evidence_of_genuine_refused_guests_is_stored() -> None:
    quote, log = quote_of(), written(*EVENTS)
    for judgement in (
        judged(quote, log, None),
        judged(quote, log, QuoteInvalid("no")),
        judged(quote, log, PolicyRefused("no"), bound=False),
    ):
        assert (judgement.quote, judgement.event_log) == (b"", b"")
        assert details(judgement, TEES) == {}
    large = judged(quote, bytes(MAX_STORED_LOG_BYTES + 1), PolicyRefused("no"))
    assert (large.quote, large.event_log) == (quote, b"")


def test_evidence_that_cannot_be_read_is_no_failure() -> None:
    judgement = judged(quote_of(), b"no log", PolicyRefused("no"))
    assert list(details(judgement, TEES)) == ["chain"]
    assert details(replace(judgement, quote=b"no quote"), TEES) == {}
