"""Health: what `/livez` and `/readyz` say, gRPC's health service too, while a part fails."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.broker import KID, RunningBroker
from tests.support.channel import ask, store
from tests.support.clock import elapse, elapse_until, until
from tests.support.events import RecordedEvents
from tests.support.kbs import url_of
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.config import Settings
from verdictd_py.daemon import descriptors, health, readiness
from verdictd_py.daemon.composition import _written
from verdictd_py.daemon.health import CHECK_SECONDS, EXAMINE_SECONDS, Health
from verdictd_py.errors import StorageError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.storage.inspection import DIRECTORIES
from verdictd_py.tees.intel.collateral.check import Validity
from verdictd_py.tees.intel.collateral.port import CollateralRequest

pytestmark = pytest.mark.broker(kbs=True)

SERVING = health_pb2.HealthCheckResponse.SERVING
PARTS = {"audit", "policies", "keys", "collateral", "disk", "descriptors", "sessions", "serving"}


async def ready(broker: RunningBroker) -> set[str] | None:
    """Return the parts that failed, as `/readyz` says; None if gRPC's health service differs."""
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        answer = await http.get("/readyz")
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/healthz")).status_code == 200
    states: dict[str, str] = answer.json()
    assert set(states) == PARTS
    failed = {name for name, state in states.items() if state != "ok"}
    assert answer.status_code == (503 if failed else 200)
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        check = await stub.Check(health_pb2.HealthCheckRequest(service="verdictd.ready"))
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
    return failed if (check.status == SERVING) == (not failed) else None


async def examined(broker: RunningBroker) -> set[str] | None:
    await broker.daemon._parts.health.examine()
    return await ready(broker)


async def test_a_broker_is_ready_once_it_has_started(broker: RunningBroker) -> None:
    assert await ready(broker) == set()


def without_keys(broker: RunningBroker) -> None:
    shutil.rmtree(broker.data / "keys")


def without_audit(broker: RunningBroker) -> None:
    shutil.rmtree(broker.data / "audit")


@pytest.mark.parametrize(
    ("part", "fail"), [("keys", without_keys), ("audit", without_audit)], ids=["keys", "audit"]
)
async def test_a_missing_directory_is_reported_until_it_is_restored(
    broker: RunningBroker, part: str, fail: Callable[[RunningBroker], None]
) -> None:
    fail(broker)
    for _ in range(2):
        assert await examined(broker) == {part}
    (warning,) = broker.events.named("warning.readiness")
    assert f"{part}: {part}/ cannot be used: No such file" in str(warning["problems"])
    assert str(broker.data) not in str(warning["problems"])
    (broker.data / part).mkdir(mode=0o700)
    assert await examined(broker) == set()
    assert len(broker.events.named("daemon.ready")) == 1


async def test_a_policy_that_cannot_be_used(broker: RunningBroker) -> None:
    store(broker, "opa/tdxPolicy.rego", b"package policy\nallow if {")
    await broker.daemon._parts.readiness.refresh()
    assert await examined(broker) == {"policies"}


BROKEN = b"package policy\nallow if {"
POLICY = "opa/tdxPolicy.rego"


