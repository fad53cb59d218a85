"""`verdictd-py eventlog`: displays a guest's boot event log and verifies it against a quote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, printable, read_file
from verdictd_py.domain.evidence import MAX_QUOTE_BYTES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError, EvidenceFormat, Reason
from verdictd_py.formats.eventlog import MAX_LOG_BYTES, Event, EventLog, parse
from verdictd_py.formats.eventnames import description_of, type_name, variable_of
from verdictd_py.ports.tees import EventLogRegisters
from verdictd_py.tees.registry import known_tees

PROGRAM: Final = "verdictd-py eventlog"
_MAX_DATA_CHARACTERS: Final = 100


def run(argv: Sequence[str]) -> int:
    """Display or verify an event log; return 0 if it matches the quote, else 1.

    Raises:
        ConfigError: a file cannot be read, or is neither an event log nor a quote.
    """
    options = build_parser().parse_args(list(argv))
    tees = known_tees()
    quote = None if options.quote is None else read_file(options.quote, MAX_QUOTE_BYTES)
    try:
        tee = tees.default if quote is None else tees.of_evidence(quote)
    except EvidenceFormat as error:
        raise ConfigError(f"{options.quote} is not a quote: {error}") from error
    registers = tee.event_log
    if registers is None:
        raise ConfigError(f"{options.quote} is a quote of {tee.name}, which has no event log")
    log = _log(options.file, registers)
    reasons: tuple[Reason, ...] = ()
    claims = log.claims()
    if quote is not None:
        measured = _measured(options.quote, quote, registers)
        claims = log.proved_by(measured).claims()
        unlogged = registers.extended_later if options.allow_rtmr3_mismatch else ()
        reasons = log.mismatches(measured, unlogged=unlogged)
    if options.json:
        mismatches: list[JsonValue] = [dict(reason.as_json()) for reason in reasons]
        report: dict[str, JsonValue] = {"claims": claims, "mismatches": mismatches}
        if options.action == "show":
            report["events"] = [_report(log, number) for number in range(len(log.events))]
        CommandOutput("event-log", report).print(Form.JSON)
    else:
        if options.action == "show":
            _show(log)
        for reason in reasons:
            print(reason.text)
        if options.quote is not None and not reasons:
            print(f"{len(log.events)} events match the registers of the quote")
    return EXIT_REFUSED if reasons else EXIT_OK


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Display a TCG2 event log (CCEL), or replay it and compare the registers of a quote.\n"
        "The quote itself is not verified: use verdictd-py appraise.",
        "exit status: 0 it matches, 1 it does not, 2 it cannot be read",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("show", "display the events"), ("verify", "verify the log")):
        action = actions.add_parser(name, prog=f"{PROGRAM} {name}", description=text)
        action.add_argument("file", metavar="FILE", type=Path)
        action.add_argument("--json", action="store_true")
        action.add_argument(
            "--quote", metavar="FILE", type=Path, required=name == "verify", help="a TDX quote"
        )
        action.add_argument(
            "--allow-rtmr3-mismatch",
            action="store_true",
            help="for guests that extend RTMR3 at run time without log entries",
        )
    add_timeout(parser)
    return parser


def _show(log: EventLog) -> None:
    """Print two lines for each event: what it is, and its digest with what that proves."""
    words = {True: "proved", False: "differs from its digest", None: "not provable"}
    for number, event in enumerate(log.events):
        text = "" if event.data_proved is False else description_of(event).replace("\n", " ")
        text = printable(text)[:_MAX_DATA_CHARACTERS]
        print(f"{number:4} {_register(log, event):5} {type_name(event.kind)} {text}".rstrip())
        print(f"{'':4} {event.digest.hex()} {words[event.data_proved]}")


def _report(log: EventLog, number: int) -> JsonValue:
    """Return the description of one event; `variable` only for the event of a UEFI variable."""
    event = log.events[number]
    report: dict[str, JsonValue] = {
        "number": number,
        "register": _register(log, event),
        "type": event.kind,
        "typeName": type_name(event.kind),
        "digest": event.digest.hex(),
        "proved": event.data_proved,
        "description": description_of(event),
    }
    if (variable := variable_of(event)) is not None:
        report["variable"] = {
            "name": variable.name,
            "vendor": variable.vendor,
            "value": variable.value.hex(),
        }
    return report


def _register(log: EventLog, event: Event) -> str:
    """Return the name of the register that an event extends; `-` for none."""
    return log.registers[event.index - 1] if 1 <= event.index <= len(log.registers) else "-"


def _log(file: Path, registers: EventLogRegisters) -> EventLog:
    try:
        return parse(read_file(file, MAX_LOG_BYTES), registers.claims)
    except EvidenceFormat as error:
        raise ConfigError(f"{file} is not an event log: {error}") from error


def _measured(file: Path, quote: bytes, registers: EventLogRegisters) -> Mapping[str, bytes]:
    try:
        return registers.measured(quote)
    except EvidenceFormat as error:
        raise ConfigError(f"{file} is not a quote: {error}") from error
