"""Kinds of names that a broker stores, and their request for completion.

Only `request` loads gRPC, which takes a quarter of a second.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Final

SECONDS: Final = 1.0
"""Time limit of a request for names, the start of gRPC included."""

SECONDS_VARIABLE: Final = "VERDICT_PY_COMPLETION_SECONDS"
"""Variable of the environment that replaces `SECONDS`, for brokers that are far away."""

_SAFE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:+-]*")
"""Names that no shell interprets. Others are not offered: the broker may be an attacker's."""

KINDS: Final[Mapping[tuple[str, str], str]] = {
    ("key describe", "name"): "key",
    ("key show", "name"): "key",
    ("key delete", "name"): "key",
    ("key adopt", "resource"): "resource",
    ("resource show", "resource"): "resource",
    ("resource set", "resource"): "resource",
    ("resource delete", "resource"): "resource",
    ("policy show", "name"): "document",
    ("policy set", "name"): "document",
    ("policy delete", "name"): "document",
    ("policy check", "policy"): "document",
    ("policy test", "policy"): "document",
    ("policy test", "reference"): "document",
    ("policy test", "id"): "guest",
    ("reference set", "name"): "document",
    ("reference retire", "name"): "set",
    ("reference delete", "name"): "set",
    ("reference diff", "name"): "set",
    ("reference diff", "other"): "set",
    ("reference pin", "origin"): "guest",
    ("explain", "id"): "guest",
    ("guest disconnect", "id"): "connected",
    ("", "export_opa_policy"): "document",
    ("", "set_opa_policy"): "document,file",
    ("", "export_opa_reference"): "document",
    ("", "set_opa_reference"): "document,file",
    ("", "test_opa_remote"): "document,document,file",
    ("", "test_opa_local_policy"): "file,document,file",
    ("", "test_opa_local_reference"): "document,file,file",
    ("", "get_resource"): "resource",
    ("", "set_resource"): "resource,file",
}
"""Kind of each argument that is a name, by the words of the command and argparse's `dest`."""


def names_in(words: str, options: Namespace) -> list[tuple[str, str]]:
    """Return kind and value of each name that a command was given."""
    values = [
        (kind, getattr(options, dest, None))
        for (command, dest), kind in KINDS.items()
        if command == words
    ]
    return [(kind, value) for kind, value in values if isinstance(value, str) and value]


def request(kind: str, words: Sequence[str]) -> list[str]:
    """Return the names of a kind from the broker that a command line reaches.

    It never fails, and ends the process without output after `SECONDS`: a press of the tab key
    must not wait.

    Args:
        words: options on the command line, and their values.
    """
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, _seconds())
    try:
        from verdictd_py.cli.completion.names import names_at  # noqa: PLC0415  # see above

        found = names_at(kind, words)
    except (Exception, SystemExit):  # noqa: BLE001  # silent: the shell would print it
        return []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return safe(found)


def safe(found: Sequence[str]) -> list[str]:
    """Return the names that no shell interprets."""
    return [name for name in found if _SAFE.fullmatch(name)]


def _seconds() -> float:
    try:
        seconds = float(os.environ.get(SECONDS_VARIABLE, ""))
    except ValueError:
        return SECONDS
    return seconds if 0 < seconds <= 60 else SECONDS


def _give_up(number: int, frame: object) -> None:
    del number, frame
    sys.stdout.flush()
    os._exit(0)
