"""Structured log on standard error, a line an event, nothing secret in any of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, TextIO

import structlog

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports import EventValue

_WARNINGS: Final = frozenset(
    {"guest.refused", "guest.not-judged", "request.failed", "release.refused"}
)
_WARNING_PREFIXES: Final = ("unsafe.", "warning.")


class LogEvents:
    """The `Events` port, onto the log."""

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

    def record(self, event: str, /, **fields: EventValue) -> None:
        """Writes one line; warnings are what an operator should look at.

        A log that cannot be written, on a disk that is full, stops nobody: what must be
        recorded or not happen is in the audit trail.
        """
        with suppress(OSError):
            if event in _WARNINGS or event.startswith(_WARNING_PREFIXES):
                self._logger.warning(event, **fields)
            else:
                self._logger.info(event, **fields)


def _plain(value: object) -> object:
    if isinstance(value, SecretBytes):
        return repr(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _json_line(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    del logger, method
    return json.dumps({name: _plain(value) for name, value in event.items()})


def _text_line(logger: object, method: str, event: Mapping[str, Any]) -> str:
    """`time level event name="value" ...`: values as JSON, so no peer can forge a line."""
    del logger, method
    shown = [
        f"{name}={json.dumps(_plain(value))}"
        for name, value in event.items()
        if name not in {"timestamp", "level", "event"} and value is not None
    ]
    return " ".join([event["timestamp"], event["level"].upper(), event["event"], *shown])
