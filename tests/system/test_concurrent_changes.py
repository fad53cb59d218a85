"""Policies that change during appraisals: every reader gets one complete policy."""

from __future__ import annotations

import asyncio
import json

import grpc

from tests.support.broker import RunningBroker
from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import clientapi_pb2_grpc as services

READS = 200
"""Reads of each run, while the policies change."""
GUESTS, CHANGES = 10, 10
"""Least numbers of guests and of changes that overlap."""


def image_policy(kind: str) -> bytes:
    """Return a policy so long that a reader could get half of it."""
    scopes = {f"registry.example/{number}": [{"type": kind}] for number in range(300)}
    return json.dumps({"default": [{"type": kind}], "transports": {"docker": scopes}}).encode()


async def test_two_concurrent_writers_never_mix_their_policies(broker: RunningBroker) -> None:
    """A guest reads one policy or the other, never a mixture."""
    policies = [image_policy("reject"), image_policy("insecureAcceptAnything")]
    seen: list[bytes] = []
    enough = asyncio.Event()

    async def setting(content: bytes) -> None:
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            stub = services.ImageServiceStub(channel)
            request = messages.SetImagePolicyRequest(content=content)
            while not enough.is_set():
                answer = await stub.setImagePolicy(request)
                assert answer.status == b"OK"

    async def reading() -> None:
        async with broker.guest() as guest:
            while not changing.done() and (len(seen) < READS or not set(policies) <= set(seen)):
                seen.append((await guest.resource("Policy")).reveal())

    first = (broker.data / "image" / "policy.json").read_bytes()
    changing = asyncio.gather(*map(setting, policies))
    await asyncio.gather(reading(), reading())
    enough.set()
    await changing
    assert set(seen) - {first} == set(policies)
    left = [path.name for path in (broker.data / "image").iterdir()]
    assert not [name for name in left if name.startswith(".tmp-")]


async def test_each_guest_is_appraised_by_one_complete_policy(broker: RunningBroker) -> None:
    """Either appraisal policy allows the guest, so that it is never refused."""
    start = "package policy\nimport rego.v1\ndefault allow := false\nallow if input."
    texts = [f"{start}debug == false\n", f'{start}tcbStatus == "UpToDate"\n']
    changes = 0
    enough = asyncio.Event()

    async def setting(text: str) -> None:
        nonlocal changes
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            stub = services.OpaServiceStub(channel)
            request = messages.SetOpaPolicyRequest(name=b"tdxPolicy.rego", content=text.encode())
            while not enough.is_set():
                await stub.SetOpaPolicy(request)
                changes += 1

    changing = asyncio.gather(*map(setting, texts))
    guests = 0
    while not changing.done() and (guests < GUESTS or changes < CHANGES):
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
        guests += 1
    enough.set()
    await changing
    assert not broker.events.named("guest.refused")
