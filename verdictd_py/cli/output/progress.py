"""Progress of work that takes longer than two seconds, in a line on standard error.

The line is only written to a terminal, and erased before the work returns.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any, Final, TextIO, cast

from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.text import wrapped
from verdictd_py.cli.parsing import printable

PATIENCE_SECONDS: Final = 2.0
_STEP_SECONDS: Final = 1.0
_WRITING: Final = frozenset({"write", "writelines", "buffer"})
_ERASE: Final = "\r\x1b[K"


@contextmanager
def shown(text: str, stream: TextIO | None = None) -> Iterator[None]:
    """Write a text and the seconds since the start, once the work takes long.

    Args:
        text: what is being done: "waiting for the broker".
        stream: standard error.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None or not stream.isatty():
        yield
        return
    ended = threading.Event()
    ticker = threading.Thread(target=tick, args=(text, stream, ended.wait), daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()


class _FirstOutput:
    """Standard output that ends the progress before anything is written.

    Args:
        stream: the real standard output.
        end: erases the line of the progress.
    """

    def __init__(self, stream: TextIO, end: Callable[[], None]) -> None:
        self._stream = stream
        self._end = end

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # any attribute of a stream
        if name in _WRITING:
            self._end()
        return getattr(self._stream, name)


@contextmanager
def until_output(text: str) -> Iterator[None]:
    """Write a text and the seconds, once the work takes long, until it writes its first output."""
    output = sys.stdout
    if output is None or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(shown(text))
        sys.stdout = cast("TextIO", _FirstOutput(output, stack.close))
        try:
            yield
        finally:
            sys.stdout = output


def tick(
    text: str,
    stream: TextIO,
    wait: Callable[[float], bool],
    clock: Callable[[], float] = monotonic,
) -> None:
    """Write the line again every second until the work has ended, and erase it then.

    Args:
        wait: waits at most so many seconds; returns whether the work has ended.
    """
    started = clock()
    if wait(PATIENCE_SECONDS):
        return
    try:
        while True:
            width = (terminal.columns(stream) or 80) - 1  # the last column would begin a new line
            line = f"{printable(text)}, {clock() - started:.0f} s"
            stream.write(_ERASE + wrapped(line, width, fold=True)[0])
            stream.flush()
            if wait(_STEP_SECONDS):
                break
        stream.write(_ERASE)
        stream.flush()
    except (OSError, ValueError):  # the terminal was closed; ValueError: by this program
        return
