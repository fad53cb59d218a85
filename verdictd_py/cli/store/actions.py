"""What the actions of `verdictd-py store` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, complain, printable

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


def print_report(
    action: str, document: str, members: Mapping[str, Any], text: Iterable[str], *, as_json: bool
) -> int:
    """Print the result of work on many objects, and return the exit status.

    Args:
        document: kind of the document in the JSON Schema.
        members: its members; `problems` are lines, each about one object.
        text: lines for people, who get the problems before them.
    """
    problems = members["problems"]
    if as_json:
        CommandOutput(document, members).print(Form.JSON)
    else:
        for problem in problems:
            complain(f"{PROGRAM} {action}", problem)
        for line in text:
            print(printable(line))
    return EXIT_REFUSED if problems else EXIT_OK
