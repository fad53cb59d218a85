"""Log of `verdictd-py guest` on standard error: what it does, one line for each step."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from verdictd_py.cli.parsing import printable

_GUEST: Final = "verdictd_py.guest"


@contextmanager
def logging_at(level: str) -> Iterator[None]:
    """Write the lines of the guest from a level on, and no lines of libraries."""
    logger = logging.getLogger(_GUEST)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


class _Lines(logging.Formatter):
    """Formatter whose records are one line without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(" ".join(super().format(record).split()))
