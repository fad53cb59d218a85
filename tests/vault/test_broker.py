"""A whole broker whose resources below a prefix are in a real OpenBao, with attested guests."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.command import Run, run
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.keyprovider_client import (
    LAYER,
    optsdata_in,
    packet_in,
    unwrap_input,
    wrap_input,
)
from tests.support.rcar_guests import connected, tdx_guest
from tests.support.vault import Engine, encoded
from tools.engines.openbao import OpenBao
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.domain.names import LEGACY_RESOURCES, ResourcePath
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.simulator import SimulatedPlatform

pytestmark = pytest.mark.broker(kbs=True)

DB = ResourcePath.parse("team/creds/db")
IMAGE = ResourcePath.parse("team/image/1")
CONTENT = b"the password of a test's database"


@pytest.fixture
def base() -> str:
    return f"b{secrets.token_hex(6)}"


@pytest.fixture
def transit(own_engine: Engine) -> str:
    return own_engine.transit_key()


@pytest.fixture
def broker_settings(own_engine: Engine, base: str, transit: str) -> dict[str, Any]:
    backend = {
        "prefix": "team/",
        "vault": own_engine.location("secret"),
        "path": f"{base}/resources",
        "transit_key": f"transit/{transit}",
        "keys_path": f"{base}/keys",
    }
    return {"resource_backend": (backend,)}


async def test_a_guest_gets_a_resource_and_a_wrapped_key(
    broker: RunningBroker, own_engine: Engine, base: str, transit: str
) -> None:
    own_engine.call("POST", f"secret/data/{base}/resources/creds/db", {"data": {"value": "x"}})
    fields = {"base64": encoded(CONTENT)}
    own_engine.call("POST", f"secret/data/{base}/resources/creds/db", {"data": fields})
    key = secrets.token_bytes(32)
    body = {"plaintext": encoded(key), "associated_data": encoded(str(IMAGE).encode())}
    wrapped = own_engine.call("POST", f"transit/encrypt/{transit}", body)["data"]["ciphertext"]
    own_engine.call("POST", f"secret/data/{base}/keys/image/1", {"data": {"transit": wrapped}})
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.resource(DB)).reveal() == CONTENT
        assert (await session.resource(IMAGE)).reveal() == key
    released = [fields["path"] for fields in broker.events.named("secret.released")]
    assert released == ["resources/team/creds/db", "keys/team/image/1"]
    assert CONTENT.decode() not in broker.events.text
    assert encoded(CONTENT) not in broker.events.text


async def test_an_outage_is_an_internal_error_and_other_paths_are_served(
    broker: RunningBroker, own_engine: Engine, own_server: OpenBao, base: str
) -> None:
    fields = {"value": CONTENT.decode()}
    own_engine.call("POST", f"secret/data/{base}/resources/creds/db", {"data": fields})
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        await asyncio.to_thread(own_server.stop, signal.SIGKILL)
        try:
            with pytest.raises(KbsRefused) as refused:
                await session.resource(DB)
            assert refused.value.status >= 500
            assert (await session.resource(PATH)).reveal() == SECRET
        finally:
            await asyncio.to_thread(own_server.start)
        assert (await session.resource(DB)).reveal() == CONTENT
    assert broker.events.named("secret.released")


async def test_the_key_provider_without_a_daemon_uses_the_backend(
    tmp_path: Path, broker_settings: dict[str, Any], own_engine: Engine, base: str
) -> None:
    """`verdictd-py keyprovider --config`: a guest of the daemon can open what it wraps."""
    (backend,) = broker_settings["resource_backend"]
    config, data = tmp_path / "config.toml", tmp_path / "data"
    data.mkdir()
    config.write_text(
        f"data_dir = {json.dumps(str(data))}\n[[resource_backend]]\nwritable = true\n"
        + "".join(f"{name} = {json.dumps(text)}\n" for name, text in backend.items())
    )
    packets = []
    for name in (str(IMAGE), "other/image/1"):
        asked = json.dumps(wrap_input(f"keyid=kbs:///{name}")).encode()
        command = Run(("keyprovider", "--config", str(config)), asked)
        packets.append(packet_in((await asyncio.to_thread(run, command)).json))
    unwrap = dataclasses.replace(command, stdin=json.dumps(unwrap_input(packets[0])).encode())
    assert optsdata_in((await asyncio.to_thread(run, unwrap)).json) == LAYER
    trails = "".join(file.read_text() for file in (data / "audit").glob("*.jsonl"))
    assert trails.count('"key.created"') == 2
    in_vault = own_engine.call("GET", f"secret/data/{base}/keys/image/1")["data"]
    assert in_vault["metadata"]["version"] == 1
    assert [str(file.relative_to(data)) for file in (data / "keys").rglob("*/*/*")] == [
        "keys/other/image/1"
    ]


async def test_workers_serve_vault_the_data_directory_and_its_aliases(
    tmp_path: Path,
    platform: SimulatedPlatform,
    broker_settings: dict[str, Any],
    own_engine: Engine,
    base: str,
) -> None:
    """Guests of both kinds, at each worker, with a prefix that the aliases of images have, too."""
    (backend,) = broker_settings["resource_backend"]
    backend = {**backend, "prefix": "default/", "writable": True}
    policy = LEGACY_RESOURCES["Policy"]
    text = b'{"default": [{"type": "insecureAcceptAnything"}], "transports": {}}'
    async with running_kbs(tmp_path, platform, workers=2, resource_backend=(backend,)) as broker:
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            resources = v1_grpc.ResourceServiceStub(channel)
            for path, content in (("default/creds/db", CONTENT), (str(policy), text)):
                await resources.SetResource(v1.SetResourceRequest(path=path, content=content))
            name = "default/image/1"
            await v1_grpc.KeyServiceStub(channel).CreateKey(v1.CreateKeyRequest(name=name))
            listed = await resources.ListResources(v1.ListResourcesRequest())
        assert "default/creds/db" in {each.path for each in listed.resources}
        stored = own_engine.call("GET", f"secret/data/{base}/resources/creds/db")["data"]["data"]
        assert stored == {"value": CONTENT.decode()}
        assert (broker.data / "image" / "policy.json").read_bytes() == text
        served: set[str] = set()
        url = broker.daemon.listener("kbs_http").endpoint
        while len(served) < 2:
            async with connected(url, tdx_guest(platform)) as session:
                assert (
                    await session.resource(ResourcePath.parse("default/creds/db"))
                ).reveal() == (CONTENT)
                assert (await session.resource(policy)).reveal() == text
                key = (await session.resource(ResourcePath.parse(name))).reveal()
                with pytest.raises(KbsRefused) as hidden:
                    await session.resource(PATH)  # what the data directory has below the prefix
                assert hidden.value.status == 404
            async with broker.guest() as guest:
                assert (await guest.resource("Policy")).reveal() == text
                keks = await guest.keks([name, KID])
                assert [keks[each].reveal() for each in (name, KID)] == [key, KEY]
            served |= {
                file.name
                for file in (broker.data / "audit").glob("*worker*")
                if "resources/default/creds/db" in file.read_text()
            }
