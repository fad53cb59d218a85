"""Consent of the operator before a command changes or deletes something."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from typing import Final

from verdictd_py.cli.management.names import Named
from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.layout import Text
from verdictd_py.cli.output.result import CommandOutput
from verdictd_py.cli.output.text import wrapped
from verdictd_py.cli.parsing import printable
from verdictd_py.errors import ConfigError

_ANSWER: Final = 4
"""Columns of an answer behind the question."""


async def confirmed(question: str) -> bool:
    """Ask a question on the terminal; only `y` and `yes` consent."""
    width = terminal.columns(sys.stderr)
    lines = wrapped(f"{printable(question)} [y/N]", None if width is None else width - _ANSWER)
    print("\n".join(lines), end=" ", file=sys.stderr, flush=True)
    # Reading at once would block the event loop, so that Ctrl-C would have no effect.
    loop, answered = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def consented(options: Namespace, named: Named, question: str) -> bool:
    """Return whether a change of the named object may be made.

    On a terminal, the operator is asked unless `--yes` is given. Elsewhere the command consents for
    itself, provided that it has the whole name: which object a beginning names may change.

    Args:
        question: contains the whole name.

    Raises:
        ConfigError: the name is not whole, and the operator is not asked.
    """
    asking = sys.stdin is not None and sys.stdin.isatty() and not options.yes
    if not named.whole and not asking:
        raise ConfigError(
            f"{named.given!r} is the beginning of {named.name}: write the whole name to change "
            "or delete it without a question"
        )
    return not asking or await confirmed(question)


def declined(name: str) -> CommandOutput:
    """Return the output of a command to which the operator did not consent; status 1."""
    text = Text("nothing was changed")
    return CommandOutput("done", {"done": False, "name": name}, text, status=1, names=())