@pytest.fixture
def only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broker examine nothing but what a change requires."""
    monkeypatch.setattr(readiness, "READINESS_SECONDS", 1e6)
    monkeypatch.setattr(health, "EXAMINE_SECONDS", 1e6)


async def fail_soon(broker: RunningBroker, *failed: str) -> None:
    """Wait until these parts have failed, after the pause between two examinations."""
    await elapse(readiness.REQUESTED_SECONDS)
    parts = broker.kbs.parts
    await until(lambda: {name for name, usable in parts().items() if not usable} == set(failed))
    assert await ready(broker) == set(failed)


async def is_served(broker: RunningBroker) -> bool:
    """Return whether a good guest gets a key."""
    try:
        async with broker.guest() as guest:
            answer = await ask(guest, {"command": "Get KEK", "kids": [KID]})
    except BrokerRefused:
        return False
    return bool(answer["status"] == "OK")


async def set_policy(broker: RunningBroker, text: bytes) -> None:
    """Store a policy through the API, and wait for the answer."""
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub = v1_grpc.DocumentServiceStub(channel)
        await stub.SetPolicy(v1.SetPolicyRequest(name="tdxPolicy.rego", content=text))


@pytest.mark.usefixtures("only_on_request")
async def test_readiness_follows_a_repair_through_the_api(broker: RunningBroker) -> None:
    text = (broker.data / POLICY).read_bytes()
    store(broker, POLICY, BROKEN)
    await broker.daemon.reload()
    await fail_soon(broker, "policies")
    await set_policy(broker, text)
    await fail_soon(broker)


@pytest.mark.usefixtures("only_on_request")
@pytest.mark.parametrize("fault", [BROKEN, b"\xff", None], ids=["broken", "unreadable", "missing"])
async def test_readiness_follows_a_file_as_soon_as_a_decision_has_read_it(
    broker: RunningBroker, fault: bytes | None
) -> None:
    text = (broker.data / POLICY).read_bytes()
    if fault is None:
        (broker.data / POLICY).unlink()
    else:
        store(broker, POLICY, fault)
    assert not await is_served(broker)
    await fail_soon(broker, "policies")
    store(broker, POLICY, text)
    assert await is_served(broker)
    await fail_soon(broker)


async def test_the_service_manager_gets_one_line_for_each_change(broker: RunningBroker) -> None:
    lines: list[str] = []
    broker.daemon.report_status(lines.append)
    without_keys(broker)
    for _ in range(2):
        await examined(broker)
    (broker.data / "keys").mkdir(mode=0o700)
    await examined(broker)
    failed, repaired = lines
    assert failed == "not ready: keys failed; warning.readiness has the cause"
    assert repaired.startswith("serving ")


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "REQUESTED_SECONDS", 1e6)


@pytest.mark.usefixtures("long_pause")
async def test_many_changes_cause_one_examination_after_the_pause(broker: RunningBroker) -> None:
    examined, parts = 0, broker.daemon._parts

    async def counted() -> str:
        nonlocal examined
        examined += 1
        return ""

    await elapse(0)
    await parts.readiness.refresh()  # after that of the start
    parts.readiness._probes["counted"] = counted
    for _ in range(5):
        parts.readiness.request()
        await parts.readiness.refresh()  # would wait for one in the background
    assert examined == 5
    await elapse(1e6)
    await until(lambda: examined == 6)


async def test_sessions_that_cannot_be_read(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> str:
        raise StorageError("the session file is damaged")

    monkeypatch.setitem(broker.daemon._parts.health._checks, "sessions", broken)
    assert await examined(broker) == {"sessions"}


WRITTEN = [*DIRECTORIES, ""]


@pytest.mark.parametrize("directory", WRITTEN)
async def test_a_full_disk_of_any_directory(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    """Each may be a volume of its own."""
    found = broker.data / directory
    full_of(monkeypatch, found, f_bavail=3)
    assert await examined(broker) == {"disk"}
    (warning,) = broker.events.named("warning.readiness")
    name = f"{directory}/" if directory else "the data directory"
    assert warning["problems"] == (
        (
            f"disk: {name}: 12 KiB are free, 1024 KiB are needed; "
            "remove files there or enlarge the file system"
        ),
    )
    full_of(monkeypatch, found)
    assert await examined(broker) == set()


def test_the_directory_of_the_sessions_is_checked(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions" / "file"
    written = _written(Settings(kbs_sessions=str(sessions), kbs_token_key=tmp_path / "key"))
    assert written["the directory of --kbs-sessions"] == sessions.parent


async def test_a_file_system_without_free_inodes(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_of(monkeypatch, broker.data / "keys", f_favail=2)
    assert await examined(broker) == {"disk"}
    assert "keys/: 2 inodes are free, 16 are needed" in str(
        broker.events.named("warning.readiness")
    )
    full_of(monkeypatch, broker.data / "keys", f_favail=0, f_files=0)  # such as btrfs
    assert await examined(broker) == set()


def full_of(monkeypatch: pytest.MonkeyPatch, full: Path, **values: int) -> None:
    """Let a directory be on a file system with such numbers of blocks and inodes."""
    usual = {"f_bavail": 10**6, "f_frsize": 4096, "f_files": 10**6, "f_favail": 10**6}

    def statvfs(path: object) -> SimpleNamespace:
        return SimpleNamespace(f_flag=0, **{**usual, **(values if path == full else {})})

    monkeypatch.setattr(os, "statvfs", statvfs)


async def test_few_descriptors(broker: RunningBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    used = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(descriptors, "limit", lambda: used + 10)
    assert await examined(broker) == {"descriptors"}


async def test_a_check_that_does_not_end_is_a_problem() -> None:
    events = RecordedEvents()

    async def hanging() -> str:
        await asyncio.Event().wait()
        return ""

    checked = Health({"disk": hanging}, events)
    assert checked.parts == {"disk": False, "serving": True}
    task = asyncio.create_task(checked.examine())
    await elapse(CHECK_SECONDS)
    await task
    assert checked.problems == {"disk": "no answer within 5 s"}


async def test_a_check_that_fails_in_an_unexpected_way_is_a_problem() -> None:
    """The last result must not stay, which may have been a good one."""
    events = RecordedEvents()
    results: list[object] = [""]

    async def check() -> str:
        if results:
            return str(results.pop())
        raise RuntimeError("can't start new thread")

    checked = Health({"disk": check}, events)
    await checked.examine()
    assert checked.parts["disk"]
    await checked.examine()
    assert not checked.parts["disk"]
    assert events.named("warning.bug")


async def test_the_parts_are_examined_again_and_again(broker: RunningBroker) -> None:
    without_keys(broker)
    passed = await elapse_until(lambda: broker.events.named("warning.readiness"))
    assert passed <= 2 * EXAMINE_SECONDS


async def test_a_broker_that_stops_is_not_ready(broker: RunningBroker) -> None:
    parts = broker.kbs.parts
    await broker.daemon.stop()
    assert not parts()["serving"]


@pytest.mark.broker(kbs=True, collateral=None, collateral_url=("https://127.0.0.1:9",))
async def test_collateral_that_expired_for_a_platform_that_was_seen(
    broker: RunningBroker,
) -> None:
    cache = broker.daemon._parts.closing[0].__self__.collateral._cache  # type: ignore[attr-defined]  # bound
    request = CollateralRequest("tdx", "50806f000000", "platform")
    collateral, day = broker.platform.collateral(broker.now), timedelta(days=1)
    cache._cache(request, collateral, Validity(broker.now - day, broker.now + day, 1))
    assert await examined(broker) == set()
    cache._cache(request, collateral, Validity(broker.now - 2 * day, broker.now - day, 1))
    assert await examined(broker) == {"collateral"}
    assert "tdx 50806f000000 has expired" in str(broker.events.named("warning.readiness"))


async def test_an_older_result_does_not_replace_a_newer_one() -> None:
    """The first examination begins while all is well, and its check ends last."""
    results = ["", "the disk is gone"]
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def check() -> str:
        result = results.pop(0)
        if not result:
            begun.set()
            await may_end.wait()
        return result

    checked = Health({"disk": check}, RecordedEvents())
    first = asyncio.create_task(checked.examine())
    await begun.wait()
    second = asyncio.create_task(checked.examine())
    await elapse(0)
    may_end.set()
    await asyncio.gather(first, second)
    assert checked.problems == {"disk": "the disk is gone"}
