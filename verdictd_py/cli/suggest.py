"""Suggestions for near misses on the command lines of both programs.

The commands and options of both programs come from `completion/tree.json`, which is generated
from their parsers. It is read for errors only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import Final

from verdictd_py.cli.completion.tree import Node, load
from verdictd_py.domain.spelling import allowed_edits, closest, distance

SYNONYMS: Final = {
    "add": ("create", "set"),
    "cat": ("show",),
    "del": ("delete",),
    "get": ("show",),
    "info": ("describe", "status"),
    "kick": ("disconnect",),
    "ls": ("list",),
    "new": ("create",),
    "print": ("show",),
    "put": ("set",),
    "remove": ("delete",),
    "rm": ("delete",),
    "upload": ("set",),
    "why": ("explain",),
}
"""Words that people try, and the words of these programs."""

_MAX_SUGGESTIONS: Final = 8


def unknown_command(program: str, words: Sequence[str]) -> str:
    """Return the message for a command that does not exist.

    Args:
        program: its name and the words of the command so far: `verdict-py key`.
        words: the rest of the command line; the first word is not a command.
    """
    name, *path = program.split()
    given = [word.lower() for word in takewhile(lambda word: not word.startswith("-"), words)]
    other = _program_with(name, path, given)
    if other:
        return f"{' '.join((*path, words[0]))!r} is a command of the other program: {other}"
    group = load(name).at(path) or Node()
    found = _commands_like(given, list(group.paths()))
    both = bool(found) and _cost(given[:1], found[0].split()) > _cost(given, found[0].split())
    count = 2 if both else 1
    text = " ".join((*path, *words[:count]))
    if found:
        return f"there is no command {text!r}; did you mean {_either(path, found)}?"
    if path:
        return f"there is no command {text!r}: write one of {', '.join(group.commands)}"
    for program_name in _OTHER.get(name, ()):
        found = _commands_like(given, list(load(program_name).paths()))
        if found and _cost(given, found[0].split()) < _ACTION_ALONE:
            return f"there is no command {text!r}; did you mean {_either([program_name], found)}?"
    return f"there is no command {text!r}"


def unknown_option(program: str, option: str) -> str:
    """Return the message for an option that does not exist, or not at this place.

    Args:
        program: as for `unknown_command`, the place of the option.
        option: as it was written, perhaps with `=` and a value.
    """
    name, *path = program.split()
    word = option.partition("=")[0]
    own = load(name)
    node = own.at(path)
    here = [] if node is None else node.option_names()
    spelled = closest(word, here)
    if spelled is not None:
        return f"there is no option {word!r}; did you mean {spelled!r}?"
    for depth in range(len(path)):
        above = own.at(path[:depth])
        if above is not None and word in above.option_names():
            before = " ".join([name, *path[:depth], word])
            return f"the option {word} stands before {path[depth]!r}: {before}"
    for command, other in own.descendants():
        if word in other.option_names():
            return f"{word} is an option of {name} {' '.join(command)}"
    for program_name in _OTHER[name]:
        if word in load(program_name).option_names():
            return f"{word} is an option of {program_name}"
    return f"there is no option {word!r}"


def surplus(program: str, words: Sequence[str]) -> str:
    """Return the message for arguments that a command does not take."""
    name, *path = program.split()
    if not path and words[0] in load(name).commands:
        return f"the command {words[0]!r} stands first: {name} {words[0]}"
    return f"unrecognized arguments: {' '.join(words)}"


_OTHER: Final = {"verdict-py": ("verdictd-py",), "verdictd-py": ("verdict-py",)}


def _program_with(name: str, path: Sequence[str], given: Sequence[str]) -> str:
    """Return the command of the other program that has exactly these words, else an empty text."""
    for program in _OTHER.get(name, ()):
        node = load(program)
        found: list[str] = []
        for word in (*path, *given):
            if word not in node.commands:
                break
            found.append(word)
            node = node.commands[word]
        if len(found) > len(path):
            return " ".join([program, *found])
    return ""


def _either(path: Sequence[str], found: Sequence[str]) -> str:
    """Return `'a', 'b' or 'c'`, with the words before each."""
    quoted = [repr(" ".join([*path, command])) for command in found[:_MAX_SUGGESTIONS]]
    return " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def _commands_like(given: Sequence[str], commands: Collection[str]) -> list[str]:
    """Return the commands that the given words stand for most probably, the best ones only."""
    rated = [
        (cost, command) for command in commands if (cost := _cost(given, command.split())) < _FAR
    ]
    if rated:
        best = min(cost for cost, _ in rated)
        return [command for cost, command in rated if cost == best]
    first = closest(given[0], {command.split()[0] for command in commands}) if given else None
    return [] if first is None else [first]


_FAR: Final = 100


def _cost(given: Sequence[str], command: Sequence[str]) -> int:
    """Return how far the words are from a command; the order of two words costs one edit."""
    if len(command) == 1:
        return _word_cost(given[0], command[0]) if given else _FAR
    orders: Iterable[tuple[int, Sequence[str]]] = ((0, command), (1, command[::-1]))
    if len(given) >= 2:
        return min(
            extra + _word_cost(given[0], order[0]) + _word_cost(given[1], order[1])
            for extra, order in orders
        )
    if not given:
        return _FAR
    joined = min(
        extra + _word_cost(_joined(given[0]), _joined("".join(order))) for extra, order in orders
    )
    if joined < _FAR:
        return joined
    return _ACTION_ALONE if given[0] == command[-1] else _FAR


_ACTION_ALONE: Final = 50
"""Cost of a command of which only the second word was given."""


def _word_cost(given: str, word: str) -> int:
    if word in SYNONYMS.get(given, ()):
        return 1
    edits = distance(given, word)
    return edits if edits <= allowed_edits(given) else _FAR


def _joined(word: str) -> str:
    return word.replace("-", "").replace("_", "")
