"""`verdict-py`: manages a broker, by upstream's options or by commands."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from verdictd_py import __version__
from verdictd_py.cli.completion.kinds import KINDS
from verdictd_py.cli.completion.shells import SCRIPTS, script
from verdictd_py.cli.hints import explained, with_near_miss
from verdictd_py.cli.management import (
    appraisal_commands,
    console_commands,
    schema,
    storage_commands,
)
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed, Connection
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.management.document_commands import open_problems
from verdictd_py.cli.management.running import add_output_options, add_watch_options, run_command
from verdictd_py.cli.management.upstream import OPTIONS
from verdictd_py.cli.output import errors
from verdictd_py.cli.output.result import Form, write
from verdictd_py.cli.parsing import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    Failed,
    Parser,
    complain,
    fail,
    printable,
)
from verdictd_py.cli.servers import AcceptedUsers
from verdictd_py.domain.addresses import (
    CLIENT_API_WITHOUT_IPV6,
    DEFAULT_CLIENT_API,
    Address,
    default_client_api,
)
from verdictd_py.errors import ConfigError

PROGRAM: Final = "verdict-py"
EXIT_NO_BROKER: Final = 3

EXIT_INTERRUPTED: Final = 130

MAX_TIMEOUT_SECONDS: Final = 86_400
"""A day; gRPC treats a number that is too large as a timeout of zero."""

COMMANDS: Final = (
    *appraisal_commands.COMMANDS,
    *storage_commands.COMMANDS,
    *console_commands.COMMANDS,
    schema.COMMAND,
)

ADDRESSES: Final = ("VERDICT_PY_CLIENT_API", "VERDICTD_CLIENT_API")
"""Variables with the address, in this order. The second is the daemon's, which `verdict-py` finds
in the same container."""

TLS_PREFIX: Final = "VERDICT_PY_TLS_"
SERVER_USER: Final = "VERDICT_PY_SERVER_USER"

_TLS_FILES: Final = ("ca", "cert", "key")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 done, 1 refused, 2 wrong command line, 3 no broker reached."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    form = errors.requested_form(arguments)
    try:
        return _main(arguments, form)
    except Failed as error:
        errors.report(form, EXIT_USAGE, error.name, error.message)
        raise


def _main(arguments: list[str], form: Form) -> int:
    parser = build_parser()
    if sys.stdout is None:  # it was closed before the start
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open until exit
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
        status = EXIT_REFUSED if error.answered else EXIT_NO_BROKER
        errors.report(form, status, error.reason, str(error))
        return status
    except BrokenPipeError:  # the reader closed the pipe
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
        write(sys.stdout, script(PROGRAM, options.shell))
        return EXIT_OK
    if len(actions) + (command is not None) != 1:
        parser.error("give one command, or one of upstream's options")
    connection = _connection(options)
    async with BrokerClient.connect(connection) as client, explained(connection):
        if command is not None:
            async with with_near_miss(client, command.words, options):
                return await run_command(command, client, options)
        option, values = actions[0]
        text = await option.act(client, options, [values] if isinstance(values, str) else values)
        write(sys.stdout, printable(text) + "\n")
        if option.changes:
            with suppress(BrokerFailed):  # upstream's broker has no such service
                for line in await open_problems(client):
                    write(sys.stderr, printable(line) + "\n")
        return EXIT_OK


def _connection(options: Namespace) -> Connection:
    if not 0 < options.timeout <= MAX_TIMEOUT_SECONDS:
        raise ConfigError(f"--timeout is a number of seconds from above 0 to {MAX_TIMEOUT_SECONDS}")
    ca, cert, key = (getattr(options, f"tls_{name}") or _tls_file(name) for name in _TLS_FILES)
    addresses = _addresses(options.client_api)
    user = options.server_user or os.environ.get(SERVER_USER) or None
    users = AcceptedUsers.of(user, unsafe_any=options.unsafe_any_server)
    return Connection(addresses, options.timeout, ca, cert, key, users)


def _addresses(given: str | None) -> tuple[Address, ...]:
    """Return the addresses to try: the given one, that of the environment, or the defaults."""
    source = "--client-api"
    if given is None:
        source = next((name for name in ADDRESSES if os.environ.get(name)), "")
        if not source:
            return default_client_api()
        given = os.environ[source]
    try:
        return (Address.parse(given, unix_allowed=True),)
    except ValueError as error:
        raise ConfigError(f"{source} {error}") from None


def _tls_file(name: str) -> Path | None:
    path = os.environ.get(f"{TLS_PREFIX}{name.upper()}")
    return Path(path) if path else None


def connection_of(words: Sequence[str]) -> Connection:
    """Return the connection that the options among some words describe; others are ignored.

    Raises:
        ConfigError: an option is wrong.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _add_connection(parser, first=True)
    return _connection(parser.parse_known_args(words)[0])


