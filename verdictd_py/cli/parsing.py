"""What every command line here has in common: one line for a mistake, exit status 2."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import ConfigError

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and answers a mistake in one line."""

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
    """Events of a command whose whole answer is what it prints."""

    def record(self, event: Event) -> None:
        del event


def moment(text: str) -> datetime:
    """A time on a command line (RFC 3339); UTC where it names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time, write 2026-11-24T12:00:00Z"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_file(file: Path, limit: int) -> bytes:
    """A file that a command line names; one byte more than `limit` where it is larger.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {file}: {why}; check its name") from error


def read_input(file: Path, limit: int) -> bytes:
    """Return what `read_file` does; `-` is standard input.

    Raises:
        ConfigError: it cannot be read.
    """
    if str(file) != "-":
        return read_file(file, limit)
    try:
        return sys.stdin.buffer.read(limit + 1)
    except (OSError, AttributeError) as error:  # AttributeError: it was closed before the start
        raise ConfigError("cannot read standard input; give a file of claims") from error


def printable(text: str) -> str:
    """`text` without anything that could draw on a terminal; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def complain(program: str, message: str) -> None:
    """One line on standard error, whatever white space or control characters it is given."""
    print(f"{program}: {printable(' '.join(message.split()))}", file=sys.stderr)


def fail(program: str, message: str) -> NoReturn:
    """Ends the program: one line on standard error, exit status 2."""
    complain(program, message)
    raise SystemExit(EXIT_USAGE)
