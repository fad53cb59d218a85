"""Common part of all gRPC methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.support.broker import RunningBroker
from tests.support.clock import until
from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import clientapi_pb2_grpc as services
from verdictd_py.errors import StorageError
from verdictd_py.storage.stores import DirectoryKeyStore


@pytest_asyncio.fixture
async def keys(broker: RunningBroker) -> AsyncIterator[services.KeyManagerServiceAsyncStub]:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        yield services.KeyManagerServiceStub(channel)


class Slow:
    """Key store whose writes wait until the test releases them."""

    def __init__(self, patch: pytest.MonkeyPatch, *, error: Exception | None = None) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        create = DirectoryKeyStore.create

        async def slow(store: Any, *arguments: Any) -> None:
            self.begun.set()
            await self.go_on.wait()
            if error is not None:
                raise error
            await create(store, *arguments)

        patch.setattr(DirectoryKeyStore, "create", slow)


async def cancelled(call: Any, slow: Slow) -> None:
    """Cancel a call after its write has begun, and release the write."""
    await slow.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    slow.go_on.set()


async def recorded(broker: RunningBroker, event: str) -> dict[str, Any]:
    await until(lambda: broker.events.named(event))
    (fields,) = broker.events.named(event)
    return fields


async def test_a_change_is_recorded_although_its_client_disconnected(
    broker: RunningBroker,
    keys: services.KeyManagerServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a client could change the store without a record in the audit trail."""
    slow = Slow(monkeypatch)
    await cancelled(keys.CreateKey(messages.CreateKeyRequest(keyid="default/key/new")), slow)
    assert (await recorded(broker, "key.created"))["kid"] == "default/key/new"


async def test_a_failure_is_recorded_although_its_client_disconnected(
    broker: RunningBroker,
    keys: services.KeyManagerServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Slow(monkeypatch, error=StorageError("the disk is full"))
    await cancelled(keys.CreateKey(messages.CreateKeyRequest(keyid="default/key/new")), slow)
    assert (await recorded(broker, "request.failed"))["reason"] == "the disk is full"
    assert broker.events.named("key.created")  # the record precedes the change
    assert "disk is full" in (await recorded(broker, "change.failed"))["reason"]
    assert not broker.events.named("warning.bug")


async def test_an_internal_error_is_answered_with_an_incident_only(
    broker: RunningBroker,
    keys: services.KeyManagerServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Slow(monkeypatch, error=RuntimeError("secret"))
    slow.go_on.set()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await keys.CreateKey(messages.CreateKeyRequest(keyid="default/key/new"))
    bug = await recorded(broker, "warning.bug")
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert raised.value.details() == f"internal error, ask the operator about {bug['incident']}"
    assert (bug["doing"], bug["error"]) == ("CreateKey", "RuntimeError")
    assert "secret" not in broker.events.text
