"""Structured log on standard error: one line for each event, without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from verdictd_py.domain.events import LogDropped
from verdictd_py.domain.eventtypes import Event, RenderedValue
from verdictd_py.events.floods import Floods

_JSON: Final = json.JSONEncoder().encode
"""Encoder of ASCII only, so that no peer can forge a line or move the cursor of a terminal."""

Fields = Mapping[str, RenderedValue]


class LogEvents:
    """Port `Events` that writes to the log.

    Args:
        write: takes one line with its newline, and never blocks (see `events.writer`).
        worker: number of this process among the guest workers, in each line; None in the others.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        log_format: Literal["text", "json"] = "text",
        *,
        worker: int | None = None,
    ) -> None:
        self._floods = Floods()
        self._send = write
        self._line = _json_line if log_format == "json" else _text_line
        self._context: Fields = {} if worker is None else {"worker": worker}

    def record(self, event: Event) -> None:
        """Write one line with the level of the event's type; a flood of lines is only counted."""
        if self._floods.admits(event):
            self._write(event)

    async def commit(self, *events: Event) -> None:
        """Write one line for each event; nothing of the log is audited."""
        for event in events:
            self.record(event)

    def end_minute(self) -> None:
        """Write a line with a count for each flood of the last minute; call it each minute."""
        for flood in self._floods.end_minute():
            self._write(flood)

    def report_dropped(self, lines: int) -> None:
        """Write how many lines were lost; the writer calls this, in its thread."""
        self._write(LogDropped(lines=lines))

    def _write(self, event: Event) -> None:
        spec = event.spec
        self._send(self._line(spec.level, spec.name, {**self._context, **event.rendered()}))


def _now() -> str:
    return datetime.now(UTC).isoformat().removesuffix("+00:00") + "Z"


def _json_line(level: str, name: str, fields: Fields) -> str:
    return _JSON({**fields, "event": name, "level": level, "timestamp": _now()}) + "\n"


def _text_line(level: str, name: str, fields: Fields) -> str:
    """Return `time LEVEL event name="value" ...`, whose values are JSON."""
    texts = [f"{key}={_JSON(value)}" for key, value in fields.items() if value is not None]
    return " ".join((_now(), level.upper(), name, *texts)) + "\n"
