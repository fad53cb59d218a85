"""`verdictd-py guest agent`: image tools of a guest decrypt images with released keys."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import store
from tests.support.clock import elapse
from tests.support.command import environment, run_here
from tests.support.keyprovider_client import LAYER, KeyProviderClient, b64, unwrap_input, wrap_input
from verdictd_py import daemon as app
from verdictd_py.cli.parsing import Silent
from verdictd_py.config import Address
from verdictd_py.errors import ConfigError
from verdictd_py.guest.agent import MAX_STATUS_CHARACTERS, Connect, KeyProviderAgent
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.listeners.grpc_listener import GrpcListener
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.tsm import REPORTS

pytestmark = pytest.mark.broker(verifier=("tdx",))

URI = "keyid=kbs:///default/key/1"
GARBAGE = (b"", b"{", b"[]", b"\xff\xfe", b"{}", b'{"op":"keyunwrap"}', b"[" * 100_000)


@pytest.fixture
def platform(tmp_path: Path) -> SimulatedPlatform:
    """Store the platform of the broker for an agent."""
    made = SimulatedPlatform.create(now=app.utc_now())
    made.save(tmp_path / "platform")
    return made


@dataclass
class RunningAgent:
    """An agent in a separate process."""

    target: str
    process: asyncio.subprocess.Process

    async def end(self, number: int) -> tuple[int | None, str]:
        """Stop the agent; return its status and its output after the first line."""
        self.process.send_signal(number)
        stdout, stderr = await self.process.communicate()
        return self.process.returncode, (stdout + stderr).decode()


def agent_words(broker: RunningBroker, keyprovider: str, *more: str) -> tuple[str, ...]:
    host, port = broker.address
    return (
        *("guest", "agent", "--keyprovider", keyprovider, "--connect", f"{host}:{port}"),
        *("--platform", str(broker.data.parent / "platform"), "--timeout", "60", *more),
    )


@asynccontextmanager
async def running_agent(
    broker: RunningBroker, *more: str, keyprovider: str = "127.0.0.1:0"
) -> AsyncIterator[RunningAgent]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.main"),
        *agent_words(broker, keyprovider, *more),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        prefix, _, target = line.rstrip("\n").rpartition(" ")
        assert prefix == "serving ocicrypt's key provider on"
        yield RunningAgent(target, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def wrapped(broker: RunningBroker, parameter: str) -> dict[str, object]:
    """Return a packet of the form that `parameter` requests."""
    async with KeyProviderClient.open(broker.client_api) as client:
        return await client.wrap(parameter)


async def refusal(agent: RunningAgent, packet: object) -> tuple[str, str]:
    async with KeyProviderClient.open(agent.target) as client:
        return await client.refusal("UnWrapKey", unwrap_input(packet))


@pytest.mark.parametrize("form", [Form.LEGACY, Form.BARE_V4, Form.CURRENT])
async def test_packets_of_both_forms_are_unwrapped_with_new_evidence(
    broker: RunningBroker, form: Form
) -> None:
    packets = [await wrapped(broker, parameter) for parameter in (KID, URI)]
    assert ["wrap_type" in packet for packet in packets] == [False, True]
    broker.events.events.clear()
    async with running_agent(broker, "--form", form.value) as agent:
        async with KeyProviderClient.open(agent.target) as client:
            for packet in packets:
                assert await client.unwrap(packet) == LAYER
        ended = await agent.end(signal.SIGTERM)
    assert ended == (0, "")
    accepted = broker.events.named("guest.accepted")
    assert len({event["appraisal"] for event in accepted}) == 2  # each call attests anew
    assert not broker.events.named("image-key.unwrapped")  # the client API's own way


async def test_concurrent_calls_get_their_own_answers(broker: RunningBroker) -> None:
    layers = [LAYER + bytes([number]) for number in range(8)]
    async with KeyProviderClient.open(broker.client_api) as client:
        packets = [await client.wrap(KID, b64(layer)) for layer in layers]
    async with running_agent(broker) as agent, KeyProviderClient.open(agent.target) as client:
        assert await asyncio.gather(*map(client.unwrap, packets)) == layers


async def test_a_unix_socket_is_served_until_sigint(broker: RunningBroker) -> None:
    path = broker.data.parent / "agent.sock"
    packet = await wrapped(broker, KID)
    async with running_agent(broker, keyprovider=f"unix:{path}") as agent:
        assert agent.target == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        async with KeyProviderClient.open(agent.target) as client:
            assert await client.unwrap(packet) == LAYER
        assert await agent.end(signal.SIGINT) == (0, "")


async def test_a_refused_guest_gets_no_key(broker: RunningBroker) -> None:
    """The guest's tool receives the code and the id; only the operator reads the reason."""
    store(broker, "opa/tdxData", json.dumps({"rtmr1": ["ab" * 48]}).encode())
    packet = await wrapped(broker, KID)
    async with running_agent(broker) as agent:
        status, text = await refusal(agent, packet)
    (event,) = broker.events.named("guest.refused")
    assert status == "PERMISSION_DENIED"
    assert text == f"refused: policy-refused; ask the operator about {event['appraisal']}"


