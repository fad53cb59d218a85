"""Policies that change during appraisals: every reader gets one complete policy."""

from __future__ import annotations

import asyncio
import json

import grpc

from tests.support.broker import RunningBroker
from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import clientapi_pb2_grpc as services

TIMES = 200


def image_policy(kind: str) -> bytes:
    """Return a policy so long that a reader could get half of it."""
    scopes = {f"registry.example/{number}": [{"type": kind}] for number in range(300)}
    return json.dumps({"default": [{"type": kind}], "transports": {"docker": scopes}}).encode()


async def test_two_concurrent_writers_never_mix_their_policies(broker: RunningBroker) -> None:
    """A guest reads one policy or the other, never a mixture."""
    policies = [image_policy("reject"), image_policy("insecureAcceptAnything")]
    seen: list[bytes] = []
    done = asyncio.Event()

    async def setting(content: bytes) -> None:
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            stub = services.ImageServiceStub(channel)
            request = messages.SetImagePolicyRequest(content=content)
            for _ in range(TIMES // 2):
                answer = await stub.setImagePolicy(request)
                assert answer.status == b"OK"

    async def reading() -> None:
        async with broker.guest() as guest:
            while not done.is_set():
                seen.append((await guest.resource("Policy")).reveal())

    readers = [asyncio.create_task(reading()) for _ in range(2)]
    first = (broker.data / "image" / "policy.json").read_bytes()
    await asyncio.gather(*map(setting, policies))
    done.set()
    await asyncio.gather(*readers)
    assert set(seen) - {first} <= set(policies)
    assert set(policies) <= set(seen)
    assert len(seen) > 20
    left = [path.name for path in (broker.data / "image").iterdir()]
    assert not [name for name in left if name.startswith(".tmp-")]


async def test_each_guest_is_appraised_by_one_complete_policy(broker: RunningBroker) -> None:
    """Either appraisal policy allows the guest, so that it is never refused."""
    start = "package policy\nimport rego.v1\ndefault allow := false\nallow if input."
    texts = [f"{start}debug == false\n", f'{start}tcbStatus == "UpToDate"\n']

    async def setting(text: str) -> None:
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            stub = services.OpaServiceStub(channel)
            for _ in range(5):  # each is checked in a process of its own
                request = messages.SetOpaPolicyRequest(
                    name=b"tdxPolicy.rego", content=text.encode()
                )
                await stub.SetOpaPolicy(request)

    changing = asyncio.gather(*map(setting, texts))
    guests = 0
    while not changing.done():
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
        guests += 1
    await changing
    assert guests > 5
    assert not broker.events.named("guest.refused")
