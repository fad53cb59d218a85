"""Structured log on standard error: one line for each event, without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog

from verdictd_py.domain.events import LogDropped
from verdictd_py.domain.eventtypes import Event, Level
from verdictd_py.events.floods import Floods

_METHODS: Final = {Level.INFO: "info", Level.WARNING: "warning"}


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
        self._worker = {} if worker is None else {"worker": worker}
        self._logger = structlog.wrap_logger(
            _Lines(write),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _json_line if log_format == "json" else _text_line,
            ],
        )

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
        write = getattr(self._logger, _METHODS[event.spec.level])
        write(event.spec.name, **{**self._worker, **event.rendered()})


class _Lines:
    """Logger for structlog that passes each line on."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def info(self, line: str) -> None:
        self._write(line + "\n")

    warning = info


def _json_line(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    del logger, method
    return json.dumps(dict(event))


def _text_line(logger: object, method: str, event: Mapping[str, Any]) -> str:
    """Return `time LEVEL event name="value" ...`.

    Values are JSON, so that no peer can forge a line.
    """
    del logger, method
    texts = [
        f"{name}={json.dumps(value)}"
        for name, value in event.items()
        if name not in {"timestamp", "level", "event"} and value is not None
    ]
    return " ".join([event["timestamp"], event["level"].upper(), event["event"], *texts])
