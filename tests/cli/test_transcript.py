"""Every command of `verdict-py` with a real daemon: on a terminal of 80 columns, and as data."""

from __future__ import annotations

import asyncio
import json

import jsonschema_rs
import pytest

from tools.transcript import COLUMNS, GUEST, KID, OTHER_KERNEL, STEPS, Shown, Step, transcript
from verdictd_py.cli.management import schema
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.verdict import COMMANDS

KEY = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMQo="


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    return asyncio.run(transcript())


def command_of(step: Step) -> Command | None:
    """Return the command of a step; None for upstream's options and other programs."""
    program, *words = step.command.split()
    if program != "verdict-py" or words[0].startswith("-"):
        return None
    return next(
        command
        for command in COMMANDS
        if words[: len(command.words.split())] == command.words.split()
    )


def test_the_transcript_has_every_command() -> None:
    found = {command.words for step in STEPS if (command := command_of(step))}
    assert found == {command.words for command in COMMANDS}


def test_no_line_is_wider_than_the_terminal(shown: list[Shown]) -> None:
    wide = [
        (each.command, line)
        for each in shown
        if not each.step.content and not each.step.command.startswith("verdict-py --")
        for line in each.text.splitlines()
        if len(line) > COLUMNS
    ]
    assert not wide


def test_a_refused_guest_is_explained_pinned_and_accepted(shown: list[Shown]) -> None:
    by_command = {each.step.command: each for each in shown}
    guests = [each for each in shown if each.step.command.startswith(GUEST)]
    assert [each.status for each in guests] == [0, 1, 0]
    assert guests[0].text == guests[2].text == f"{KEY}\n"
    refused = guests[1].text.split()[-1]
    explained = by_command["verdict-py explain <id>"].text
    lines = explained.splitlines()
    at = lines.index("rtmr1")
    assert lines[at + 1].startswith("  measured  b8cb7834")
    assert lines[at + 2] == f"  expected  {OTHER_KERNEL[:48]}"
    assert lines[at + 3] == " " * 12 + "^"
    assert lines[-1] == f"  verdict-py reference pin --from {refused}"
    pinned = by_command["verdict-py reference pin --from <id>"].text
    assert "Accept these values from now on? [y/N] y\n" in pinned
    assert "tdxData accepts this guest's rtmr1" in pinned


def test_ids_and_names_are_whole(shown: list[Shown]) -> None:
    by_command = {each.step.command: each.text for each in shown}
    assert KID in by_command["verdict-py key list"].split()
    assert by_command["verdict-py key list -q"].splitlines()[0] == KID
    named = f"'84688df7' stands for {KID}\n"
    assert by_command["verdict-py key show 84688df7"] == f"{named}{KEY}\n"
    disconnected = by_command["verdict-py guest disconnect <guest>"]
    whole = disconnected.split()[-1]
    assert len(whole) == 32
    assert disconnected.startswith(f"Disconnect the guest {whole}? [y/N] y\n")


def test_every_document_follows_the_schema() -> None:
    for each in asyncio.run(transcript("json")):
        command = command_of(each.step)
        if command is None or not each.step.has_forms or each.status == 2:
            continue
        document = json.loads(each.text)
        if not command.writes:
            jsonschema_rs.meta.validate(document)
            continue
        kind = document["schema"].removeprefix("verdictd.v1/")
        assert kind in command.writes, each.command
        jsonschema_rs.validate(schema.schema_of(kind), document)
