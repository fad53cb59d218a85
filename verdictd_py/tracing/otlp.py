"""Export of requests as OTLP over gRPC, with the libraries of OpenTelemetry (extra `otel`).

The libraries also read the environment variables `OTEL_EXPORTER_OTLP_*` (headers, certificates)
and `OTEL_RESOURCE_ATTRIBUTES`. Source: OpenTelemetry, "OTLP Exporter Configuration".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from verdictd_py import __version__
from verdictd_py.tracing.recording import Request

SECONDS: Final = 5.0
"""Time limit to send one batch, with all attempts."""

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("verdictd-py", __version__)


class OtlpExporter:
    """Sends requests to a collector; see `queueing.Exporter`.

    Args:
        url: `http://HOST:PORT` or `https://HOST:PORT`.
        process: what distinguishes this process from others of the broker.
    """

    def __init__(self, url: str, process: str) -> None:
        # The libraries report to `logging`, whose default writes to standard error, and so would
        # mix other lines into the log. `trace.dropped` reports the failures.
        libraries = logging.getLogger("opentelemetry")
        libraries.propagate = False
        libraries.addHandler(logging.NullHandler())
        self._resource = Resource.create(
            {
                "service.name": "verdictd-py",
                "service.version": __version__,
                "service.instance.id": process,
            }
        )
        self._exporter = OTLPSpanExporter(url, timeout=SECONDS)

    def export(self, requests: Sequence[Request]) -> bool:
        spans = [span for request in requests for span in self._spans(request)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def stop(self) -> None:
        self._exporter.shutdown()

    def _spans(self, request: Request) -> Iterator[ReadableSpan]:
        """Yield the span of a request, and those of its stages."""
        own = _context(request.trace, request.span)
        whole = request.span_of
        yield ReadableSpan(
            whole.name,
            context=own,
            parent=_context(request.trace, request.parent) if request.parent else None,
            resource=self._resource,
            attributes=request.attributes,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if request.failed else StatusCode.UNSET),
            start_time=whole.began,
            end_time=whole.ended,
            instrumentation_scope=_SCOPE,
        )
        for number, stage in enumerate(request.stages, 1):
            yield ReadableSpan(
                stage.name,
                # The id of the request is random, so those after it are as unique.
                context=_context(request.trace, (request.span + number) % 2**64 or 1),
                parent=own,
                resource=self._resource,
                attributes={"verdictd.connection": request.attributes["verdictd.connection"]},
                start_time=stage.began,
                end_time=stage.ended,
                instrumentation_scope=_SCOPE,
            )


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=_SAMPLED)
