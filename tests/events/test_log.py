"""The log: a line an event, no secret in it, and no line that a peer wrote."""

from __future__ import annotations

import io
import json
import re
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain import correlation
from verdictd_py.domain.correlation import Correlation
from verdictd_py.domain.events import (
    ConnectionClosed,
    ConnectionProbed,
    ConnectionTimeout,
    KeyRead,
    WarningAudit,
    WarningStorage,
)
from verdictd_py.domain.eventtypes import Event, FieldInfo, event
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.events.log import LogEvents

BYTES = b"hunter2-hunter2-hunter2-hunter2!"
Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")
HOSTILE = [
    "a\n2026-11-24T00:00:00Z INFO guest.accepted peer=x",
    "a\r\nb",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u2028\u2029\x85\x0b\x0c\x1c",
    '" level="info" event="x',
    "\u202egnp.exe",
    "\0",
    "\udcff",
]


Short = Annotated[str, FieldInfo("A text.", characters=10_000)]


@event("test.happened")
class Happened(Event):
    """An event of the test, with a field of each type."""

    value: Short
    values: Annotated[tuple[str, ...], FieldInfo("Texts.", characters=10_000, items=5)] = ()
    none: Short | None
    absent: Short | None = None
    number: Annotated[int, FieldInfo("A number.")] = 3


def logged(log_format: Format, event: Event) -> str:
    """The text that one event makes."""
    stream = io.StringIO()
    LogEvents(stream.write, log_format).record(event)
    return stream.getvalue()


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_secret_is_its_size(log_format: Format) -> None:
    """defects.md 2: the original logs every key."""
    text = logged(log_format, KeyRead(kid="k", key=SecretBytes(BYTES)))
    assert "<32 secret bytes>" in text
    assert "hunter2" not in text
    assert BYTES.hex() not in text


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_forges_a_line_or_moves_a_terminal(log_format: Format, value: str) -> None:
    for text in (
        logged(log_format, ConnectionClosed(peer=value)),
        logged(log_format, Happened(value="x", values=(value, value), none=None)),
    ):
        assert text.endswith("\n")
        assert text.isascii()
        line = text.removesuffix("\n")
        assert line.isprintable()
        assert len(text.splitlines()) == 1


@given(st.text(), st.lists(st.text(), max_size=3).map(tuple))
def test_values_come_back_from_json_unchanged(value: str, values: tuple[str, ...]) -> None:
    found = json.loads(logged("json", Happened(value=value, values=values, none=None)))
    assert (found["value"], found["values"]) == (value, list(values))
    assert (found["none"], found["number"], found["event"]) == (None, 3, "test.happened")
    assert "absent" not in found


@given(st.text())
def test_values_come_back_from_text_unchanged(value: str) -> None:
    text = logged("text", Happened(value=value, none=None))
    found = re.fullmatch(r"\S+ INFO test.happened value=(.*) values=\[\] number=3\n", text)
    assert found is not None
    assert json.loads(found[1]) == value


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize(
    ("event", "level"),
    [
        (ConnectionTimeout(peer="p", reason="x"), "info"),
        (WarningStorage(reason="x"), "warning"),
        (WarningAudit(reason="x"), "error"),
    ],
)
def test_a_line_has_the_level_of_its_type(log_format: Format, event: Event, level: str) -> None:
    text, name = logged(log_format, event), event.spec.name
    if log_format == "json":
        found: dict[str, Any] = json.loads(text)
        assert (found["event"], found["level"]) == (name, level)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", found["timestamp"])
    else:
        assert re.fullmatch(
            rf'\d{{4}}-\d\d-\d\dT[\d:.]+Z {level.upper()} {re.escape(name)} .*reason="x"\n', text
        )


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["connection.probed", "connection.closed", "warning.storage", "warning.audit"]),
        ("info", ["connection.closed", "warning.storage", "warning.audit"]),
        ("warning", ["warning.storage", "warning.audit"]),
        ("error", ["warning.audit"]),
    ],
)
def test_events_below_the_level_are_not_written(level: str, written: list[str]) -> None:
    stream = io.StringIO()
    log = LogEvents(stream.write, "json", level=level)
    for recorded in (
        ConnectionProbed(peer="p"),
        ConnectionClosed(peer="p"),
        WarningStorage(reason="x"),
        WarningAudit(reason="x"),
    ):
        log.record(recorded)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == written


def test_events_below_the_level_are_no_flood() -> None:
    stream = io.StringIO()
    log = LogEvents(stream.write, "json")
    for _ in range(1000):
        log.record(ConnectionProbed(peer="p"))
    log.end_minute()
    assert stream.getvalue() == ""


def test_an_event_is_rendered_once_for_the_trail_and_the_log() -> None:
    correlation.enter(Correlation("a" * 16, "listen"))
    event = WarningStorage(reason="one")
    lines: list[str] = []
    rendered = event.rendered()
    LogEvents(lines.append).record(event)
    assert event.rendered() is rendered == {"reason": "one"}
    assert f'connection="{"a" * 16}"' in lines[0]
    correlation.enter(correlation.NO_CONNECTION)
