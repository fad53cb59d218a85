"""Construction of the traces of a process (`--traces`)."""

from __future__ import annotations

import asyncio
import uuid
from importlib.util import find_spec
from typing import Final, Self

from verdictd_py.config import Settings
from verdictd_py.domain.events import TraceDropped
from verdictd_py.errors import ConfigError
from verdictd_py.ports import Events
from verdictd_py.stages import Meter
from verdictd_py.tracing.queueing import Delivery, Exporter
from verdictd_py.tracing.recording import Recorder

_LIBRARY: Final = "opentelemetry.exporter.otlp.proto.grpc"


class Tracing:
    """Traces of one process, on their way to a collector.

    Args:
        url: address of the collector.
        log: receives the events of the process.

    Attributes:
        events: receives the events of the process, and passes them on to the log.
    """

    def __init__(self, url: str, log: Events) -> None:
        def build() -> Exporter:
            from verdictd_py.tracing.otlp import OtlpExporter  # noqa: PLC0415  # optional, slow

            return OtlpExporter(url, uuid.uuid4().hex)

        def dropped(requests: int) -> None:
            log.record(TraceDropped(requests=requests))

        self._delivery = Delivery(build, dropped)
        self._recorder = Recorder(self._delivery.put)
        self.events = self._recorder.events(log)
        self._delivery.start()

    @classmethod
    def of(cls, settings: Settings, log: Events) -> Self | None:
        """Return the traces of a process; None if the settings name no collector.

        Raises:
            ConfigError: the libraries are not installed.
        """
        if settings.traces is None:
            return None
        try:
            found = find_spec(_LIBRARY)
        except ModuleNotFoundError:  # a package above it
            found = None
        if found is None:
            raise ConfigError(
                "--traces needs the libraries of OpenTelemetry; install them with "
                "'pip install verdictd-py[otel]', or remove --traces"
            )
        return cls(settings.traces, log)

    def meter(self, inner: Meter | None) -> Meter:
        """Return a meter that traces requests, in addition to what `inner` measures."""
        return self._recorder.meter(inner)

    async def close(self) -> None:
        """Export what waits, within a time limit."""
        await asyncio.to_thread(self._delivery.close)
