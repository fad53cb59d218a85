"""`--watch`: repeats a command, and writes its output again when that has changed.

A terminal shows the whole output, redrawn in place. Any other output gets the whole output once,
and then the objects that were added, changed or removed, each as a row or as a document.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from verdictd_py.cli.output.layout import Table
from verdictd_py.cli.output.result import SCHEMA, CommandOutput, Form, as_text, write
from verdictd_py.cli.output.yamltext import to_yaml
from verdictd_py.cli.parsing import EXIT_OK, one_line

MIN_SECONDS: Final = 1.0
MAX_SECONDS: Final = 3600.0
DEFAULT_SECONDS: Final = 2.0

KIND: Final = "watch-event"
"""Kind of the document of a change."""

_LAST_ONES: Final = frozenset({"guest-list"})
"""Lists of the last objects only: an object that is no longer listed was not removed."""

_CLEAR: Final = "\x1b[2J"
_HOME: Final = "\x1b[H"
_TO_END_OF_LINE: Final = "\x1b[K"
_TO_END_OF_SCREEN: Final = "\x1b[J"

Produce = Callable[[], Awaitable[CommandOutput]]
Sleep = Callable[[float], Awaitable[object]]


async def watch(produce: Produce, form: Form, seconds: float, sleep: Sleep = asyncio.sleep) -> int:
    """Write the output again and again until the operator presses Ctrl-C.

    Args:
        produce: runs the command.
        seconds: pause between two runs.

    Returns:
        Exit status 0, because Ctrl-C is the expected end.

    Raises:
        BrokerFailed: the broker does not answer any more, or it refuses the request.
    """
    writer = _Screen(form) if sys.stdout.isatty() else _Changes(form)
    try:
        while True:
            writer.write(await produce())
            await sleep(seconds)
    except asyncio.CancelledError:  # asyncio.run cancels this task at Ctrl-C
        return EXIT_OK


class _Screen:
    """Redraws the output on a terminal, as much of it as fits."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._start = _CLEAR

    def write(self, output: CommandOutput) -> None:
        lines = _lines(output, self._form)
        height = max(os.get_terminal_size(sys.stdout.fileno()).lines - 1, 2)
        if len(lines) > height:
            more = len(lines) - height + 1
            lines = [*lines[: height - 1], f"... {more} more lines: enlarge the terminal"]
        drawn = "".join(f"{line}{_TO_END_OF_LINE}\n" for line in lines)
        write(sys.stdout, self._start + _HOME + drawn + _TO_END_OF_SCREEN)
        self._start = ""


class _Changes:
    """Appends what has changed since the last output."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._last: dict[str, object] | None = None

    def write(self, output: CommandOutput) -> None:
        items = _items(output)
        if self._last is None:
            self._write_all(output, items)
        elif items != self._last:
            text = "".join(self._changes(output, items, self._last))
            if text:
                write(sys.stdout, text)
        self._last = items

    def _write_all(self, output: CommandOutput, items: Mapping[str, object]) -> None:
        if self._form is Form.JSON:
            write(sys.stdout, "".join(self._changes(output, items, {})))
        else:
            output.print(self._form)

    def _changes(
        self, output: CommandOutput, items: Mapping[str, object], last: Mapping[str, object]
    ) -> Iterator[str]:
        for index, (name, item) in enumerate(items.items()):
            if name not in last:
                yield self._change("added", name, item, output, index)
            elif item != last[name]:
                yield self._change("changed", name, item, output, index)
        if output.kind not in _LAST_ONES:
            for name, item in last.items():
                if name not in items:
                    yield self._change("removed", name, item, output, None)

    def _change(
        self, change: str, name: str, item: object, output: CommandOutput, index: int | None
    ) -> str:
        document = {"schema": SCHEMA + KIND, "change": change, "item": item}
        if self._form is Form.JSON:
            return json.dumps(document) + "\n"
        if self._form is Form.YAML:
            return "---\n" + to_yaml(document)
        if index is None:
            return f"{one_line(name)}  removed\n"
        if self._form is Form.NAMES:
            return f"{one_line(name)}\n"
        return "".join(f"{line}\n" for line in _rows(output, self._form, index))


def _items(output: CommandOutput) -> dict[str, object]:
    """Return the objects by name; an output that is not a list is one object without a name."""
    if isinstance(output.data, Mapping) and "items" not in output.data:
        return {"": dict(output.data)}
    found: Any = output.document()["items"]
    return dict(zip(output.names, found, strict=True))


def _rows(output: CommandOutput, form: Form, index: int) -> list[str]:
    """Return the lines of one object, without a heading."""
    if isinstance(output.text, Table):
        one = CommandOutput(output.kind, output.data, output.text.row(index))
        return one.lines(form, sys.stdout)[1:]
    return ["", *output.lines(form, sys.stdout)]


def _lines(output: CommandOutput, form: Form) -> list[str]:
    if form.is_data:
        return as_text(output.document(), form).splitlines()
    if form is Form.NAMES:
        return [one_line(name) for name in output.names]
    return output.lines(form, sys.stdout)
