"""Command lines of both programs as data: commands, options, and kinds of their values.

`build` makes it from a parser. The result for both programs is stored in `tree.json`
(`./dev docs`), because loading all parsers takes a second, too long for a press of the tab key.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from verdictd_py.cli import commandlines

FILE: Final = Path(__file__).with_name("tree.json")

REPEATED: Final = ("*", "+", argparse.REMAINDER)


@dataclass(frozen=True, slots=True)
class Value:
    """Values of an option, or one positional argument.

    Attributes:
        kind: `file`, `directory`, `choice`, a kind of `names`, or empty for free text; with commas
            if several values have different kinds.
        count: number of values; 0 for an option without one.
        many: whether more values may follow.
        choices: the values of a `choice`.
    """

    kind: str = ""
    count: int = 1
    many: bool = False
    choices: tuple[str, ...] = ()

    def kind_of(self, number: int) -> str:
        """Return the kind of the value with this number, which begins at 0."""
        kinds = self.kind.split(",")
        return kinds[min(number, len(kinds) - 1)]


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its names, the short one first; its help; and its values."""

    names: tuple[str, ...]
    help: str
    value: Value
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A program or a command: its options, and either its commands or its arguments."""

    help: str = ""
    options: tuple[Option, ...] = ()
    arguments: tuple[Value, ...] = ()
    commands: dict[str, Node] = field(default_factory=dict)

    def at(self, path: Sequence[str]) -> Node | None:
        """Return the command with these words; None if there is none."""
        node: Node | None = self
        for word in path:
            node = None if node is None else node.commands.get(word)
        return node

    def paths(self) -> Iterator[str]:
        """Yield the words of each command below this one that has no further commands."""
        for name, node in self.commands.items():
            if node.commands:
                yield from (f"{name} {rest}" for rest in node.paths())
            else:
                yield name

    def descendants(self) -> Iterator[tuple[tuple[str, ...], Node]]:
        """Yield each command below this one with its words."""
        for name, node in self.commands.items():
            yield (name,), node
            for path, other in node.descendants():
                yield (name, *path), other

    def option(self, name: str) -> Option | None:
        """Return the option with this name."""
        return next((option for option in self.options if name in option.names), None)

    def option_names(self) -> list[str]:
        """Return all names of the options."""
        return [name for option in self.options for name in option.names]

    def as_json(self) -> dict[str, Any]:
        """Return the node as JSON, without members that have their default."""
        members: dict[str, Any] = {"help": self.help}
        if self.options:
            members["options"] = [
                [list(option.names), option.help, _value_json(option.value), option.repeatable]
                for option in self.options
            ]
        if self.arguments:
            members["arguments"] = [_value_json(value) for value in self.arguments]
        if self.commands:
            members["commands"] = {name: node.as_json() for name, node in self.commands.items()}
        return members

    @classmethod
    def of_json(cls, members: dict[str, Any]) -> Self:
        """Return the node that `as_json` described."""
        return cls(
            members["help"],
            tuple(
                Option(tuple(names), text, _value_of(value), repeatable)
                for names, text, value, repeatable in members.get("options", ())
            ),
            tuple(_value_of(value) for value in members.get("arguments", ())),
            {name: Node.of_json(node) for name, node in members.get("commands", {}).items()},
        )


def _value_json(value: Value) -> list[Any]:
    return [value.kind, value.count, value.many, list(value.choices)]


def _value_of(members: list[Any]) -> Value:
    kind, count, many, choices = members
    return Value(kind, count, many, tuple(choices))


@cache
def load(program: str) -> Node:
    """Return the stored command line of a program; an empty one if there is none."""
    try:
        members = json.loads(FILE.read_bytes())[program]
    except (OSError, ValueError, KeyError):
        return Node()
    return Node.of_json(members)


def dump(programs: dict[str, Node]) -> str:
    """Return the text of `tree.json`, with one line for each command, so that changes are small."""
    compact = json.dumps(
        {name: node.as_json() for name, node in programs.items()}, separators=(",", ":")
    )
    return compact.replace('{"help":', '\n{"help":') + "\n"


def build(parser: argparse.ArgumentParser, text: str = "") -> Node:
    """Return the command line that a parser reads.

    An attribute `completes` of an action has the kind of its value, if argparse does not tell.
    """
    return Node(
        " ".join(text.split()),
        tuple(_option(action) for action in commandlines.options(parser)),
        tuple(_value(action) for action in commandlines.arguments(parser)),
        {name: build(below, about) for name, about, below in commandlines.commands(parser)},
    )


def _option(action: argparse.Action) -> Option:
    repeatable = isinstance(action, (argparse._AppendAction, argparse._ExtendAction))  # noqa: SLF001
    return Option(tuple(action.option_strings), help_of(action), _value(action), repeatable)


def help_of(action: argparse.Action) -> str:
    """Return the help of an argument in one line, with its default inserted."""
    text = action.help or ""
    if "%(" in text:
        text %= {name: str(value) for name, value in vars(action).items()}
    return " ".join(text.replace("%%", "%").split())


def _value(action: argparse.Action) -> Value:
    count = action.nargs if isinstance(action.nargs, int) else 1
    many = action.nargs in REPEATED
    if action.choices is not None:
        return Value("choice", count, many, tuple(str(choice) for choice in action.choices))
    kind: str = getattr(action, "completes", "")
    if not kind and count:
        kind = _kind_of_placeholder(action)
    return Value(kind, count, many)


def _kind_of_placeholder(action: argparse.Action) -> str:
    placeholders = action.metavar if isinstance(action.metavar, tuple) else (action.metavar or "",)
    kinds = [_kind_of_name(name) for name in placeholders]
    if kinds == [""] and action.type is Path:
        return "file"
    return ",".join(kinds).rstrip(",")


def _kind_of_name(placeholder: str) -> str:
    if placeholder.endswith(("FILE", "PATH", "CLAIMS")):
        return "file"
    return "directory" if placeholder.endswith("DIR") else ""