async def test_a_guest_without_evidence_gets_no_key(broker: RunningBroker) -> None:
    packet = await wrapped(broker, KID)
    async with running_agent(broker, "--attester", "none") as agent:
        status, _ = await refusal(agent, packet)
    assert status == "PERMISSION_DENIED"
    assert not broker.events.named("secret.released")


async def test_a_broker_that_is_not_running_is_unavailable(broker: RunningBroker) -> None:
    packet = await wrapped(broker, KID)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else gets it, and nobody listens
        port = taken.getsockname()[1]
        async with running_agent(broker, "--connect", f"127.0.0.1:{port}") as agent:
            status, text = await refusal(agent, packet)
    assert status == "UNAVAILABLE"
    assert text == f"cannot connect to 127.0.0.1 port {port}: is it running?"


async def test_a_broker_that_never_answers_is_unavailable(broker: RunningBroker) -> None:
    packet = await wrapped(broker, KID)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody reads
        connect = f"127.0.0.1:{silent.getsockname()[1]}"
        patience = ("--timeout", "0.5")  # window: nothing else ends this request
        async with running_agent(broker, "--connect", connect, *patience) as agent:
            assert await refusal(agent, packet) == (
                "UNAVAILABLE",
                "the broker did not answer in time",
            )


async def test_a_broker_that_cannot_appraise_is_unavailable(broker: RunningBroker) -> None:
    packet = await wrapped(broker, KID)
    directory = broker.data.parent / "other"
    directory.mkdir()
    async with (
        running_broker(directory, broker.platform, verifier=("tdx",), collateral=None) as other,
        running_agent(broker, "--connect", "{}:{}".format(*other.address)) as agent,
    ):
        status, text = await refusal(agent, packet)
        assert other.events.named("guest.not-judged")
    assert status == "UNAVAILABLE"
    assert text.startswith("not judged: ")


@pytest.mark.skipif(REPORTS.exists(), reason="this machine may be a TDX guest")
async def test_a_guest_that_cannot_make_evidence_reports_the_cause(broker: RunningBroker) -> None:
    packet = await wrapped(broker, KID)
    async with running_agent(broker, "--attester", "tdx") as agent:
        status, text = await refusal(agent, packet)
    assert status == "FAILED_PRECONDITION"
    assert "not a TDX guest" in text


@asynccontextmanager
async def served(connect: Connect) -> AsyncIterator[KeyProviderClient]:
    """Yield a client of an agent in this process that uses `connect`."""
    agent = KeyProviderAgent(connect, timeout_seconds=60)
    listener = GrpcListener(
        "keyprovider",
        [Address("127.0.0.1", 0)],
        lambda server, _: agent.register(server),
        events=Silent(),
    )
    listener.bind()
    await listener.start()
    try:
        async with KeyProviderClient.open(listener.endpoint) as client:
            yield client
    finally:
        await listener.stop(0)


