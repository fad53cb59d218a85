"""One readable command of `verdict-py`, and the arguments that several have."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from verdictd_py.cli.management.client import BrokerClient
from verdictd_py.cli.management.show import Shown

Run = Callable[[BrokerClient, Namespace], Awaitable[Shown]]
Arguments = Mapping[str, Mapping[str, Any]]

NAME: Final[Arguments] = {"name": {"metavar": "NAME"}}
FILE: Final[Arguments] = {"file": {"metavar": "FILE", "type": Path}}


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, help, arguments as for argparse, and what it does.

    Attributes:
        changes: whether it changes what guests are appraised by, so that its answer ends with
            what remains open.
    """

    words: str
    help: str
    run: Run
    arguments: Arguments = field(default_factory=dict)
    changes: bool = False
