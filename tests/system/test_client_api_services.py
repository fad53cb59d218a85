"""The standard services of gRPC, and a key provider with a separate address."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.broker import KID, running_broker
from tests.support.certificates import Certificates
from tests.support.channel import store
from tests.support.clock import elapse
from tests.support.keyprovider_client import LAYER, KeyProviderClient
from tests.support.tees import TDX
from verdictd_py import daemon as app
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.daemon.readiness import READINESS_SECONDS
from verdictd_py.errors import ConfigError
from verdictd_py.simulator import SimulatedPlatform

SERVICES = {
    "keyprovider.KeyProviderService",
    *(f"clientapi.{name}Service" for name in ("KeyManager", "Opa", "Gpg", "Image", "Resource")),
    *(
        f"verdictd.v1.{name}Service"
        for name in (
            "Key",
            "Resource",
            "Image",
            "Document",
            "Reference",
            "Appraisal",
            "PolicyTest",
            "Status",
            "Console",
        )
    ),
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=app.utc_now())


async def served(address: str) -> set[str]:
    """Return the services that reflection lists."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([asked]))
        async for answer in call:
            return {each.name for each in answer.list_services_response.service}
    raise AssertionError("reflection does not answer")


async def health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await stub.Check(request)).status)


async def test_every_service_is_listed_and_healthy(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_broker(tmp_path, platform) as broker:
        assert await served(broker.client_api) == SERVICES
        for service in ("", *(SERVICES - {"grpc.reflection.v1alpha.ServerReflection"})):
            if not service.startswith("grpc."):
                serving = health_pb2.HealthCheckResponse.SERVING
                assert await health(broker.client_api, service) == serving


async def test_readiness_says_whether_everything_is_pinned(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_broker(tmp_path, platform, verifier=("tdx",)) as broker:
        response = health_pb2.HealthCheckResponse
        assert await health(broker.client_api, "verdictd.pinned") == response.NOT_SERVING
        assert await health(broker.client_api, "") == response.SERVING
        everything = {name: ["ab" * 48] for name in TDX.measurements}
        store(broker, "opa/tdxData", json.dumps(everything).encode())
        while await health(broker.client_api, "verdictd.pinned") != response.SERVING:
            await elapse(READINESS_SECONDS)


class TestKeyProviderApi:
    async def test_it_only_wraps_and_unwraps(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        settings: dict[str, Any] = {
            "client_api": f"unix:{tmp_path}/api",
            "keyprovider_api": "127.0.0.1:0",
        }
        async with running_broker(tmp_path, platform, **settings) as broker:
            address = broker.daemon.listener("keyprovider_api").endpoint
            for target in (address, broker.client_api):
                async with KeyProviderClient.open(target) as client:
                    assert await client.unwrap(await client.wrap(KID)) == LAYER
            assert {name for name in await served(address) if not name.startswith("grpc.")} == {
                "keyprovider.KeyProviderService"
            }
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await v1_grpc.KeyServiceStub(channel).ListKeys(v1.ListKeysRequest())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    async def test_wrapping_can_be_offered_to_more_clients_than_management(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        certificates = Certificates.make(tmp_path)
        farm = certificates.credentials(certificates.ca.issue_cert(common_name="farm"))
        settings = {
            **certificates.settings,
            "client_api": f"unix:{tmp_path}/api",
            "keyprovider_api": "0.0.0.0:0",
        }
        async with running_broker(tmp_path, platform, **settings) as broker:
            port = broker.daemon.listener("keyprovider_api").address.port
            async with KeyProviderClient.open(f"127.0.0.1:{port}", farm) as client:
                packet = await client.wrap(KID)
            async with KeyProviderClient.open(broker.client_api) as client:  # unix: no TLS
                assert await client.unwrap(packet) == LAYER

    async def test_without_tls_it_is_refused_off_loopback(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        with pytest.raises(ConfigError, match=r"^--keyprovider-api 0\.0\.0\.0:0 can be reached"):
            async with running_broker(tmp_path, platform, keyprovider_api="0.0.0.0:0"):
                pass

    async def test_an_address_in_use_is_named_with_its_option(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        async with running_broker(tmp_path, platform) as broker:
            taken = broker.daemon.listener("client_api").endpoint
            (tmp_path / "2").mkdir()
            with pytest.raises(ConfigError, match="choose another --keyprovider-api"):
                async with running_broker(tmp_path / "2", platform, keyprovider_api=taken):
                    pass
