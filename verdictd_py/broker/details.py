"""What a guest presented, for operators: certificates, event log by register, TCB, what changed.

It is read again from the stored evidence when an operator requests it. The quote was verified when
the guest was appraised. An event of a register that does not replay proves nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from verdictd_py.broker.bootchanges import changed_claims, changed_events
from verdictd_py.broker.judgement import Judgement
from verdictd_py.domain.tcb import TcbComparison
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvidenceFormat
from verdictd_py.formats import eventlog
from verdictd_py.formats.eventlog import Event, EventLog
from verdictd_py.formats.eventnames import description_of, type_name
from verdictd_py.ports import Tee, Tees

MAX_TEXT_CHARACTERS: Final = 300


def details(
    judgement: Judgement,
    tees: Tees,
    presented: Judgement | None = None,
    before: Judgement | None = None,
) -> dict[str, JsonValue]:
    """Return the members `chain`, `eventLog`, `tcb` and `since`, each only if it is known.

    Args:
        presented: the judgement with the evidence of this boot; None if none is stored.
        before: the last accepted judgement of the same guest before this one; None without one.
    """
    tee = None if judgement.tee is None else tees.get(judgement.tee)
    if tee is None:
        return {}
    found: dict[str, JsonValue] = {}
    if judgement.tcb is not None:
        found["tcb"] = _tcb(judgement.tcb)
    if presented is not None and presented.quote:
        found["evidenceOf"] = presented.id
        with suppress(EvidenceFormat):  # the reasons of the refusal say so
            if tee.certificates is not None:
                found["chain"] = _chain(tee, presented.quote)
            if tee.event_log is not None and presented.event_log:
                found["eventLog"] = _registers(tee, presented)
    if before is not None:
        found["since"] = _since(judgement, before, tee, presented)
    return found


def _tcb(tcb: TcbComparison) -> dict[str, JsonValue]:
    return {
        "status": tcb.status,
        "date": tcb.date,
        "newestStatus": tcb.newest_status,
        "newestDate": tcb.newest_date,
        "components": [
            {
                "name": each.name,
                "has": each.has,
                "level": each.level,
                "newest": each.newest,
                "elsewhere": each.elsewhere,
            }
            for each in tcb.components
        ],
    }


def _since(
    judgement: Judgement, before: Judgement, tee: Tee, presented: Judgement | None
) -> dict[str, JsonValue]:
    """Return what changed since an accepted boot; events only if both logs are stored."""
    since: dict[str, JsonValue] = {
        "id": before.id,
        "at": before.at.isoformat(),
        "sameGuest": before.guest == judgement.guest,
        "claims": changed_claims(judgement, before, tee),
        "events": None,
    }
    if presented is not None and tee.event_log is not None:
        with suppress(EvidenceFormat):
            now, earlier = _by_register(tee, presented), _by_register(tee, before)
            if now and earlier:
                since["events"] = changed_events(now, earlier, _event)
    return since


def _by_register(tee: Tee, judgement: Judgement) -> dict[str, list[tuple[int, Event]]]:
    """Return the events of a stored log by the name of their register; none without a log."""
    if tee.event_log is None or not judgement.event_log:
        return {}
    log = eventlog.parse(judgement.event_log, tee.event_log.claims)
    found: dict[str, list[tuple[int, Event]]] = {}
    for number, event in enumerate(log.events):
        if 1 <= event.index <= len(tee.event_log.claims):
            found.setdefault(tee.event_log.claims[event.index - 1], []).append((number, event))
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
