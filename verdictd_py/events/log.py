"""Structured log on standard error: one line for each event, without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

import structlog

from verdictd_py.domain.events import LogDropped
from verdictd_py.domain.eventtypes import Event, Level
from verdictd_py.events.floods import Floods

_JSON: Final = json.JSONEncoder().encode
"""Encoder of ASCII only, so that no peer can forge a line or move the cursor of a terminal."""


_TEXT: Final = json.encoder.encode_basestring_ascii
"""What `_JSON` does for texts, in a third of the time."""


class LogEvents:
    """Port `Events` that writes to the log.

    Args:
        write: takes one line with its newline, and never blocks (see `events.writer`).
        level: the least urgent level that is written.
        worker: number of this process among the guest workers, in each line; None in the others.

    Attributes:
        note: called with each event about the log itself, which no other receiver gets.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        log_format: Literal["text", "json"] = "text",
        *,
        level: str = "info",
        worker: int | None = None,
    ) -> None:
        self._floods = Floods()
        self._levels = Level.from_level(level)
        self.note: Callable[[Event], None] = lambda event: None  # noqa: ARG005  # unused
        logger = structlog.wrap_logger(
            _Lines(write),
            processors=[_json_line if log_format == "json" else _text_line],
            wrapper_class=_Logger,
        )
        context = {} if worker is None else {"worker": worker}
        self._logger = cast("_Logger", logger.bind(**context))

    def record(self, event: Event) -> None:
        """Write one line with the level of the event's type; a flood of lines is only counted."""
        if event.spec.level in self._levels and self._floods.admits(event):
            self._logger.write(event)

    async def commit(self, *events: Event) -> None:
        """Write one line for each event; nothing of the log is audited."""
        for event in events:
            self.record(event)

    def end_minute(self) -> None:
        """Write a line with a count for each flood of the last minute; call it each minute."""
        for flood in self._floods.end_minute():
            self.note(flood)
            self._logger.write(flood)

    def report_dropped(self, lines: int) -> None:
        """Write how many lines were lost; the writer calls this, in its thread."""
        dropped = LogDropped(lines=lines)
        self.note(dropped)
        self._logger.write(dropped)


class _Logger(structlog.BoundLoggerBase):
    """Logger of events, whose levels belong to their types.

    structlog's usual logger costs several times as much: it has a method and two processors for
    the level and the time.
    """

    def write(self, event: Event) -> None:
        spec, fields, connection = event.spec, event.rendered(), event.correlation.id
        if connection:
            self._proxy_to_logger(spec.level, spec.name, **fields, connection=connection)
        else:
            self._proxy_to_logger(spec.level, spec.name, **fields)


class _Lines:
    """Logger for structlog that passes each line on."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.debug = self.info = self.warning = self.error = write


def _now() -> str:
    return datetime.now(UTC).isoformat().removesuffix("+00:00") + "Z"


def _json_line(logger: object, level: str, event: MutableMapping[str, Any]) -> str:
    del logger
    return _JSON({**event, "level": level, "timestamp": _now()}) + "\n"


def _text_line(logger: object, level: str, event: MutableMapping[str, Any]) -> str:
    """Return `time LEVEL event name="value" ...`, whose values are JSON."""
    del logger
    name = event.pop("event")
    texts = [
        f"{key}={_TEXT(value) if type(value) is str else _other(value)}"
        for key, value in event.items()
        if value is not None
    ]
    return " ".join((_now(), level.upper(), name, *texts)) + "\n"


def _other(value: object) -> str:
    """Return the JSON of a value that is not a text."""
    if type(value) is list:  # only of texts
        return f"[{', '.join(map(_TEXT, value))}]"
    return _JSON(value)
