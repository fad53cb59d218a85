"""`verdictd-py store`: work on the store of keys and resources as a whole.

Each action is a module of this package with a function `add`, which adds its parser to the command
and sets `run`: a function that takes the options and returns the exit status. `ACTIONS` lists them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Final

from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.parsing import EXIT_UNREACHABLE, Parser, complain
from verdictd_py.cli.store import backup, copying, database, newkey, sealing, tokenkey
from verdictd_py.cli.store.actions import PROGRAM, Actions
from verdictd_py.ports.sealing import SealUnavailable

ACTIONS: Final[tuple[Callable[[Actions[Parser]], None], ...]] = (
    sealing.add,
    newkey.add,
    tokenkey.add,
    backup.add,
    database.add,
    copying.add,
)
"""What adds each action, in the order of the help."""


def run(argv: Sequence[str]) -> int:
    """Run an action; return the exit status.

    Raises:
        ConfigError: an option or a file that it names cannot be used.
    """
    options = build_parser().parse_args(list(argv))
    action: Callable[[argparse.Namespace], int] = options.run
    try:
        return action(options)
    except SealUnavailable as error:
        complain(f"{PROGRAM} {options.action}", str(error))
        return EXIT_UNREACHABLE


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Seal the store of keys and resources, and verify it. docs/sealing.md says what sealing\n"
        "protects, and from whom.",
        "exit status: 0 done, 1 refused or damaged, 2 an option or a file cannot be used, "
        "3 the provider of the key does not answer",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for add in ACTIONS:
        add(actions)
    add_timeout(parser)
    return parser
