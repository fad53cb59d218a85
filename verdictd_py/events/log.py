"""Structured log on standard error: one line for each event, without secrets."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, TextIO

import structlog

from verdictd_py.domain.eventtypes import Event, Level

_METHODS: Final = {Level.INFO: "info", Level.WARNING: "warning"}


class LogEvents:
    """Port `Events` that writes to the log."""

    def __init__(
        self, log_format: Literal["text", "json"] = "text", *, stream: TextIO | None = None
    ) -> None:
        self._logger = structlog.wrap_logger(
            structlog.PrintLogger(stream or sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _json_line if log_format == "json" else _text_line,
            ],
        )

    def record(self, event: Event) -> None:
        """Write one line with the level of the event's type.

        A log that cannot be written, for example because its disk is full, raises no error: the
        audit trail is what must be written.
        """
        write = getattr(self._logger, _METHODS[event.spec.level])
        with suppress(OSError):
            write(event.spec.name, **event.rendered())

    async def commit(self, *events: Event) -> None:
        """Write one line for each event; nothing of the log is audited."""
        for event in events:
            self.record(event)


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
