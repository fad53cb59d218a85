"""Attack: any local user makes the broker work, or occupies it, through its gRPC listeners."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.broker import KID, RunningBroker
from tests.support.clock import elapse, until
from tests.support.events import RecordedEvents
from tests.support.keyprovider_client import KeyProviderClient, wrap_input
from verdictd_py._generated import keyprovider_pb2 as messages
from verdictd_py._generated import keyprovider_pb2_grpc as services
from verdictd_py.config import Address
from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.listeners import admission
from verdictd_py.listeners.callers import CallContext, CallerRules
from verdictd_py.listeners.calls import GrpcService, answered
from verdictd_py.listeners.grpc_listener import GrpcListener, Register
from verdictd_py.offload import SMALL_BYTES
from verdictd_py.protocols.keyprovider import protocol

LARGE = b'{"op":' + b" " * 4 * 1024 * 1024


class Claimed(CallerRules):
    """Rules that believe the role that a client claims in its metadata."""

    def caller(self, context: CallContext) -> Caller:
        claimed = dict(context.invocation_metadata())  # type: ignore[attr-defined]  # gRPC's own
        role = str(claimed["role"])
        return Caller(str(claimed.get("user", role)), ROLES.get(role, frozenset()))


class Named(GrpcService, services.KeyProviderServiceServicer):
    """Service that answers with the name of its caller."""

    @answered(right=Right.WRAP)
    async def WrapKey(  # noqa: N802  # the name on the wire
        self, request: messages.keyProviderKeyWrapProtocolInput, caller: Caller
    ) -> messages.keyProviderKeyWrapProtocolOutput:
        return messages.keyProviderKeyWrapProtocolOutput(
            KeyProviderKeyWrapProtocolOutput=caller.name.encode()
        )

    UnWrapKey = WrapKey  # type: ignore[assignment]  # the stub is a method


def register_named(server: grpc.aio.Server, rules: CallerRules) -> None:
    services.add_KeyProviderServiceServicer_to_server(Named(rules, RecordedEvents()), server)


def register_nothing(server: grpc.aio.Server, rules: CallerRules) -> None:
    """Add no service to that of gRPC's health."""


@asynccontextmanager
async def running_listener(register: Register = register_nothing) -> AsyncIterator[GrpcListener]:
    """A listener with gRPC's health service, and what `register` adds."""
    listener = GrpcListener(
        "client_api",
        [Address("127.0.0.1", 0)],
        register,
        events=RecordedEvents(),
        described=("test",),
        rules=Claimed(),
    )
    listener.bind()
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop(0)


class Watchers:
    """Open calls of `Health/Watch`, each answered once."""

    def __init__(self, address: str, stack: AsyncExitStack) -> None:
        self.address = address
        self.stack = stack
        self.open: list[Any] = []

    async def add(self, count: int, **metadata: str) -> None:
        """Open calls on as few connections as their limit allows.

        Raises:
            grpc.aio.AioRpcError: one of them is refused.
        """
        for number in range(count):
            if number % admission.CALLS_OF_CONNECTION == 0:
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = await self.stack.enter_async_context(
                    grpc.aio.insecure_channel(self.address, options=options)
                )
            # Without a time limit: on a busy machine, the first calls would end before the last.
            call = HealthStub(channel).Watch(
                health.HealthCheckRequest(), metadata=tuple(metadata.items())
            )
            self.open.append(call)
            assert (await call.read()).status == health.HealthCheckResponse.SERVING


@pytest.fixture
async def watchers() -> AsyncIterator[Watchers]:
    async with running_listener() as listener, AsyncExitStack() as stack:
        yield Watchers(listener.endpoint, stack)