class AnyBroker(GuestConnection):
    """A connection to a broker that receives requests and does not answer."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.received = asyncio.Event()

    async def call(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        self.received.set()
        await asyncio.Event().wait()
        return {}


async def test_each_generation_of_brokers_receives_its_own_algorithm_name(
    broker: RunningBroker,
) -> None:
    """A broker that receives the request and never answers does not block the image tool."""
    connection = AnyBroker()

    @asynccontextmanager
    async def connect() -> AsyncIterator[GuestConnection]:
        yield connection

    async with served(connect) as client:
        for parameter in (KID, URI):
            packet = unwrap_input(await wrapped(broker, parameter))
            connection.received.clear()
            answer = asyncio.create_task(client.refusal("UnWrapKey", packet))
            await connection.received.wait()
            await elapse(60)
            assert await answer == ("UNAVAILABLE", "the broker did not answer in time")
    names = [request["blobs"][0]["algorithm"] for request in connection.asked]
    assert names == ["AES", "A256GCM"]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("no quote"), "FAILED_PRECONDITION", "no quote"),
        (
            BrokerRefused("x\n y" * 999),
            "FAILED_PRECONDITION",
            ("x y" * 999)[:MAX_STATUS_CHARACTERS],
        ),
        (ValueError(KEY), "INTERNAL", "internal error of the guest's agent (ValueError)"),
    ],
    ids=["config", "long", "internal"],
)
async def test_an_error_contains_no_secret(
    broker: RunningBroker, error: Exception, status: str, text: str
) -> None:
    def connect() -> AbstractAsyncContextManager[GuestConnection]:
        raise error

    async with served(connect) as client:
        packet = unwrap_input(await wrapped(broker, KID))
        assert await client.refusal("UnWrapKey", packet) == (status, text)


async def test_a_missing_key_is_not_a_refusal_of_the_guest(broker: RunningBroker) -> None:
    packet = await wrapped(broker, KID)
    (broker.data / "keys" / KID).unlink()
    async with running_agent(broker) as agent:
        status, text = await refusal(agent, packet)
    assert status == "FAILED_PRECONDITION"
    assert KEY.decode().strip() not in text


async def test_an_invalid_request_is_an_error_of_the_caller(broker: RunningBroker) -> None:
    async with running_agent(broker) as agent, KeyProviderClient.open(agent.target) as client:
        for garbage in GARBAGE:
            status, text = await client.refusal("UnWrapKey", garbage)
            assert status == "INVALID_ARGUMENT", garbage[:20]
            assert text
        status, text = await client.refusal("WrapKey", wrap_input(KID))
        assert status == "UNIMPLEMENTED"
        assert "--client-api" in text
    assert not broker.events.named("guest.accepted")


def test_an_unusable_address_is_reported_in_one_line(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """An agent that other hosts can reach would release this guest's keys to them."""
    place = ("--platform", str(tmp_path / "p"))
    words = ("guest", "agent", "--connect", "127.0.0.1:9", *place)
    here = (*words, "--keyprovider", "127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            "0.0.0.0:0 can be reached from other hosts": (*words, "--keyprovider", "0.0.0.0:0"),
            "[::]:0 can be reached from other hosts": (*words, "--keyprovider", "[::]:0"),
            "example:0 can be reached from other hosts": (*words, "--keyprovider", "example:0"),
            "is not an address": (*words, "--keyprovider", "nowhere"),
            "is not served here": (*words, "--keyprovider", "unix:relative"),
            "choose another --keyprovider": (*words, "--keyprovider", f"127.0.0.1:{port}"),
            "exists and is not a socket": (*words, "--keyprovider", f"unix:{tmp_path}"),
            "required: --keyprovider": words,
            "--connect is missing": ("guest", "agent", *here[-2:], *place),
            "--connect 'nowhere' is not an address": (*here, "--connect", "nowhere"),
            "'0': write seconds": (*here, "--timeout", "0"),
            "'nan': write seconds": (*here, "--timeout", "nan"),
            "'inf': write seconds": (*here, "--timeout", "inf"),
            "'soon': write seconds": (*here, "--timeout", "soon"),
            "unrecognized arguments: more": (*here, "more"),
        }
        ended = {said: run_here(case, capfdbinary) for said, case in cases.items()}
    for said, each in ended.items():
        assert said in each.complaint(2, each.stderr.partition(": ")[0])
