"""Traces of a broker, as a collector of OpenTelemetry receives them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.clock import until
from tests.support.kbs import PATH, SECRET
from tests.support.rcar_guests import connected, tdx_guest
from tests.support.verdict import verdict
from verdictd_py import daemon as app
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon import tracing
from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.tracing import recording
from verdictd_py.tracing.queueing import BATCH, MAX_QUEUED, Delivery
from verdictd_py.tracing.recording import MAX_STAGES, Request

WORKERS = [
    pytest.param(1, marks=pytest.mark.broker(kbs=True, workers=1), id="1"),
    pytest.param(2, marks=pytest.mark.broker(kbs=True, workers=2), id="2"),
]


class Collector(services.TraceServiceServicer):
    """A collector: the service and the messages are those of the OpenTelemetry project."""

    def __init__(self) -> None:
        self.requests: list[messages.ExportTraceServiceRequest] = []
        self.address = ""

    def Export(  # noqa: N802  # the wire's name
        self, request: messages.ExportTraceServiceRequest, context: object
    ) -> messages.ExportTraceServiceResponse:
        self.requests.append(request)
        return messages.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def children(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent_span_id == parent.span_id]


@pytest.fixture
def collector() -> Iterator[Collector]:
    receiver = Collector()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add: Callable[[Collector, grpc.Server], None] = services.add_TraceServiceServicer_to_server
        add(receiver, server)
        receiver.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield receiver
        server.stop(None).wait()


@pytest.fixture
def broker_settings(collector: Collector) -> dict[str, Any]:
    return {"traces": collector.address}


def url(broker: RunningBroker) -> str:
    return f"http://{broker.daemon.listener('kbs_http').address}"


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


@pytest.mark.parametrize("workers", WORKERS)
async def test_requests_have_a_span_with_their_stages(
    broker: RunningBroker, collector: Collector, workers: int
) -> None:
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
        assert await guest.version() == "v1"
    async with connected(url(broker), tdx_guest(broker.platform)) as session:
        assert (await session.resource(PATH)).reveal() == SECRET
    assert (await verdict(broker, "key", "list")).status == 0
    await until(lambda: collector.named("kbs_http GET /resource/{repository}/{type}/{tag}"))
    await until(lambda: collector.named("client_api ListKeys"))
    await until(lambda: collector.named("listen version"))
    (first,) = collector.named("listen Get KEK")
    stages = collector.children(first)
    second, third = collector.named("listen version")
    assert third.parent_span_id == second.parent_span_id
    assert [span.name for span in stages if span.trace_id == first.trace_id][:2] == [
        "handshake",
        "evidence",
    ]
    assert {"verification", "policy", "audit", "answer"} < {span.name for span in stages}
    assert all(
        first.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        and span.end_time_unix_nano <= first.end_time_unix_nano
        for span in stages
        if span.name != "listen version"
    )
    assert (second.trace_id, second.parent_span_id) == (first.trace_id, first.span_id)
    known = attributes(first)
    assert first.trace_id.hex().startswith(known["verdictd.connection"])
    assert known["verdictd.appraisal.id"].startswith(known["verdictd.connection"])
    assert known["verdictd.appraisal.result"] == "accepted"
    assert known["verdictd.tee"] == "tdx"
    (attested,) = collector.named("kbs_http POST /attest")
    assert "verification" in {span.name for span in collector.children(attested)}
    (called,) = collector.named("client_api ListKeys")
    assert attributes(called)["verdictd.status"] == "ok"
    assert not [s for s in collector.spans if s.status.code == Status.STATUS_CODE_ERROR]


async def test_a_refused_guest_is_an_error_with_its_code(
    broker: RunningBroker, collector: Collector
) -> None:
    stranger = SimulatedPlatform.create(now=broker.now)
    async with broker.guest(type(broker.attester())(stranger)) as guest:
        with pytest.raises(BrokerRefused):
            await guest.keks([KID])
    await until(lambda: collector.named("listen connection"))
    (span,) = collector.named("listen connection")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["verdictd.appraisal.code"] == "quote-invalid"
    (refused,) = broker.events.named("guest.refused")
    assert attributes(span)["verdictd.appraisal.id"] == refused["appraisal"]


@pytest.mark.broker(kbs=True)
async def test_nothing_that_a_client_sends_and_no_secret_is_exported(
    broker: RunningBroker, collector: Collector
) -> None:
    async with broker.guest() as guest:
        await guest.keks([KID])
        with pytest.raises(BrokerRefused):
            await guest.call({"command": "Forged command"})
    async with connected(url(broker), tdx_guest(broker.platform)) as session:
        await session.resource(PATH)
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.request("PROPFIND", f"{url(broker)}/kbs/v0/forged-path")
        await client.get(f"{url(broker)}/kbs/v0/resource/forged/path/here")
    await verdict(broker, "key", "describe", "forged-kid")
    await until(lambda: collector.named("listen other"))
    await until(lambda: collector.named("client_api DescribeKey"))
    resource = "kbs_http GET /resource/{repository}/{type}/{tag}"
    await until(lambda: len(collector.named(resource)) > 1)
    exported = b"".join(request.SerializeToString() for request in collector.requests)
    chosen = (b"orged", b"PROPFIND", b"127.0.0", KID.encode(), str(PATH).encode())
    for text in (KEY, SECRET, *chosen):
        assert text not in exported


async def test_a_collector_that_cannot_be_reached_delays_nothing(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    with socket.socket() as silent:  # it accepts connections, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with (
            running_broker(tmp_path, platform, traces=url) as broker,
            broker.guest() as guest,
        ):
            await guest.keks([KID])
    (dropped,) = broker.events.named("trace.dropped")
    assert dropped["requests"] == 1


def test_without_the_libraries_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_LIBRARY", "no.such.library")
    settings = Settings(data_dir=tmp_path, collateral_url=(), traces="http://127.0.0.1:4317")
    with pytest.raises(ConfigError, match=r"pip install verdictd-py\[otel\]"):
        app.build_daemon(settings, Unsafe(), _Nothing())


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4317",
        "http://127.0.0.1",
        "ftp://h:1",
        "http://u:p@h:1",
        "http://h:1/v1",
        "http://h:x",
    ],
)
def test_a_url_that_names_no_collector_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write http://HOST:PORT"):
        Settings(traces=url)


class _Nothing:
    def record(self, event: object) -> None:
        pass

    async def commit(self, *events: object) -> None:
        pass


class Stuck:
    """An exporter that waits until it is stopped."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.begun = threading.Event()
        self.batches: list[int] = []

    def export(self, requests: Sequence[Request]) -> bool:
        self.batches.append(len(requests))
        self.begun.set()
        self.stopped.wait()
        return False

    def stop(self) -> None:
        self.stopped.set()


