"""What the actions of `verdictd-py store` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from verdictd_py.cli.parsing import Parser

PROGRAM: Final = "verdictd-py store"

Actions = argparse._SubParsersAction  # noqa: SLF001  # the only name of this type


def add_action(
    actions: Actions[Parser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    *,
    status: str = "0 done, 1 refused or damaged, 2 an option or a file cannot be used, "
    "3 the provider of the key does not answer",
    details: str = "",
) -> Parser:
    """Add the parser of an action, and return it.

    Args:
        text: one line of help.
        run: runs the action; returns the exit status.
        status: its exit statuses.
        details: further paragraphs of its help.
    """
    action = actions.add_parser(
        name,
        prog=f"{PROGRAM} {name}",
        description=text[:1].upper() + text[1:] + "." + (f"\n\n{details}" if details else ""),
        epilog=f"exit status: {status}",
        help=text,
    )
    action.set_defaults(run=run)
    return action
