"""Progress of work on many objects, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

_TERMINAL_SECONDS: Final = 0.2
_LOG_SECONDS: Final = 10.0
_ERASE: Final = "\r\x1b[K"


@contextmanager
def counting(text: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that displays how many objects of how many are done.

    A terminal has one line, which is erased at the end; anything else gets a line every 10 s.

    Args:
        text: with two `%d`.
    """
    stream = sys.stderr
    is_terminal = stream is not None and stream.isatty()
    next_at = monotonic() + (_TERMINAL_SECONDS if is_terminal else _LOG_SECONDS)

    def progress(done: int, total: int) -> None:
        nonlocal next_at
        if stream is None or monotonic() < next_at:
            return
        line = text % (done, total)
        stream.write(f"{_ERASE}{line}" if is_terminal else f"{line}\n")
        stream.flush()
        next_at = monotonic() + (_TERMINAL_SECONDS if is_terminal else _LOG_SECONDS)

    try:
        yield progress
    finally:
        if is_terminal and stream is not None:
            stream.write(_ERASE)
            stream.flush()
