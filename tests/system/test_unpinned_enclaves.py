"""Enclaves at a broker that was started without `--verifier`: refused until one is pinned."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import store
from tests.support.verdict import only_remarks, verdict
from tests.tees.sgx_quotes import Enclave, sgx_collateral
from verdictd_py import daemon as app
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import SimulatedPlatform, collateral_json

SIGNER = base64.b64encode(b"S" * 32).decode()
REMEDY = "no measurement of sgx is pinned; pin this guest (verdict-py reference pin) or start with"


def collateral(directory: Path, platform: SimulatedPlatform) -> Path:
    """Create a directory with the collateral of both TEEs of the platform."""
    now = app.utc_now()
    made = directory / "collateral"
    made.mkdir()
    (made / "tdx.json").write_text(collateral_json(platform.collateral(now)))
    (made / "sgx.json").write_text(collateral_json(sgx_collateral(of=platform, now=now)))
    return made


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=app.utc_now())


@pytest.fixture
def broker_settings(tmp_path: Path, platform: SimulatedPlatform) -> dict[str, Any]:
    return {"collateral": collateral(tmp_path, platform)}


def refusals(broker: RunningBroker) -> list[dict[str, Any]]:
    return broker.events.named("guest.refused")


async def accepted(broker: RunningBroker) -> bool:
    try:
        async with broker.guest(Enclave(broker.platform)) as guest:
            return (await guest.keks([KID]))[KID].reveal() == KEY
    except BrokerRefused:
        return False


async def served(broker: RunningBroker, tee: str) -> bool:
    """Return the answer of the health service after `status` has examined the documents."""
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        about: Any = v1_grpc.StatusServiceStub(channel)
        await about.GetStatus(v1.GetStatusRequest())
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=f"verdictd.served.{tee}")
        answer = await stub.Check(request)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def status(broker: RunningBroker) -> Any:
    return (await verdict(broker, "status", "--json")).json


async def test_an_unknown_enclave_is_refused_and_the_reason_is_logged(
    broker: RunningBroker,
) -> None:
    assert not await accepted(broker)
    (refused,) = refusals(broker)
    assert refused["tee"] == "sgx"
    assert [reason.split(":")[0] for reason in refused["reasons"]] == ["mrEnclave", "mrSigner"]
    assert all(REMEDY in reason for reason in refused["reasons"])
    assert not broker.events.named("secret.released")
    explained = (await verdict(broker, "explain", "--last", "--json")).json
    assert REMEDY in explained["reasons"][0]["text"]
    async with broker.guest() as guest:  # of the TEE that is served from the start
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def test_status_health_and_log_name_the_tee_that_is_not_served(broker: RunningBroker) -> None:
    assert (await served(broker, "tdx"), await served(broker, "sgx")) == (True, False)
    (told,) = broker.events.named("tee.not-served")
    assert told["tee"] == "sgx"
    found = await status(broker)
    assert [line for line in found["warnings"] if "sgx guests are refused" in line] == [
        told["reason"]
    ]
    assert not [each for each in found["unpinned"] if each.startswith("sgx")]
    assert {event["tee"] for event in broker.events.named("warning.unpinned")} == {"tdx"}


async def test_a_pin_of_the_refused_enclave_takes_effect_without_a_restart(
    broker: RunningBroker,
) -> None:
    assert not await accepted(broker)
    which = refusals(broker)[0]["appraisal"]
    pin = ("reference", "pin", "--from", which, "--yes", "--field", "mrSigner")
    ended = await verdict(broker, *pin)
    only_remarks(ended)
    assert json.loads((broker.data / "opa" / "sgxData").read_text())["mrSigner"] == [SIGNER]
    assert await accepted(broker)
    assert await served(broker, "sgx")
    assert [event["tee"] for event in broker.events.named("tee.served")] == ["sgx"]
    assert not [line for line in (await status(broker))["warnings"] if "sgx" in line]


async def test_retiring_the_last_pin_takes_effect_without_a_restart(broker: RunningBroker) -> None:
    add = ("reference", "add", "--tee", "sgx", "release-1", f"mrSigner={SIGNER}")
    assert (await verdict(broker, *add)).status == 0
    assert await accepted(broker)
    assert await served(broker, "sgx")
    assert (await verdict(broker, "reference", "retire", "--tee", "sgx", "release-1")).status == 0
    assert not await accepted(broker)
    assert not await served(broker, "sgx")
    assert any(REMEDY in reason for reason in refusals(broker)[-1]["reasons"])


async def test_a_pin_in_a_file_edited_by_hand_takes_effect(broker: RunningBroker) -> None:
    values = {"mrEnclave": [], "mrSigner": [SIGNER], "productId": 0, "svn": 0}
    store(broker, "opa/sgxData", json.dumps(values).encode())
    assert await accepted(broker)


async def test_a_pin_of_another_tee_has_no_effect(broker: RunningBroker) -> None:
    store(broker, "opa/tdxData", json.dumps({"mrTd": ["ab" * 48]}).encode())
    assert not await accepted(broker)


async def test_a_named_tee_is_served_without_a_pin(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    directory = collateral(tmp_path, platform)
    more: dict[str, Any] = {"collateral": directory, "verifier": ("tdx", "sgx")}
    async with running_broker(tmp_path, platform, **more) as broker:
        assert await accepted(broker)
        assert await served(broker, "sgx")
        assert not broker.events.named("tee.not-served")
        assert {event["tee"] for event in broker.events.named("warning.unpinned")} == {"tdx", "sgx"}