def test_the_queue_is_bounded_and_counts_what_it_drops() -> None:
    exporter, dropped = Stuck(), list[int]()
    delivery = Delivery(lambda: exporter, dropped.append)
    delivery.start()
    request = _request()
    for _ in range(BATCH):
        delivery.put(request)
    exporter.begun.wait()
    for _ in range(MAX_QUEUED + 5):
        delivery.put(request)
    assert len(delivery._waiting) == MAX_QUEUED
    delivery.close()
    assert exporter.batches[0] == BATCH
    assert sum(dropped) >= 5


def test_an_exporter_that_fails_is_called_again() -> None:
    class Failing(Stuck):
        def export(self, requests: Sequence[Request]) -> bool:
            self.batches.append(len(requests))
            raise RuntimeError("secret")

    exporter, dropped = Failing(), list[int]()
    delivery = Delivery(lambda: exporter, dropped.append)
    for _ in range(BATCH + 1):
        delivery.put(_request())
    delivery.start()
    delivery.close()
    delivery._thread.join()
    assert sum(exporter.batches) == BATCH + 1
    assert sum(dropped) + delivery._dropped == BATCH + 1


def _request() -> Request:
    requests: list[Request] = []
    meter = recording.Recorder(requests.append).meter(None)
    trace = meter.observer("listen", "0123456789abcdef")
    assert isinstance(trace, recording._ConnectionTrace)
    trace.end("version")
    return requests[0]


def test_the_stages_of_a_request_are_bounded() -> None:
    requests: list[Request] = []
    trace = recording.Recorder(requests.append).meter(None).observer("listen", "0123456789abcdef")
    assert isinstance(trace, recording._ConnectionTrace)
    for _ in range(MAX_STAGES + 3):
        trace("policy", 1, 1)
    trace.end("version")
    trace.end()
    (request,) = requests
    assert len(request.stages) == MAX_STAGES
    assert request.attributes["verdictd.omitted_stages"] == "3"
