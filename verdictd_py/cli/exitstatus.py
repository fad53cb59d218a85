"""Exit statuses of all commands, from the end of their `--help`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from verdictd_py.cli.programs import command_lines

Meanings = tuple[tuple[int, str], ...]

COMMON: Meanings = (
    (0, "done"),
    (1, "refused, or the answer is no"),
    (2, "the command line is wrong, or a file that it names"),
    (3, "no broker reached; a retry may succeed"),
)
"""Meaning of each status in all commands; each command says more exactly what it means there."""

_STATUS = re.compile(r"exit status:\s+(.*?)\s*\Z", re.DOTALL)
_MEANING = re.compile(r"(?:^|, )(\d+) (.*?)(?=, \d+ |\Z)")


def statuses(program: str) -> Iterator[tuple[str, Meanings]]:
    """Yield the commands that describe their exit statuses, with the statuses."""
    for line in command_lines(program):
        found = meanings(line.parser.epilog or "")
        if found:
            yield " ".join(line.words), found


def meanings(epilog: str) -> Meanings:
    """Return the statuses that the end of a help text describes."""
    found = _STATUS.search(epilog)
    if found is None:
        return ()
    text = " ".join(found[1].split())
    return tuple((int(number), meaning) for number, meaning in _MEANING.findall(text))
