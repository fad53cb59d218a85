"""Common parts of the command lines: parser, files, one-line errors, exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.text import wrapped
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import ConfigError

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
"""No broker answers at the address: a retry may succeed. Same status in all programs."""


class Failed(SystemExit):
    """End of the program with status 2, after a line on standard error.

    Attributes:
        message: the line, without the name of the program.
        name: stable name of the error, for programs.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(EXIT_USAGE)
        self.message = message
        self.name = name


class Parser(argparse.ArgumentParser):
    """Parser that accepts no abbreviations, and reports an error in one line with a near miss."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        fail(self.prog, with_help(self._with_actions(message), self.prog))

    def parse_known_args(  # type: ignore[override]  # an unknown argument is an error here already
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments, and exit at an unknown one.

        argparse would read the value of a misspelled option as the next positional argument, and
        report that one.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        unknown = self._unknown_option(arguments)
        if unknown is not None:
            from verdictd_py.cli import suggest  # noqa: PLC0415  # for errors only

            self.error(suggest.unknown_option(self.prog, unknown))
        options, rest = super().parse_known_args(arguments, namespace)
        if rest:
            from verdictd_py.cli import suggest  # noqa: PLC0415  # as above

            self.error(suggest.surplus(self.prog, rest))
        return options, []

    def _unknown_option(self, arguments: Sequence[str]) -> str | None:
        """Return the first option before a command that this parser does not have."""
        values = 0
        commands = any(action.nargs == argparse.PARSER for action in self._actions)
        for argument in arguments:
            if argument == "--":
                return None
            if not _is_option(argument):
                if values == 0 and commands:
                    return None
                values = max(0, values - 1)
                continue
            action = self._option_string_actions.get(argument.partition("=")[0])
            if action is None and not argument.startswith("--"):
                action = self._option_string_actions.get(argument[:2])  # its value is attached
                if action is not None:
                    continue
            if action is None:
                return argument
            values = 0 if "=" in argument else _count_of_values(action)
        return None

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:  # noqa: ANN401
        """Replace argparse's message for an unknown command, which lists all of them."""
        words = [word for word in arg_strings if word != "--"]
        if action.nargs == argparse.PARSER and words and words[0] not in (action.choices or ()):
            from verdictd_py.cli import suggest  # noqa: PLC0415  # for errors only

            raise argparse.ArgumentError(None, suggest.unknown_command(self.prog, words))
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401
        """Replace argparse's message for a value that is none of the choices."""
        if action.choices is None or action.nargs == argparse.PARSER or value in action.choices:
            return
        from verdictd_py.domain.spelling import did_you_mean  # noqa: PLC0415  # for errors only

        choices = [str(choice) for choice in action.choices]
        hint = did_you_mean(str(value), choices)
        raise argparse.ArgumentError(action, f"{value!r} is not one of {', '.join(choices)}{hint}")

    def _with_actions(self, message: str) -> str:
        """Add the commands to a message that one is missing."""
        for action in self._actions:
            if action.nargs == argparse.PARSER and message.endswith(f": {action.metavar}"):
                return f"{message}, one of {', '.join(action.choices or ())}"
        return message


def with_help(message: str, program: str) -> str:
    """Return a message that ends with where to read more."""
    see = " See" if message.endswith("?") else "; see"
    return f"{message}{see} {program} --help"


def _is_option(argument: str) -> bool:
    """Return whether argparse reads an argument as an option: no number, and without a space."""
    if len(argument) < 2 or not argument.startswith("-") or " " in argument:
        return False
    return not argument[1:].replace(".", "", 1).isdigit()


def _count_of_values(action: argparse.Action) -> int:
    """Return how many of the next arguments may be values of an option, at most."""
    if isinstance(action.nargs, int):
        return action.nargs
    return 1 if action.nargs in (None, "?") else sys.maxsize


class Silent:
    """Port `Events` that discards every event, for commands whose result is their output."""

    def record(self, event: Event) -> None:
        del event

    async def commit(self, *events: Event) -> None:
        del events


def moment(text: str) -> datetime:
    """Parse a time on a command line (RFC 3339); without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time, write 2026-11-24T12:00:00Z"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def read_file(file: Path, limit: int) -> bytes:
    """Read a file that a command line names, at most one byte more than `limit`.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {file}: {cause}; {_remedy(error)}") from error


def read_whole(file: Path, limit: int) -> bytes:
    """Read a file that a command line names, of at most `limit` bytes.

    Raises:
        ConfigError: the file cannot be read, or is larger.
    """
    content = read_file(file, limit)
    if len(content) > limit:
        raise ConfigError(f"{file} is larger than {limit} bytes; check its name")
    return content


def _remedy(error: Exception) -> str:
    """Return what to do about a file that cannot be read."""
    if isinstance(error, PermissionError):
        return "let this user read it, or call as another user"
    return "name a file" if isinstance(error, IsADirectoryError) else "check its name"


def read_input(file: Path, limit: int) -> bytes:
    """Read a file as `read_file` does, or standard input if its name is `-`.

    Raises:
        ConfigError: the input cannot be read.
    """
    if str(file) != "-":
        return read_file(file, limit)
    try:
        return sys.stdin.buffer.read(limit + 1)
    except (OSError, AttributeError) as error:  # AttributeError: it was closed before the start
        raise ConfigError("cannot read standard input; give a file of claims") from error


def printable(text: str) -> str:
    """Escape control characters, which could draw on a terminal, except for line feeds."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Escape control characters and line feeds, which could imitate other lines of an output."""
    return printable(text).replace("\n", "\\n")


def complain(program: str, message: str) -> None:
    """Print a message on standard error as one line without control characters.

    A terminal gets lines that are broken between words.
    """
    line = f"{program}: {printable(' '.join(message.split()))}"
    width = terminal.columns(sys.stderr) if sys.stderr is not None and sys.stderr.isatty() else None
    print("\n".join(wrapped(line, width)), file=sys.stderr)


def fail(program: str, message: str, name: str = "usage") -> NoReturn:
    """Exit with status 2 after a line on standard error.

    Args:
        name: stable name of the error, for programs.
    """
    complain(program, message)
    raise Failed(message, name)
