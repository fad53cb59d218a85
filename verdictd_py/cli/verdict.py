"""`verdict-py`: manages a broker; upstream's options, and readable commands beside them."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import shtab

from verdictd_py import __version__
from verdictd_py.cli.management import appraisal_commands, storage_commands
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed, Connection
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.management.document_commands import what_remains
from verdictd_py.cli.management.show import write
from verdictd_py.cli.management.upstream import OPTIONS
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, complain, fail, printable
from verdictd_py.config import DEFAULT_CLIENT_API, Address
from verdictd_py.errors import ConfigError

PROGRAM: Final = "verdict-py"
EXIT_NO_BROKER: Final = 3

EXIT_INTERRUPTED: Final = 130

MAX_TIMEOUT_SECONDS: Final = 86_400
"""A day; gRPC takes what it cannot count for no time at all."""

COMMANDS: Final = (*appraisal_commands.COMMANDS, *storage_commands.COMMANDS)

_SHELLS: Final = ("bash", "zsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 refused, 2 wrong command line, 3 no broker to be had."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if sys.stdout is None:  # it was closed before we began
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # ours to the end
    if any(not _is_text(argument) for argument in arguments):
        parser.error("the command line is not UTF-8 text")
    if not arguments:
        parser.print_help()
        return EXIT_OK
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_run(parser, options))
    except ConfigError as error:
        fail(PROGRAM, str(error))
    except BrokerFailed as error:
        complain(PROGRAM, str(error))
        return EXIT_REFUSED if error.answered else EXIT_NO_BROKER
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = None  # nothing to flush at exit
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def _run(parser: Parser, options: Namespace) -> int:
    command: Command | None = getattr(options, "command", None)
    actions = [
        (option, values)
        for name, option in OPTIONS.items()
        if (values := getattr(options, _dest(name), None)) is not None
    ]
    if getattr(options, "shell", None):
        write(sys.stdout, shtab.complete(build_parser(completing=True), options.shell) + "\n")
        return EXIT_OK
    if len(actions) + (command is not None) != 1:
        parser.error("give one command, or one of upstream's options")
    async with BrokerClient.connect(_connection(options)) as client:
        if command is not None:
            return await _run_command(command, client, options)
        option, values = actions[0]
        said = await option.act(client, options, [values] if isinstance(values, str) else values)
        write(sys.stdout, printable(said) + "\n")
        if option.changes:
            with suppress(BrokerFailed):  # upstream's broker has no such service
                for line in await what_remains(client):
                    write(sys.stderr, printable(line) + "\n")
        return EXIT_OK


async def _run_command(command: Command, client: BrokerClient, options: Namespace) -> int:
    """Run a command; data goes to standard output, remarks go to standard error."""
    shown = await command.run(client, options)
    if command.changes and shown.status == EXIT_OK:
        try:
            remains = await what_remains(client)
        except BrokerFailed as error:  # the change is done all the same
            remains = (f"what remains open is not known: {error}",)
        shown = replace(shown, remarks=(*shown.remarks, *remains))
    shown.print(as_json=options.json)
    shown.remark()
    return shown.status


def _connection(options: Namespace) -> Connection:
    try:
        address = Address.parse(options.client_api, unix_allowed=True)
    except ValueError as error:
        raise ConfigError(f"--client-api {error}") from None
    if not 0 < options.timeout <= MAX_TIMEOUT_SECONDS:
        raise ConfigError(f"--timeout is a number of seconds from above 0 to {MAX_TIMEOUT_SECONDS}")
    return Connection(
        str(address), options.timeout, options.tls_ca, options.tls_cert, options.tls_key
    )


def build_parser(*, completing: bool = False) -> Parser:
    """The whole command line; help and completion are made from it.

    Args:
        completing: with the help of each command, without which shtab passes it over; in the
            program's own help they stand at the end.
    """
    words = "\n".join(f"  {each.words:18} {each.help}" for each in COMMANDS)
    parser = Parser(
        PROGRAM,
        "Manage a broker.",
        f"commands, each with a --help of its own:\n{words}\n"
        f"  completion SHELL   for {' or '.join(_SHELLS)}: "
        'eval "$(verdict-py completion bash)"\n\n'
        "exit status: 0 done, 1 refused (or a tested policy does not allow), 2 wrong command\n"
        "line, 3 no broker to be had",
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_connection(parser, first=True)
    group = parser.add_argument_group("upstream's options, one at a time")
    for name, option in OPTIONS.items():
        more: dict[str, Any] = {"metavar": option.values, "nargs": len(option.values)}
        if len(option.values) == 1:
            more = {"metavar": option.values[0]}
        elif not option.values:
            more = {"action": "store_const", "const": []}
        _completed(group.add_argument(name, help=option.help, **more), option.values)
    _add_commands(parser, completing=completing)
    return parser


def _add_connection(parser: ArgumentParser, *, first: bool) -> None:
    """Before the command or behind it: what is said behind it wins."""

    def default(value: object) -> object:
        return value if first else SUPPRESS

    parser.add_argument(
        "-c",
        "--client-api",
        metavar="ADDR",
        default=default(DEFAULT_CLIENT_API),
        help=f"host:port, [v6]:port or unix:/path ({DEFAULT_CLIENT_API})",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=default(30.0), help="seconds (30)"
    )
    for name, text in (
        ("ca", "CA of the broker's certificate, PEM"),
        ("cert", "our certificate, PEM"),
        ("key", "our private key, PEM"),
    ):
        option = parser.add_argument(
            f"--tls-{name}", metavar="FILE", type=Path, default=default(None), help=text
        )
        _completed(option, ("FILE",))
    if first:
        text = "where exports are written (./)"
        _completed(parser.add_argument("-p", "--path", metavar="DIR", help=text), ("DIR",))
    parser.add_argument(
        "--json", action="store_true", default=default(False), help="commands: for programs"
    )


def _add_commands(parser: Parser, *, completing: bool) -> None:
    top = parser.add_subparsers(metavar="COMMAND", parser_class=_Word, help="see below")
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        first, _, second = command.words.partition(" ")
        listed: dict[str, Any] = {"help": command.help} if completing else {}
        if not second:
            made = top.add_parser(first, description=command.help, **listed)
        else:
            if first not in groups:
                group = top.add_parser(first, description=f"{first}: choose one of these", **listed)
                groups[first] = group.add_subparsers(
                    metavar="ACTION", required=True, parser_class=_Word
                )
            made = groups[first].add_parser(second, description=command.help, help=command.help)
        for name, more in command.arguments.items():
            _completed(made.add_argument(name, **more), (str(more.get("metavar", "")),))
        _add_connection(made, first=False)
        made.set_defaults(command=command)
    completion = top.add_parser("completion", description="completion for a shell, to be evaluated")
    completion.add_argument("shell", choices=_SHELLS)


def _completed(action: Action, values: Sequence[str]) -> None:
    """Lets a shell complete names of files where one of `values` is one."""
    if any(value.endswith(("FILE", "PATH")) for value in values):
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own
    elif "DIR" in values:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # as above


class _Word(Parser):
    """Parser of one word of the command line."""

    def __init__(self, prog: str, description: str = "", **more: object) -> None:
        del more
        super().__init__(prog, description)


def _is_text(argument: str) -> bool:
    """Python hands other bytes on as halves of surrogate pairs, which no message can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _dest(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


if __name__ == "__main__":
    raise SystemExit(main())
