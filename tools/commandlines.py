"""The parsers of both programs, of each command and of its own commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from typing import Final
from unittest.mock import patch

from verdictd_py.cli.main import COMMANDS
from verdictd_py.cli.verdict import build_parser

_HELP: Final = ("-h", "--help")


class _Parsed(BaseException):  # no command may handle it
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the words of each command of `verdictd-py` and `verdict-py`, with its parser."""
    for name in ("", *COMMANDS):
        yield from _below(f"verdictd-py {name}".rstrip(), _parser(name or "daemon"))
    yield from _below("verdict-py", build_parser())


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


def _parser(name: str) -> argparse.ArgumentParser:
    """Return the parser with which a module of `verdictd_py.cli` reads its command line."""

    def parsed(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Parsed(parser)

    module = import_module(f"verdictd_py.cli.{name.replace('-', '_')}")
    with (
        patch.object(argparse.ArgumentParser, "parse_args", parsed),
        patch.object(argparse.ArgumentParser, "parse_known_args", parsed),
    ):
        try:
            module.run([])
        except _Parsed as found:
            return found.parser
    raise LookupError(f"{module.__name__} has no parser")


def _below(
    words: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:  # noqa: SLF001  # as above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # as above
            for name, inner in action.choices.items():
                yield from _below(f"{words} {name}", inner)
