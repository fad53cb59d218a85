"""Text of a manual page, from the parsers of a program (man(7), man-pages(7))."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from verdictd_py import __version__
from verdictd_py.cli import commandlines
from verdictd_py.cli.completion.tree import help_of
from verdictd_py.cli.exitstatus import statuses
from verdictd_py.cli.programs import CommandLine, command_lines

_SUMMARIES: Final = {
    "verdict-py": "manage a key broker for confidential containers",
    "verdictd-py": "key broker that releases secrets only to attested workloads",
}
_DATE: Final = "2026-11-27"
"""Date of this module's own texts; the rest has the date of the version."""

_COLUMNS: Final = 78

_OTHER: Final = {"verdict-py": "verdictd-py", "verdictd-py": "verdict-py"}
_ENVIRONMENT: Final = {
    "verdict-py": (
        ("VERDICT_PY_CLIENT_API, VERDICTD_CLIENT_API", "address, if --client-api is not given"),
        (
            "VERDICT_PY_TLS_CA, VERDICT_PY_TLS_CERT, VERDICT_PY_TLS_KEY",
            "files of the TLS options that are not given",
        ),
        ("VERDICT_PY_SERVER_USER", "user, if --server-user is not given"),
        ("VERDICT_PY_COMPLETION_SECONDS", "time limit to complete a name from the broker (1)"),
        ("NO_COLOR", "output without colors, if it is not empty"),
    ),
    "verdictd-py": (
        ("VERDICTD_CONFIG", "file of settings, if --config is not given"),
        ("VERDICTD_LISTEN, ...", "each setting, if its option is not given"),
        (
            "VERDICTD_PY_GUEST_CONNECT, VERDICTD_PY_GUEST_CA, VERDICTD_PY_GUEST_PLATFORM",
            "options of verdictd-py guest that are not given",
        ),
        ("NO_COLOR", "output without colors, if it is not empty"),
    ),
}
_EXAMPLES: Final = {
    "verdict-py": (
        ("Why was the last guest refused?", "verdict-py explain --last"),
        ("Accept its measurements.", "verdict-py reference pin --from ID"),
        ("Create a key and list all keys.", "verdict-py key create my-key && verdict-py key list"),
    ),
    "verdictd-py": (
        ("Try everything on this machine, without hardware.", "verdictd-py demo"),
        (
            "Serve guests on all addresses.",
            "verdictd-py --listen 0.0.0.0:20002 --data-dir /opt/verdictd",
        ),
        ("Request a key as a guest.", "verdictd-py guest --connect HOST:20002 key my-key"),
    ),
}


