"""Completion of a word of a command line, by the tree of its program.

It loads only the standard library, because a shell starts it at each press of the tab key. Names
that a broker stores are requested by `names`, which loads gRPC, and only if one is to be completed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from verdictd_py.cli.completion.tree import Node, Option, Value, load

Names = Callable[[str, Sequence[str]], Sequence[str]]
"""Returns the names of a kind, given the options of the connection on the command line."""

_STATIC = ("", "file", "directory", "choice")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word that may stand at this place, and its help."""

    word: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """Candidates for a word; or whether the shell completes names of files.

    Attributes:
        files: `file`, `directory`, or empty.
        prefix: beginning of the word that is not a part of the name of a file: `--tls-ca=`.
    """

    candidates: tuple[Candidate, ...] = ()
    files: str = ""
    prefix: str = ""


@dataclass(slots=True)
class _Place:
    """Where the words so far lead.

    Attributes:
        node: the program, or the command.
        arguments: number of positional arguments of the command so far.
        option: the option whose value follows, and how many of its values were given.
        connection: options with values, to reach the same broker.
        used: names of the options so far.
    """

    node: Node
    arguments: int = 0
    option: tuple[Option, int] | None = None
    literal: bool = False
    connection: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def complete(program: str, words: Sequence[str], names: Names) -> Completion:
    """Complete the last word.

    Args:
        program: `verdict-py` or `verdictd-py`.
        words: the words after the program; the last one is to be completed, and may be empty.
        names: see `Names`.
    """
    *before, word = words or [""]
    place = _Place(load(program))
    for given in before:
        _advance(place, given)
    if place.option is not None and not _ends_values(place.option[0], word):
        option, number = place.option
        return _values(option.value, number, word, "", names, place)
    if word.startswith("-") and not place.literal:
        name, equals, value = word.partition("=")
        known = place.node.option(name)
        if equals and known is not None:
            return _values(known.value, 0, value, f"{name}=", names, place)
        return _beginning_with(word, _options(place))
    return _positional(place, word, names)


def _advance(place: _Place, word: str) -> None:
    """Read one word."""
    if place.option is not None:
        option, number = place.option
        if not _ends_values(option, word):
            place.connection += [word]
            more = option.value.many or number + 1 < option.value.count
            place.option = (option, number + 1) if more else None
            return
        place.option = None
    if word == "--":
        place.literal = True
    elif word.startswith("-") and len(word) > 1 and not place.literal:
        name, equals, _ = word.partition("=")
        known = place.node.option(name)
        place.used.add(name)
        place.connection.append(word)
        if known is not None:
            place.used.update(known.names)
            if known.value.count and not equals:
                place.option = (known, 0)
    elif word in place.node.commands:
        place.node = place.node.commands[word]
        place.arguments = 0
        place.used.clear()
    elif place.node.commands:
        place.node = Node()  # no such command: nothing follows it
    else:
        place.arguments += 1


def _ends_values(option: Option, word: str) -> bool:
    """Return whether a word is an option rather than one more value."""
    return option.value.many and word.startswith("-") and len(word) > 1


def _positional(place: _Place, word: str, names: Names) -> Completion:
    if place.node.commands:
        commands = [Candidate(name, node.help) for name, node in place.node.commands.items()]
        found = _beginning_with(word, commands)
        return found if found.candidates or word else _beginning_with(word, _options(place))
    arguments = place.node.arguments
    if place.arguments < len(arguments):
        return _values(arguments[place.arguments], 0, word, "", names, place)
    if arguments and arguments[-1].many:
        return _values(arguments[-1], 0, word, "", names, place)
    return _beginning_with(word, _options(place))


def _values(  # each is another subject
    value: Value, number: int, word: str, prefix: str, names: Names, place: _Place
) -> Completion:
    kind = value.kind_of(number)
    if kind in ("file", "directory"):
        return Completion(files=kind, prefix=prefix)
    found: Sequence[str] = value.choices
    if kind not in _STATIC:
        found = names(kind, place.connection)
    return Completion(
        tuple(Candidate(prefix + name) for name in found if name.startswith(word)), prefix=prefix
    )


def _options(place: _Place) -> list[Candidate]:
    """Return the options that may follow, by their long names."""
    return [
        Candidate(name, option.help)
        for option in place.node.options
        for name in option.names
        if name.startswith("--")
        if option.repeatable or not place.used.intersection(option.names)
    ]


def _beginning_with(word: str, candidates: Sequence[Candidate]) -> Completion:
    return Completion(tuple(one for one in candidates if one.word.startswith(word)))
