"""What a refused guest presented, for operators: its certificates, and its event log by register.

It is read again from the stored evidence when an operator requests it. The quote was verified when
the guest was appraised. An event of a register that does not replay proves nothing.
"""

from __future__ import annotations

from typing import Final

from verdictd_py.broker.history import Judgement
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvidenceFormat
from verdictd_py.formats import eventlog
from verdictd_py.formats.eventlog import Event, EventLog
from verdictd_py.formats.eventnames import description_of, type_name
from verdictd_py.ports import Tee, Tees

MAX_TEXT_CHARACTERS: Final = 300


def details(judgement: Judgement, tees: Tees) -> dict[str, JsonValue]:
    """Return the members `chain` and `eventLog`, each only if the evidence has it."""
    tee = None if judgement.tee is None else tees.get(judgement.tee)
    if tee is None or not judgement.quote:
        return {}
    found: dict[str, JsonValue] = {}
    try:
        if tee.certificates is not None:
            found["chain"] = _chain(tee, judgement.quote)
        if tee.event_log is not None and judgement.event_log:
            found["eventLog"] = _registers(tee, judgement)
    except EvidenceFormat:
        pass  # the reasons of the refusal say so
    return found


def _chain(tee: Tee, quote: bytes) -> list[JsonValue]:
    read = tee.certificates
    return [
        {
            "name": each.subject,
            "issuer": each.issuer,
            "since": each.since.isoformat(),
            "until": each.until.isoformat(),
            "sha256": each.sha256,
        }
        for each in reversed(() if read is None else read(quote))
    ]


def _registers(tee: Tee, judgement: Judgement) -> list[JsonValue]:
    registers = tee.event_log
    if registers is None:
        return []
    log = eventlog.parse(judgement.event_log, registers.claims)
    replayed, measured = log.replay(), registers.measured(judgement.quote)
    return [
        {
            "name": name,
            "meaning": tee.claims[name].meaning,
            "replays": replayed[name] == measured.get(name),
            "events": _events(log, index),
        }
        for index, name in enumerate(registers.claims, start=1)
        if index in log.covered
    ]


def _events(log: EventLog, index: int) -> list[JsonValue]:
    return [
        _event(number, event) for number, event in enumerate(log.events) if event.index == index
    ]


def _event(number: int, event: Event) -> JsonValue:
    """Return an event; its text only if the digest proves it."""
    proved = event.data_proved
    text = description_of(event)[:MAX_TEXT_CHARACTERS] if proved else ""
    return {
        "number": number,
        "type": type_name(event.kind),
        "digest": event.digest.hex(),
        "text": text,
        "proved": proved is True,
        "differs": proved is False,
    }
