"""Contents that guests cannot use, at every entry point of a running broker."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from tests.support.broker import RunningBroker
from tests.support.channel import store
from tests.support.kbs import url_of
from tests.support.kbs_admins import AdminTokens, administered, bearing
from tests.support.vectors import input_file
from tests.support.verdict import verdict
from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated.clientapi_pb2_grpc import ResourceServiceStub as UpstreamResources
from verdictd_py._generated.verdictd_v1_pb2_grpc import ImageServiceStub, ResourceServiceStub
from verdictd_py.guest.connection import BrokerRefused

UNUSABLE = {  # a file for each type, under a tag that is not `test`
    "team/security-policy/a": ("policy-no-transports.json", 'add "transports": {}'),
    "team/cosign-public-key/a": ("cosign/secp521r1.pub", "secp521r1"),
    "team/credential/a": ("auth/identitytoken-only.json", "identitytoken does not replace it"),
    "team/sigstore-config/a": ("sigstore/lookaside.yaml", "its newer name lookaside"),
    "team/gpg-public-config/a": ("gpg/quoted.asc", "the ASCII armour is damaged"),
}
PATHS = tuple(UNUSABLE)
P384 = input_file("cosign/secp384r1.pub")


def content_of(path: str) -> bytes:
    return input_file(UNUSABLE[path][0]).read_bytes()


@pytest.fixture
async def channel(broker: RunningBroker) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(broker.client_api) as opened:
        yield opened


@pytest.mark.parametrize("path", PATHS)
async def test_grpc_refuses_and_stores_by_force(
    broker: RunningBroker, channel: grpc.aio.Channel, path: str
) -> None:
    content, file = content_of(path), broker.data / "resources" / path
    with pytest.raises(grpc.aio.AioRpcError, match="no guest could use this") as caught:
        await UpstreamResources(channel).SetResource(
            upstream.SetResourceRequest(resource_id=path, content=content)
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    resources = ResourceServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await resources.SetResource(v1.SetResourceRequest(path=path, content=content))
    assert UNUSABLE[path][1] in str(caught.value.details())
    assert not file.exists()
    forced = v1.SetResourceRequest(path=path, content=content, force=True)
    answer = await resources.SetResource(forced)
    assert UNUSABLE[path][1] in answer.problems[0]
    assert file.read_bytes() == content


async def test_grpc_warns_about_content_for_some_guests(channel: grpc.aio.Channel) -> None:
    content = P384.read_bytes()
    named = v1.SetResourceRequest(path="team/cosign-public-key/a", content=content)
    for answer in (
        await ResourceServiceStub(channel).SetResource(named),
        await ImageServiceStub(channel).SetCosignKey(v1.SetCosignKeyRequest(content=content)),
    ):
        assert list(answer.problems) == []
        assert "guests with guest-components v0.8, v0.9 to v0.18 cannot" in answer.warnings[0]


@pytest.mark.parametrize("path", PATHS)
async def test_http_refuses_and_stores_by_force(
    tmp_path: Path, tokens: AdminTokens, path: str
) -> None:
    content = content_of(path)
    async with (
        administered(tmp_path, tokens) as broker,
        httpx.AsyncClient(base_url=url_of(broker), headers=bearing(tokens.token("boss"))) as http,
    ):
        file = broker.data / "resources" / path
        url = f"/kbs/v0/resource/{path}"
        for query in ("", "?force=false", "?force=1", "?force=true&force=true"):
            answer = await http.post(url + query, content=content)
            assert answer.status_code == 400
            assert ("force is true or false" in answer.text) == ("=1" in query or "&" in query)
            assert not file.exists()
        answer = await http.post(url + "?force=true", content=content)
        assert answer.status_code == 200
        assert file.read_bytes() == content


async def test_verdict_py_refuses_warns_and_stores_by_force(
    broker: RunningBroker, tmp_path: Path
) -> None:
    for words, path in (
        (("image-policy", "set"), PATHS[0]),
        (("cosign-key", "set"), PATHS[1]),
        (("credential", "set"), PATHS[2]),
        (("sigstore", "set"), PATHS[3]),
        *((("resource", "set", path), path) for path in PATHS),
    ):
        file = str(input_file(UNUSABLE[path][0]))
        ended = await verdict(broker, *words, file)
        assert UNUSABLE[path][1] in ended.complaint(1, "verdict-py")
        forced = await verdict(broker, *words, file, "--force", "--json")
        assert forced.status == 0
        assert UNUSABLE[path][1] in json.loads(forced.stdout)["problems"][0]
    ended = await verdict(broker, "cosign-key", "set", str(P384))
    assert ended.status == 0
    assert b"warning: guests verify signatures with a key on P-384 from" in ended.stdout


@pytest.mark.parametrize(
    ("name", "auths"),
    [
        ("bom.json", {"registry.example.com": {"auth": "dXNlcjpwYXNz"}}),
        (
            "dockercfg-old.json",
            {"registry.example.com": {"auth": "dXNlcjpwYXNz", "email": "a@example.com"}},
        ),
        ("username-password.json", {"registry.example.com": {"auth": "dXNlcjpwYXNz"}}),
    ],
)
async def test_credential_set_converts_without_loss(
    broker: RunningBroker, name: str, auths: dict[str, object]
) -> None:
    ended = await verdict(broker, "credential", "set", str(input_file(f"auth/{name}")))
    assert ended.status == 0
    assert b"converted: " in ended.stdout
    assert json.loads((broker.data / "image" / "auth.json").read_bytes()) == {"auths": auths}


async def test_a_private_key_is_not_stored_by_force_either(
    broker: RunningBroker, channel: grpc.aio.Channel
) -> None:
    content = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    path = "default/cosign-public-key/team-a"
    request = v1.SetResourceRequest(path=path, content=content, force=True)
    with pytest.raises(grpc.aio.AioRpcError, match="it contains a private key"):
        await ResourceServiceStub(channel).SetResource(request)
    store(broker, f"resources/{path}", content)
    async with broker.guest() as guest:
        with pytest.raises(BrokerRefused, match="is not served"):
            await guest.resource(path)


async def test_files_edited_by_hand_are_reported_once_served_and_in_the_status(
    broker: RunningBroker, channel: grpc.aio.Channel
) -> None:
    """At SIGHUP, and each time that the daemon examines its readiness."""
    assert broker.events.named("warning.content") == []
    policy = b'{"default":[{"type":" insecureAcceptAnything"}],"transports":{}}'
    store(broker, "image/policy.json", policy)
    await broker.daemon.reload()
    (event,) = broker.events.named("warning.content")
    assert event["resource"] == "default/security-policy/test"
    assert "image/policy.json: no guest can use it: default[0].type: " in str(event["reason"])
    async with broker.guest() as guest:
        assert (await guest.resource("Policy")).reveal() == policy

    store(broker, "image/auth.json", b"{}")
    await broker.daemon._parts.readiness.refresh()
    await broker.daemon._parts.readiness.refresh()
    assert len(broker.events.named("warning.content")) == 2
    shown = json.loads((await verdict(broker, "status", "--json")).stdout)["warnings"]
    assert [text for text in shown if "image/auth.json: no guest can use it" in text]

    store(broker, "image/auth.json", input_file("auth/good.json").read_bytes())
    await broker.daemon._parts.readiness.refresh()
    shown = json.loads((await verdict(broker, "status", "--json")).stdout)["warnings"]
    assert not [text for text in shown if "image/auth.json" in text]


async def test_the_guides_own_policy_as_a_file_is_reported_at_start(
    tmp_path: Path, tokens: AdminTokens
) -> None:
    image = tmp_path / "data" / "image"
    image.mkdir(mode=0o700, parents=True)
    (image / "policy.json").write_bytes(b'{"default": [{"type": "insecureAcceptAnything"},]}')
    async with administered(tmp_path, tokens) as broker:
        assert broker.data == tmp_path / "data"
        (event,) = broker.events.named("warning.content")
        assert "image/policy.json: no guest can use it: " in str(event["reason"])


async def test_a_secret_in_a_credential_is_never_in_a_finding(
    broker: RunningBroker, channel: grpc.aio.Channel
) -> None:
    secret = "correct-horse"
    auth = base64.b64encode(secret.encode()).decode()
    for content in (
        {"auths": {"a.example": {"auth": auth}}},
        {"auths": {"a.example": {"auth": secret}}},
        {"auths": {"a.example": {"username": "u", "password": secret}}},
        {"auths": {"a.example": {"identitytoken": secret}}},
    ):
        request = v1.SetCredentialRequest(content=json.dumps(content).encode())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ImageServiceStub(channel).SetCredential(request)
        text = str(caught.value)
        assert secret not in text
        assert auth not in text
