"""`--watch`: the whole list once, then only what changes; a bounded screen; a clean end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import pytest

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import guestviews, schema, storedviews
from verdictd_py.cli.management.client import BrokerFailed
from verdictd_py.cli.management.watching import KIND, watch
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import EXIT_OK


def keys(**sizes: int) -> CommandOutput:
    return storedviews.keys([v1.Key(name=name, size=size) for name, size in sizes.items()])


async def watched(outputs: Sequence[CommandOutput], form: Form) -> tuple[int, list[float]]:
    """Watch these outputs until Ctrl-C; return the exit status and the pauses."""
    remaining, pauses = list(outputs), []
    ended = asyncio.Event()

    async def produce() -> CommandOutput:
        return remaining.pop(0)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if not remaining:
            ended.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(watch(produce, form, 5.0, sleep))
    await ended.wait()
    task.cancel()  # as asyncio.run does at Ctrl-C
    return await task, pauses


async def test_rows_that_change_are_appended(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [keys(a=32), keys(a=32), keys(a=1, b=32), keys(b=32)]
    assert await watched(outputs, Form.TABLE) == (EXIT_OK, [5.0] * 4)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["key", "changed", "bytes", "problem"],
        ["a", "32"],
        ["a", "1"],
        ["b", "32"],
        ["a", "removed"],
    ]


async def test_documents_of_changes_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    await watched([keys(a=32), keys(a=1), keys()], Form.JSON)
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["change"], each["item"]["size"]) for each in documents] == [
        ("added", 32),
        ("changed", 1),
        ("removed", 1),
    ]
    for document in documents:
        jsonschema_rs.validate(schema.schema_of(KIND), document)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form.NAMES, "a\nb\n"),
        (Form.YAML, "schema: verdictd.v1/key-list\nitems:\n"),
    ],
)
async def test_other_forms(capsys: pytest.CaptureFixture[str], form: Form, text: str) -> None:
    await watched([keys(a=32), keys(a=32, b=32)], form)
    out = capsys.readouterr().out
    assert out.startswith(text)
    assert form is Form.NAMES or out.count("---\n") == 1


async def test_a_guest_that_left_a_list_of_the_last_ones_is_not_removed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await watched([guestviews.guests([v1.Guest(id=name)]) for name in "ab"], Form.NAMES)
    assert capsys.readouterr().out == "a\nb\n"


async def test_an_output_that_is_no_list_is_written_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    statuses = [storedviews.status(v1.Status(version=text)) for text in ("1", "1", "2")]
    await watched(statuses, Form.TABLE)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("version")] == [
        "version         1",
        "version         2",
    ]


async def test_a_terminal_is_redrawn_within_its_height(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 1

    size = os.terminal_size((80, 6))
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: size)
    monkeypatch.setenv("NO_COLOR", "1")
    stdout = Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    await watched([keys(**{f"k{n}": 32 for n in range(9)}), keys(a=32)], Form.TABLE)
    first, second = stdout.getvalue().removeprefix("\x1b[2J").split("\x1b[H")[1:]
    assert first.count("\n") == 5
    assert "... 6 more lines: enlarge the terminal" in first
    assert second.splitlines()[1].startswith("a ")
    assert second.endswith("\x1b[J")


async def test_a_broker_that_fails_ends_the_watch() -> None:
    async def produce() -> Any:
        raise BrokerFailed("gone", answered=False)

    with pytest.raises(BrokerFailed):
        await watch(produce, Form.TABLE, 5.0)
