"""Options, arguments and commands of a parser, which argparse keeps to itself."""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator


def options(parser: ArgumentParser) -> Iterator[Action]:
    """Yield the options of a parser that its help lists, `--help` included."""
    for action in parser._actions:  # noqa: SLF001  # argparse has no public list
        if action.option_strings and action.help != SUPPRESS:
            yield action


def own_options(parser: ArgumentParser) -> Iterator[Action]:
    """Yield the options of a parser that its help lists, without `--help`."""
    return (action for action in options(parser) if action.dest != "help")


def arguments(parser: ArgumentParser) -> Iterator[Action]:
    """Yield the positional arguments of a parser, without the one that names a command."""
    for action in parser._actions:  # noqa: SLF001  # as above
        if not action.option_strings and not isinstance(action, _SubParsersAction):
            yield action


def commands(parser: ArgumentParser) -> Iterator[tuple[str, str, ArgumentParser]]:
    """Yield the name, the help in one line and the parser of each command of a parser."""
    for action in parser._actions:  # noqa: SLF001  # as above
        if isinstance(action, _SubParsersAction):
            texts = {choice.dest: choice.help for choice in action._choices_actions}  # noqa: SLF001
            for name, below in action.choices.items():
                yield name, texts.get(name) or below.description or "", below