def build_parser() -> Parser:
    """Return the parser of the command line; its help, completion and manual come from it."""
    words = "\n".join(f"  {command.words:18} {command.help}" for command in COMMANDS)
    parser = Parser(
        PROGRAM,
        "Manage a broker.",
        f"commands (each has its own --help):\n{words}\n"
        f"  completion SHELL   for {', '.join(SCRIPTS)}\n\n"
        f"environment, for options that are not given: {', '.join(ADDRESSES)};\n"
        f"{', '.join(TLS_PREFIX + name.upper() for name in _TLS_FILES)}; {SERVER_USER}\n\n"
        "exit status: 0 done, 1 refused (or a tested policy does not allow), 2 wrong command\n"
        "line, 3 no broker reached",
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
        _completes(group.add_argument(name, help=option.help, **more), "")
    _add_commands(parser)
    return parser


def _add_connection(parser: ArgumentParser, *, first: bool) -> None:
    """Add the options of the connection; those after a command override those before it."""

    def default(value: object) -> object:
        return value if first else SUPPRESS

    parser.add_argument(
        "-c",
        "--client-api",
        metavar="ADDR",
        default=default(None),
        help=f"host:port, [v6]:port or unix:/path ({DEFAULT_CLIENT_API}, or "
        f"{CLIENT_API_WITHOUT_IPV6} without IPv6)",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=default(30.0), help="seconds (30)"
    )
    for name, text in (
        ("ca", "CA of the broker's certificate, PEM"),
        ("cert", "client certificate, PEM"),
        ("key", "its private key, PEM"),
    ):
        parser.add_argument(
            f"--tls-{name}", metavar="FILE", type=Path, default=default(None), help=text
        )
    parser.add_argument(
        "--server-user",
        metavar="USER",
        default=default(None),
        help="also accept a server of this user on loopback (root and the caller)",
    )
    parser.add_argument(
        "--unsafe-any-server",
        action="store_true",
        default=default(False),
        help="accept a server of any user on loopback, who then gets what is sent",
    )
    if first:
        text = "where exports are written (./)"
        parser.add_argument("-p", "--path", metavar="DIR", help=text)
    add_output_options(parser, default(None))


def _add_commands(parser: Parser) -> None:
    top = parser.add_subparsers(metavar="COMMAND", parser_class=_CommandParser, help="see below")
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        first, _, second = command.words.partition(" ")
        if not second:
            command_parser = top.add_parser(first, description=command.help)
        else:
            if first not in groups:
                group = top.add_parser(first, description=f"{first}: choose one of these")
                groups[first] = group.add_subparsers(
                    metavar="ACTION", required=True, parser_class=_CommandParser
                )
            command_parser = groups[first].add_parser(
                second, description=command.help, help=command.help
            )
        for name, more in command.arguments.items():
            names = ("-y", name) if name == "--yes" else (name,)
            _completes(command_parser.add_argument(*names, **more), command.words)
        if command.watchable:
            add_watch_options(command_parser)
        _add_connection(command_parser, first=False)
        command_parser.set_defaults(command=command)
    completion = top.add_parser("completion", description="print a completion script for a shell")
    completion.add_argument("shell", choices=SCRIPTS, metavar="SHELL", help=", ".join(SCRIPTS))


def _completes(action: Action, words: str) -> None:
    """Let shells complete an argument with names from the broker."""
    kind = KINDS.get((words, action.dest))
    if kind is not None:
        action.completes = kind  # type: ignore[attr-defined]  # read by `completion.tree`


class _CommandParser(Parser):
    """Parser of a command, with the signature that argparse requires of a subparser."""

    def __init__(self, prog: str, description: str = "", **more: object) -> None:
        del more
        super().__init__(prog, description)


def _is_text(argument: str) -> bool:
    """Return whether an argument is UTF-8; Python decodes other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _dest(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


if __name__ == "__main__":
    raise SystemExit(main())
