"""Type of the commands of `verdict-py`, and arguments that several of them take."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from verdictd_py.cli.management.client import BrokerClient
from verdictd_py.cli.output.result import CommandOutput

Run = Callable[[BrokerClient, Namespace], Awaitable[CommandOutput]]
Arguments = Mapping[str, Mapping[str, Any]]

NAME: Final[Arguments] = {"name": {"metavar": "NAME"}}
FILE: Final[Arguments] = {"file": {"metavar": "FILE", "type": Path}}
YES: Final[Arguments] = {"--yes": {"action": "store_true", "help": "without asking"}}


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its words, its help, its arguments as for argparse, and its function.

    Attributes:
        writes: kinds of the documents that it writes as data.
        changes: whether the command changes a document that decides about guests; if so, the
            open problems follow its output.
        watchable: whether its output changes by itself, so that `--watch` makes sense.
    """

    words: str
    help: str
    run: Run
    arguments: Arguments = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    changes: bool = False
    watchable: bool = False