def page(program: str) -> str:
    """Return the manual page of a program, in section 1."""
    lines = list(command_lines(program))
    return "\n".join(_wrapped(_lines(program, lines))) + "\n"


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Break long lines of text; requests and unfilled text stay whole."""
    filled = True
    for line in lines:
        filled = {".nf": False, ".fi": True}.get(line, filled)
        if not filled or line.startswith(".") or len(line) <= _COLUMNS:
            yield line
            continue
        for part in textwrap.wrap(line, _COLUMNS, break_long_words=False, break_on_hyphens=False):
            yield f"\\&{part}" if part.startswith((".", "'")) else part


def _lines(program: str, lines: list[CommandLine]) -> Iterator[str]:
    first, *commands = lines
    yield f'.\\" Made from the parsers of {program}; do not edit.'
    yield f".TH {_quoted(program.upper())} 1 {_DATE} {_quoted(f'verdictd-py {__version__}')}"
    yield ".ad l"
    yield ".SH NAME"
    yield f"{_text(program)} \\- {_text(_SUMMARIES[program])}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(program)}"
    yield f"[\\fIOPTION\\fR ...] [\\fI{'COMMAND'}\\fR ...]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(first.help)
    yield ".SH OPTIONS"
    yield from _options(first.parser)
    yield ".SH COMMANDS"
    for command in commands:
        if not _is_group(command):
            yield from _command(command, lines)
    yield ".SH EXIT STATUS"
    for words, meanings in statuses(program):
        yield ".TP"
        yield f".B {_text(words)}"
        yield _text("; ".join(f"{number}: {meaning}" for number, meaning in meanings))
    yield ".SH ENVIRONMENT"
    for names, meaning in _ENVIRONMENT[program]:
        yield ".TP"
        yield f".B {_text(names)}"
        yield _text(meaning)
    yield ".SH EXAMPLES"
    for number, (what, example) in enumerate(_EXAMPLES[program]):
        if number:
            yield ".PP"
        yield _text(what)
        yield from (".PP", ".RS 4", ".nf", _text(example), ".fi", ".RE")
    yield ".SH SEE ALSO"
    yield f".BR {_text(_OTHER[program])} (1)"


def _is_group(command: CommandLine) -> bool:
    """Return whether a command only has commands below it, and no options of its own."""
    parser = command.parser
    own = (*commandlines.own_options(parser), *commandlines.arguments(parser))
    return not own and any(commandlines.commands(parser))


def _command(command: CommandLine, lines: Sequence[CommandLine]) -> Iterator[str]:
    """Yield the section of a command."""
    words = " ".join(command.words[1:])
    arguments = list(commandlines.arguments(command.parser))
    placeholders = " ".join(_placeholder(action) for action in arguments)
    yield f".SS {_quoted(words)}"
    yield f".B {_text(words)}"
    if placeholders:
        yield f"\\fI{_text(placeholders)}\\fR"
    yield ".PP"
    description = command.parser.description or command.help
    yield from _paragraphs(description if "\n" in description else command.help or description)
    for action in arguments:
        if action.help:
            yield ".TP"
            yield f".I {_text(_placeholder(action))}"
            yield _text(help_of(action))
    yield from _options(command.parser, skip=_shared(command, lines))


def _shared(command: CommandLine, lines: Sequence[CommandLine]) -> frozenset[str]:
    """Return the options that a command has in common with its program or group.

    They are described once. The daemon's options are not those of the other commands.
    """
    above = command.words[:-1]
    if above == ("verdictd-py",):
        return frozenset()
    dests: set[str] = set()
    for line in lines:
        if line.words == command.words[: len(line.words)] and line is not command:
            dests.update(action.dest for action in commandlines.options(line.parser))
    return frozenset(dests - _OWN if command.words[0] == "verdictd-py" else dests)


_OWN: Final = frozenset(("name", "file"))


def _options(parser: argparse.ArgumentParser, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    for action in commandlines.own_options(parser):
        if action.dest in skip:
            continue
        names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
        value = _placeholder(action) if action.nargs != 0 else ""
        yield ".TP"
        yield f"{names} \\fI{_text(value)}\\fR" if value else names
        yield _text(help_of(action)) or "\\&"


def _placeholder(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar is None and action.choices is not None:
        name = "|".join(str(choice) for choice in action.choices)
    else:
        name = action.metavar or action.dest.upper()
    if action.nargs == "?":
        return f"[{name}]"
    return f"{name} ..." if action.nargs in ("*", "+") else name


def _paragraphs(text: str) -> Iterator[str]:
    """Yield a description; indented lines stay as they are."""
    literal = False
    for line in text.splitlines():
        if line.startswith("  ") != literal:
            literal = not literal
            yield from (".RS 4", ".nf") if literal else (".fi", ".RE")
        if line.strip():
            yield _text(line.strip())
        elif not literal:
            yield ".PP"
    if literal:
        yield from (".fi", ".RE")


def _quoted(text: str) -> str:
    return '"' + _text(text).replace('"', "\\(dq") + '"'


def _text(text: str) -> str:
    """Return a text that roff prints unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("~", "\\(ti").replace("^", "\\(ha")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text
