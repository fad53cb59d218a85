"""Common parts of the command lines: parser, files, one-line errors, exit status."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.text import wrapped
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import ConfigError

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2


class Failed(SystemExit):
    """End of the program with status 2, after a line on standard error.

    Attributes:
        message: the line, without the name of the program.
    """

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_USAGE)
        self.message = message


class Parser(argparse.ArgumentParser):
    """Parser that accepts no abbreviations and reports an error in one line."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        fail(self.prog, f"{message}; see {self.prog} --help")


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
        raise ConfigError(f"cannot read {file}: {cause}; check its name") from error


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


def complain(program: str, message: str) -> None:
    """Print a message on standard error as one line without control characters.

    A terminal gets lines that are broken between words.
    """
    line = f"{program}: {printable(' '.join(message.split()))}"
    width = terminal.columns(sys.stderr) if sys.stderr is not None and sys.stderr.isatty() else None
    print("\n".join(wrapped(line, width)), file=sys.stderr)


def fail(program: str, message: str) -> NoReturn:
    """Exit with status 2 after a line on standard error."""
    complain(program, message)
    raise Failed(message)