def refused(error: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> None:
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["WrapKey", "UnWrapKey"])
async def test_no_message_of_a_caller_without_the_right_is_read(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    read: list[int] = []
    decode = protocol.decode

    def watched(data: bytes, **options: Any) -> Any:
        read.append(len(data))
        return decode(data, **options)

    monkeypatch.setattr(protocol, "decode", watched)
    without_rights = Caller("uid 65534", frozenset())
    monkeypatch.setattr(CallerRules, "caller", lambda rules, context: without_rights)
    async with KeyProviderClient.open(broker.client_api) as client:
        status, _ = await client.refusal(method, LARGE)
    assert status == "PERMISSION_DENIED"
    assert read == []
    (failed,) = broker.events.named("request.failed")
    assert failed["caller"] == "uid 65534"


@pytest.mark.parametrize(
    "method",
    [
        "keyprovider.KeyProviderService/WrapKey",
        "keyprovider.KeyProviderService/UnWrapKey",
        "clientapi.KeyManagerService/GetKey",
        "clientapi.OpaService/setOpaReference",
        "verdictd.v1.DocumentService/SetPolicy",
        "verdictd.v1.ReferenceService/AddSet",
        "verdictd.v1.StatusService/GetStatus",
    ],
)
async def test_a_refused_caller_is_answered_before_its_message_arrives(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    without_rights = Caller("uid 65534", frozenset())
    monkeypatch.setattr(CallerRules, "caller", lambda rules, context: without_rights)
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        call = begun(channel, method)
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED  # nothing was sent yet


async def test_a_message_that_does_not_arrive_ends_its_call() -> None:
    async with running_listener(register_named) as listener:
        admitted = listener._admission._shares._calls
        async with grpc.aio.insecure_channel(listener.endpoint) as channel:
            call = begun(channel, role="wrap")
            await until(lambda: admitted)
            await elapse(admission.MESSAGE_SECONDS / 2)
            assert admitted == {"wrap": 1}
            await elapse(admission.MESSAGE_SECONDS / 2)
            ended, _ = await asyncio.wait([asyncio.ensure_future(call.code())], timeout=15)
            assert [status.result() for status in ended] == [grpc.StatusCode.DEADLINE_EXCEEDED]


async def test_calls_on_one_connection_never_share_a_caller() -> None:
    async with running_listener(register_named) as listener:
        admitted = listener._admission._shares._calls
        async with grpc.aio.insecure_channel(listener.endpoint) as channel:
            users = [f"uid {number}" for number in range(1000, 1003)]
            calls = [begun(channel, role="wrap", user=user) for user in users]
            await until(lambda: sum(admitted.values()) == len(users))
            answers = []
            for call in calls:
                await call.write(b"")
                await call.done_writing()
                answers.append(messages.keyProviderKeyWrapProtocolOutput.FromString(await call))
            names = [answer.KeyProviderKeyWrapProtocolOutput.decode() for answer in answers]
            assert names == users
            last = begun(channel, role="none", user="uid 1000")
            assert await last.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_large_messages_are_read_off_the_event_loop(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[bool] = []
    decode = protocol.decode

    def watched(data: bytes, **options: Any) -> Any:
        on_loop.append(_on_event_loop())
        return decode(data, **options)

    monkeypatch.setattr(protocol, "decode", watched)
    async with KeyProviderClient.open(broker.client_api) as client:
        await client.wrap(KID)
        await client.refusal("WrapKey", LARGE)
        await client.refusal("UnWrapKey", LARGE)
    assert on_loop == [True, False, False]


def begun(
    channel: grpc.aio.Channel, name: str = "keyprovider.KeyProviderService/WrapKey", **metadata: str
) -> Any:
    """A call whose message is not sent."""
    method: Any = channel.stream_unary(f"/{name}", None, None)
    return method(metadata=tuple(metadata.items()))


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def test_watching_users_leave_calls_to_administrators(watchers: Watchers) -> None:
    users = admission.CALLS_OF_USERS // admission.CALLS_OF_USER
    for number in range(users):
        await watchers.add(admission.CALLS_OF_USER, role="wrap", user=f"uid {number}")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watchers.add(1, role="wrap", user="uid 1000")
    refused(error)
    await watchers.add(admission.CALLS_OF_USER + 1, role="admin")


async def test_a_user_is_limited_alone(watchers: Watchers) -> None:
    await watchers.add(admission.CALLS_OF_USER, role="wrap", user="uid 1000")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watchers.add(1, role="wrap", user="uid 1000")
    refused(error)
    await watchers.add(1, role="wrap", user="uid 1001")


async def test_callers_without_rights_are_one_user(watchers: Watchers) -> None:
    for number in range(admission.CALLS_OF_USER):
        await watchers.add(1, role="none", user=f"unknown at {number}")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watchers.add(1, role="none", user="unknown at another port")
    refused(error)


async def test_calls_of_a_connection_are_limited(watchers: Watchers) -> None:
    async with grpc.aio.insecure_channel(watchers.address) as channel:
        calls = [
            HealthStub(channel).Watch(health.HealthCheckRequest(), metadata=(("role", "admin"),))
            for _ in range(admission.CALLS_OF_CONNECTION + 1)
        ]
        reads = {asyncio.ensure_future(call.read()): call for call in calls}
        await until(lambda: sum(read.done() for read in reads) >= admission.CALLS_OF_CONNECTION)
        # A call on another connection is answered, and all of these were sent before it.
        await watchers.add(1, role="admin")
        (waiting,) = (read for read in reads if not read.done())
        next(call for read, call in reads.items() if read.done()).cancel()
        assert (await waiting).status == health.HealthCheckResponse.SERVING


async def test_a_stream_has_a_deadline(watchers: Watchers) -> None:
    await watchers.add(1, role="admin")
    await elapse(admission.STREAM_SECONDS + 1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await watchers.open[0].read()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_ended_call_is_counted_no_longer(watchers: Watchers) -> None:
    await watchers.add(admission.CALLS_OF_USER, role="wrap")
    watchers.open[0].cancel()
    while not await accepted(watchers):  # until the broker has noticed
        pass


async def accepted(watchers: Watchers) -> bool:
    try:
        await watchers.add(1, role="wrap")
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_messages_of_a_user_are_read_a_few_at_a_time(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = Caller("uid 1000", ROLES["wrap"])
    monkeypatch.setattr(CallerRules, "caller", lambda rules, context: user)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(broker.client_api))
        slow = [begun(channel) for _ in range(admission.MESSAGES_OF_USER)]
        for call in slow:
            await call.wait_for_connection()
        client = await stack.enter_async_context(KeyProviderClient.open(broker.client_api))
        fast = asyncio.ensure_future(client.call("WrapKey", wrap_input(KID)))
        await asyncio.wait([fast], timeout=0.5)  # window: nothing announces that a call waits
        assert not fast.done()
        slow[0].cancel()
        assert await fast


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a thread waits for, also if the test fails."""
    event = threading.Event()
    yield event
    event.set()


async def test_one_large_message_of_users_is_answered_at_once(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, release: threading.Event
) -> None:
    """Administrators do not wait for the large messages of others."""
    callers = iter((("uid 1000", "wrap"), ("uid 1001", "wrap"), ("uid 0", "admin")))

    def caller(rules: CallerRules, context: CallContext) -> Caller:
        name, role = next(callers)
        return Caller(name, ROLES[role])

    begun: list[int] = []
    decode = protocol.decode

    def slow(data: bytes, **options: Any) -> Any:
        begun.append(len(data))
        if len(data) > SMALL_BYTES and len(begun) == 1:
            release.wait()
        return decode(data, **options)

    monkeypatch.setattr(CallerRules, "caller", caller)
    monkeypatch.setattr(protocol, "decode", slow)
    shares = broker.daemon.listener("client_api")._admission._shares  # type: ignore[attr-defined]
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(KeyProviderClient.open(broker.client_api))
            for _ in range(3)
        ]
        first = asyncio.ensure_future(clients[0].refusal("WrapKey", LARGE))
        await until(lambda: begun)
        second = asyncio.ensure_future(clients[1].refusal("WrapKey", LARGE + b" "))
        await until(lambda: shares._large._waiters)
        assert (await clients[2].refusal("WrapKey", LARGE + b"  "))[0] == "INVALID_ARGUMENT"
        assert begun == [len(LARGE), len(LARGE) + 2]
        assert not first.done()
        release.set()
        await first
        await second
    assert begun[2:] == [len(LARGE) + 1]
