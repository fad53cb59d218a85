"""Options and arguments of the command lines of both programs, for the reference and its tests."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from verdictd_py.cli.programs import command_lines

_HELP: Final = ("-h", "--help")


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the words of each command of `verdictd-py` and `verdict-py`, with its parser."""
    for program in ("verdictd-py", "verdict-py"):
        for line in command_lines(program):
            yield " ".join(line.words), line.parser


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options of a parser, without `--help` and those that its help does not list."""
    for action in parser._actions:  # noqa: SLF001  # argparse shows them in no other way
        names = action.option_strings
        if names and names[-1] not in _HELP and action.help != argparse.SUPPRESS:
            yield action


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the positional arguments of a parser, without its commands."""
    for action in parser._actions:  # noqa: SLF001  # as above
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield action
