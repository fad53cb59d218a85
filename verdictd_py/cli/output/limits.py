"""`--timeout` of commands that need no broker: the whole command ends after this time."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from verdictd_py.cli import commandlines

MAX_SECONDS: Final = 86_400.0
_OPTION: Final = "--timeout"


class TimeExpired(BaseException):  # no handler of errors may take it for a problem of a file
    """The command was not finished in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not finished within {seconds:g} s; raise {_OPTION}")


def add_timeout(parser: ArgumentParser) -> None:
    """Add the option to a parser, or to each of its actions."""
    for leaf in [below for _, _, below in commandlines.commands(parser)] or [parser]:
        leaf.add_argument(_OPTION, metavar="S", type=_seconds, help="seconds (no limit)")


def _seconds(text: str) -> float:
    """Parse a time for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise ArgumentTypeError(f"write seconds from above 0 to {MAX_SECONDS:.0f}")
    return seconds


def requested(arguments: Sequence[str]) -> float | None:
    """Return the limit on a command line; None without one, or if the parser will refuse it."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if argument == "--":
            return None
        if name == _OPTION:
            following = arguments[index + 1] if index + 1 < len(arguments) else ""
            try:
                return _seconds(value if equals else following)
            except ArgumentTypeError:
                return None
    return None


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """End what is done inside after this time.

    Raises:
        TimeExpired: the time has expired.
    """
    if seconds is None:
        yield
        return

    def expired(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TimeExpired(seconds)

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
