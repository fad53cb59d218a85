"""Parsers of both programs, for what is generated from them.

They are the source of the completion (`completion/tree.json`), the manual pages, and the table of
exit statuses. Loading them loads the broker, which takes a second.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module

from verdictd_py.cli import commandlines, daemon, verdict
from verdictd_py.cli.completion.tree import Node, build
from verdictd_py.cli.main import COMMANDS

PROGRAMS = ("verdict-py", "verdictd-py")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A program or a command: its words, its help in one line, and its parser."""

    words: tuple[str, ...]
    help: str
    parser: ArgumentParser


def command_lines(program: str) -> Iterator[CommandLine]:
    """Yield a program, then each of its commands in the order of the help."""
    if program == "verdict-py":
        parser: ArgumentParser = verdict.build_parser()
        yield CommandLine((program,), parser.description or "", parser)
        yield from _below((program,), parser)
        return
    parser = daemon.build_parser()
    yield CommandLine((program,), parser.description or "", parser)
    for name, text in COMMANDS.items():
        parser = parser_of(name)
        yield CommandLine((program, name), text, parser)
        yield from _below((program, name), parser)


def parsers() -> Iterator[tuple[str, ArgumentParser]]:
    """Yield the words and the parser of each program and each command."""
    for program in PROGRAMS:
        for line in command_lines(program):
            yield " ".join(line.words), line.parser


def parser_of(command: str) -> ArgumentParser:
    """Return the parser of a command of `verdictd-py`."""
    module = import_module(f"verdictd_py.cli.{command.replace('-', '_')}")
    parser: ArgumentParser = module.build_parser()
    return parser


def trees() -> dict[str, Node]:
    """Return the command lines of both programs as `tree.json` stores them."""
    commands = {name: build(parser_of(name), text) for name, text in COMMANDS.items()}
    daemon_line = replace(build(daemon.build_parser()), commands=commands)
    return {"verdict-py": build(verdict.build_parser()), "verdictd-py": daemon_line}


def _below(words: tuple[str, ...], parser: ArgumentParser) -> Iterator[CommandLine]:
    """Yield the commands of a parser, and their commands."""
    for name, text, below in commandlines.commands(parser):
        yield CommandLine((*words, name), text, below)
        yield from _below((*words, name), below)
