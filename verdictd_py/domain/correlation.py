"""Correlation: the id that everything has in common that happens because of one connection.

A listener sets the correlation when it accepts a connection, or when it admits a call of gRPC. Each
task that serves the connection inherits it (PEP 567). Every event carries the id to the log and to
the audit trail; the ids of appraisals and incidents, which peers receive, begin with it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

ID_DIGITS: Final = 16
"""Length of a connection's id: 64 random bits in hexadecimal."""


@dataclass(slots=True, eq=False)
class Correlation:
    """A connection, or a call of gRPC.

    Attributes:
        id: `ID_DIGITS` hexadecimal digits; empty for work that belongs to no connection.
        listener: name of its listener; empty as above.
        observe: receives each stage with its own duration in nanoseconds, and with that which
            includes the stages within it; None if nothing is measured.
        nested: nanoseconds of the stages within the current stage (see `verdictd_py.stages`).
    """

    id: str
    listener: str
    observe: Callable[[str, int, int], None] | None = None
    nested: int = 0


NO_CONNECTION: Final = Correlation("", "")

_current: ContextVar[Correlation] = ContextVar("correlation", default=NO_CONNECTION)

current: Final = _current.get
"""Returns the correlation of the current task."""


def enter(correlation: Correlation) -> None:
    """Set the correlation of the current task, and of the tasks that it starts from now on."""
    _current.set(correlation)


def extended(unique: str) -> str:
    """Return a unique id that begins with the id of the connection, if there is one.

    Args:
        unique: random hexadecimal digits, more than `ID_DIGITS`; those of the end stay.
    """
    connection = _current.get().id
    return connection + unique[len(connection) :]
