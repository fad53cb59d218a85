"""The status listener: metrics against a scripted run, liveness, readiness, hostile clients."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import re
import signal
import socket
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NoReturn

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.clock import elapse_until
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.metrics import get, scrape, settled
from tests.support.rcar_guests import connected, tdx_guest
from tests.system.test_workers import happening, pids, records
from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.listeners import status
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform

pytestmark = pytest.mark.broker(kbs=True, status="127.0.0.1:0")

WORKERS = [
    pytest.param(1, marks=pytest.mark.broker(kbs=True, status="127.0.0.1:0", workers=1), id="1"),
    pytest.param(2, marks=pytest.mark.broker(kbs=True, status="127.0.0.1:0", workers=2), id="2"),
]


def url(broker: RunningBroker) -> str:
    return f"http://{broker.daemon.listener('kbs_http').address}"


@pytest.mark.parametrize("workers", WORKERS)
async def test_the_values_are_those_of_a_scripted_run(broker: RunningBroker, workers: int) -> None:
    """Six attested guests, of which two are refused, two HTTP guests, and their requests."""
    stranger = SimulatedPlatform.create(now=broker.now, options=PlatformOptions())
    async with AsyncExitStack() as stack:
        for _ in range(4):
            guest = await stack.enter_async_context(broker.guest())
            assert (await guest.keks([KID]))[KID].reveal() == KEY
        for _ in range(2):
            refused = await stack.enter_async_context(
                broker.guest(type(broker.attester())(stranger))
            )
            with pytest.raises(BrokerRefused):
                await refused.keks([KID])
        for _ in range(2):
            async with connected(url(broker), tdx_guest(broker.platform)) as session:
                assert (await session.resource(PATH)).reveal() == SECRET
        await settled(broker, "verdictd_connections", 4, listener="listen", state="attested")
        found = await settled(broker, "verdictd_releases_total", 6)
    appraisals = "verdictd_appraisals_total"
    assert found.value(appraisals, listener="listen", result="accepted", tee="tdx") == 4
    assert found.value(appraisals, listener="listen", result="refused") == 2
    assert found.value(appraisals, listener="listen", code="quote-invalid") == 2
    assert found.value(appraisals, listener="kbs_http", result="accepted", code="ok") == 2
    assert found.value(appraisals) == 8
    assert found.value("verdictd_releases_total", kind="kek", result="released") == 4
    assert found.value("verdictd_releases_total", kind="resource", result="released") == 2
    assert found.value("verdictd_challenges_total") == 2
    assert found.value("verdictd_attested_sessions_total") == 2
    assert found.value("verdictd_accepted_connections_total", listener="listen") == 6
    requests = "verdictd_guest_requests_total"
    assert found.value(requests, operation="Get KEK", result="answered") == 4
    assert found.value(requests, operation="attest", result="answered") == 2
    assert found.value(requests, operation="resource", result="answered") == 2
    assert found.value(requests, operation="resource", result="unattested") == 2
    assert found.value(requests, operation="other") == 0
    seconds = "verdictd_stage_seconds_count"
    assert found.value(seconds, stage="handshake", listener="listen") == 6
    assert found.value(seconds, stage="verification") == 8
    assert found.value(seconds, stage="collateral") == 6
    assert found.value(seconds, stage="policy", listener="listen") == 8
    assert found.value(seconds, stage="answer", listener="listen") == 4
    for stage in ("evidence", "audit", "answer"):
        assert found.value(seconds, stage=stage, listener="kbs_http") > 0
    assert found.value("verdictd_stage_seconds_sum", stage="verification") > 0
    assert found.value("verdictd_events_total", event="guest.accepted") == 6
    written = sum(map(len, records(broker.data).values()))
    assert found.value("verdictd_audit_records_total") == written > 14
    size = sum(path.stat().st_size for path in (broker.data / "audit").glob("*.jsonl"))
    assert found.value("verdictd_audit_written_bytes_total") == size
    assert found.value("verdictd_workers", state="running") == (workers if workers > 1 else 0)
    assert found.value("verdictd_ready") == 1
    assert found.value("verdictd_build_info") == 1
    assert found.value("verdictd_collateral_sets") == 1
    assert found.value("verdictd_collateral_expiry_timestamp_seconds") > broker.now.timestamp()
    assert found.value("verdictd_document_revision", document="tdxPolicy.rego") > 0


def kill_workers(broker: RunningBroker) -> None:
    """Kill all workers; no replacement can start."""
    workers = broker.daemon._parts.workers
    assert workers is not None

    async def fail(*_: object) -> NoReturn:
        raise ConfigError("no worker starts in this test")

    workers._spawn = fail
    for pid in pids(broker).values():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.broker(kbs=True, status="127.0.0.1:0", workers=2)
async def test_counters_survive_the_kill_of_a_worker(broker: RunningBroker) -> None:
    for _ in range(6):
        async with broker.guest() as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY
    name = "verdictd_appraisals_total"
    before = await settled(broker, name, 6)
    kill_workers(broker)
    await happening(lambda: len(broker.events.named("warning.worker")) >= 2)
    await settled(broker, "verdictd_connections", 0, listener="listen")
    memory_bytes = "verdictd_process_resident_memory_bytes"
    assert before.value(memory_bytes, process="worker") > 0
    found = await settled(broker, memory_bytes, 0, process="worker")
    for sample, series in before.samples.items():
        if sample.endswith(("_total", "_count", "_sum", "_bucket")):
            for labels, value in series.items():
                assert found.samples[sample][labels] >= value, (sample, labels)


@pytest.mark.broker(kbs=True, status="127.0.0.1:0", workers=2)
async def test_a_broker_without_workers_says_so(broker: RunningBroker) -> None:
    assert (await get(broker, "/readyz")).status_code == 200
    kill_workers(broker)
    answer = await get(broker, "/readyz")
    while answer.status_code == 200:
        answer = await get(broker, "/readyz")
    found = answer.json()
    assert answer.status_code == 503
    assert found["ready"] is False
    assert found["parts"]["workers"] == {
        "ready": False,
        "reason": "no guest worker runs; warning.worker has the cause",
    }


async def test_readiness_names_the_cause(broker: RunningBroker) -> None:
    ready = await get(broker, "/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert all(part == {"ready": True} for part in ready.json()["parts"].values())
    (broker.data / "opa" / "tdxPolicy.rego").write_text("this is no Rego")
    broker.daemon._parts.readiness.request()
    answer = await get(broker, "/readyz")
    while answer.status_code == 200:
        answer = await get(broker, "/readyz")
    part = answer.json()["parts"]["policies"]
    assert part["ready"] is False
    assert "tdxPolicy.rego" in part["reason"]
    assert (await scrape(broker)).value("verdictd_part_ready", part="policies") == 0
    assert (await scrape(broker)).value("verdictd_ready") == 0


async def test_liveness_is_that_of_the_event_loop(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await get(broker, "/livez")
    assert (live.status_code, live.json()) == (200, {"live": True})
    monkeypatch.setattr("verdictd_py.daemon.measuring.LIVE_SECONDS", 0.0)
    hanging = await get(broker, "/livez")
    assert hanging.status_code == 503
    assert "the event loop has not run" in hanging.json()["reason"]


async def test_the_start_ends_when_background_work_begins(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await get(broker, "/startupz")).status_code == 200
    listener = broker.daemon.listener("status")
    assert isinstance(listener, status.StatusListener)
    metrics = getattr(listener._routes["/startupz"], "__self__", None)
    monkeypatch.setattr(metrics, "_loop", None)  # as before it
    assert (await get(broker, "/startupz")).status_code == 503


async def test_no_page_names_a_secret_or_a_peer(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    pages = [
        (await get(broker, path, accept="application/openmetrics-text")).text
        for path in ("/metrics", "/readyz", "/livez")
    ]
    for page in pages:
        assert KID not in page
        assert KEY.decode().strip() not in page
        assert "127.0.0.1" not in page
    accepted = broker.events.named("guest.accepted")[-1]
    assert f'# {{appraisal="{accepted["appraisal"]}"}} 1.0' in pages[0]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", 405),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nAccept: \xff\xff;version=x,,;;\r\n\r\n", 200),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=9\r\n\r\n", 200),
    ],
)
async def test_every_request_has_one_answer(
    broker: RunningBroker, request_: bytes, expected: int
) -> None:
    address = broker.daemon.listener("status").address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request_)
    answer = await reader.read()
    writer.close()
    line, _, rest = answer.partition(b"\r\n")
    assert line.startswith(f"HTTP/1.1 {expected} ".encode())
    assert b"Connection: close\r\n" in rest
    if request_.startswith(b"HEAD"):
        assert rest.endswith(b"\r\n\r\n")


async def test_silent_clients_lock_nobody_out(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "SECONDS", 3600.0)
    address = broker.daemon.listener("status").address
    silent = [
        socket.create_connection((address.host, address.port))
        for _ in range(status.MAX_CONNECTIONS + 10)
    ]
    try:
        assert (await get(broker, "/livez")).status_code == 200
        assert await asyncio.to_thread(silent[0].recv, 1) == b""  # closed for another one
    finally:
        for each in silent:
            each.close()


async def test_one_id_from_the_connection_to_the_guest(broker: RunningBroker) -> None:
    """Log, audit trail, refusal and exemplar of one connection have one id."""
    stranger = SimulatedPlatform.create(now=broker.now)
    async with connected(url_of(broker), tdx_guest(stranger)) as session:
        with pytest.raises(Exception, match="quote-invalid") as refused:
            await session.resource(PATH)
    event = next(e for e in broker.events.events if e.spec.name == "guest.refused")
    connection, appraisal = event.correlation.id, str(event.rendered()["appraisal"])
    assert len(connection) == 16
    assert appraisal.startswith(connection)
    assert appraisal in str(refused.value)
    requests = [e for e in broker.events.events if e.spec.name == "request.answered"]
    assert {e.correlation.id for e in requests} == {connection}
    accept = "application/openmetrics-text; version=1.0.0"
    metrics = (await get(broker, "/metrics", Accept=accept)).text
    assert f'# {{appraisal="{appraisal}"}}' in metrics
    assert f'# {{connection="{connection}"}}' in metrics
    await broker.daemon.stop()
    trail = "".join(path.read_text() for path in (broker.data / "audit").iterdir())
    assert f'"connection":"{connection}"' in trail


async def test_connections_have_different_ids(broker: RunningBroker) -> None:
    ids = []
    for _ in range(3):
        async with broker.guest() as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY
        ids.append(broker.events.events[-1].correlation.id)
    assert len(set(ids)) == 3
    assert "" not in ids


async def test_an_http_answer_names_its_connection(broker: RunningBroker) -> None:
    import httpx  # noqa: PLC0415

    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url_of(broker) + "/kbs/v0/resource/a/b/c")
    event = broker.events.events[-1]
    assert event.spec.name == "request.unattested"
    assert answer.headers["X-Connection-Id"] == event.correlation.id


async def test_calls_of_grpc_are_counted_by_status_also_those_without_an_event(
    broker: RunningBroker,
) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(service="none"))
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/verdictd.v1.Nothing/Call", bytes, bytes)(b"")
        watching = health.Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        watching.cancel()
        calls = "verdictd_grpc_calls_total"
        found = await settled(broker, calls, 1, status="cancelled")
    for name in ("ok", "not-found", "unimplemented"):
        assert found.value(calls, listener="client_api", status=name) == 1
    assert found.value(calls) == 4


async def test_the_reference_lists_what_the_page_has(broker: RunningBroker) -> None:
    types = set(re.findall(r"^# TYPE (\w+) ", (await get(broker, "/metrics")).text, re.M))
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
    assert types == set(re.findall(r"^\| `(\w+)`", reference, re.M))


@pytest.mark.broker(status="127.0.0.1:0", collateral=None, collateral_url=(), unsafe={})
async def test_no_collateral_is_no_expiry(broker: RunningBroker) -> None:
    found = await scrape(broker)
    assert "verdictd_collateral_expiry_timestamp_seconds" not in found.samples
    assert found.value("verdictd_collateral_sets") == 0


async def test_pages_need_no_round_of_the_event_loop(broker: RunningBroker) -> None:
    """A flood keeps the loop busy; here, it does not run at all until all pages are there."""
    await scrape(broker)
    address = broker.daemon.listener("status").address
    pages: dict[str, bytes] = {}

    def fetch() -> None:
        for path in ("/metrics", "/livez", "/readyz"):
            connection = http.client.HTTPConnection(address.host, address.port)
            connection.request("GET", path)
            pages[path] = connection.getresponse().read()
            connection.close()

    thread = threading.Thread(target=fetch)
    thread.start()
    thread.join()
    assert b"verdictd_ready 1.0" in pages["/metrics"]
    assert pages["/livez"] == b'{"live": true}\n'
    assert b'"ready": true' in pages["/readyz"]


async def test_a_slow_client_is_disconnected(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "SECONDS", 0.05)
    address = broker.daemon.listener("status").address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /metrics HTTP/1.1\r\n")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.broker(kbs=True, status="127.0.0.1:0", max_unattested_per_address=2)
async def test_a_refused_connection_names_its_limit(broker: RunningBroker) -> None:
    silent = [socket.create_connection(broker.address) for _ in range(5)]
    found = await settled(broker, "verdictd_limit_refusals_total", 3, limit="address")
    assert found.value("verdictd_limit_refusals_total", listener="listen") == 3
    assert found.value("verdictd_connection_ends_total", reason="refused") == 3
    assert found.value("verdictd_connections", listener="listen", state="new") == 2
    for each in silent:
        each.close()


async def test_a_change_of_a_policy_changes_its_revision(broker: RunningBroker) -> None:
    name = "verdictd_document_revision"
    before = (await scrape(broker)).value(name, document="tdxPolicy.rego")
    policy = broker.data / "opa" / "tdxPolicy.rego"
    policy.write_text(policy.read_text() + "\n# changed by hand\n")
    broker.daemon._parts.readiness.request()
    digest = int(hashlib.sha256(policy.read_bytes()).hexdigest()[:12], 16)
    await settled(broker, name, digest, document="tdxPolicy.rego")
    assert before not in (0, digest)


@pytest.fixture
def broker_settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    """A certificate for HTTP guests, or sessions in a file, for the tests of them."""
    if "sessions_in_a_file" in request.node.name:
        key = tmp_path / "token-key.pem"
        key.touch(mode=0o600)
        key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        )
        return {"kbs_token_key": key, "kbs_sessions": tmp_path / "sessions"}
    if "certificate" not in request.node.name:
        return {}
    issued = trustme.CA().issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    key.touch(mode=0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return {"kbs_tls_cert": certificate, "kbs_tls_key": key}


async def test_the_end_of_a_certificate_is_known(broker: RunningBroker, tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    found = await scrape(broker)
    name = "verdictd_certificate_expiry_timestamp_seconds"
    end = certificate.not_valid_after_utc.timestamp()
    assert found.value(name, listener="kbs_http") == end


@pytest.mark.parametrize(
    "shared",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.broker(kbs=True, status="127.0.0.1:0", workers=2), id="workers"
        ),
    ],
)
async def test_sessions_in_a_file_are_counted_and_the_end_of_a_token_is_known(
    broker: RunningBroker, shared: bool
) -> None:
    before = (await scrape(broker)).value("verdictd_token_expiry_timestamp_seconds")
    assert before == 0
    async with connected(url(broker), tdx_guest(broker.platform)) as session:
        await session.resource(PATH)
        if not shared:
            counts = broker.kbs.session_counts
            assert counts is not None
            await elapse_until(lambda: counts() == (0, 1))
            await settled(broker, "verdictd_stored_sessions", 1, state="token")
    found = await settled(broker, "verdictd_attested_sessions_total", 1)
    end = found.value("verdictd_token_expiry_timestamp_seconds")
    assert broker.now.timestamp() + 299 < end < time.time() + 301


async def test_an_internal_error_is_an_answer_and_an_event(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise ValueError("a text that could quote a secret")

    monkeypatch.setattr("verdictd_py.daemon.measuring.readiness_page", fail)
    answer = await get(broker, "/readyz")
    assert answer.status_code == 500
    (bug,) = broker.events.named("warning.bug")
    assert str(bug["incident"]) in answer.text
    assert bug["doing"] == "serve a status page"
    assert "quote" not in answer.text + broker.events.text
    assert (await get(broker, "/livez")).status_code == 200
