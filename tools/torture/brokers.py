"""Three brokers on one store and one Valkey: each request of a guest goes to any of them.

A load balancer sends each request of a guest to a broker at random, and to another one if it cannot
connect. Meanwhile, an operator changes the release policy, others change keys and sets, one broker
is killed every two seconds, and Valkey is flushed once and killed once.

The release policy of each number allows one of two resources only. An answer with a resource
counts as wrong if no policy that may have been in force during the request allows it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import httpx

from tools.torture import changes
from tools.torture.broker import Broker, BrokerFailed, Site
from tools.torture.changes import Gate, Ledger, Writer
from tools.torture.clients import CALL_SECONDS, FAILURES, channel_to, failure_text
from tools.torture.kills import judged, trail, writing
from tools.torture.scenario import Budget, Row, Scenario
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.errors import VerdictdError
from verdictd_py.guest.attesters import SimulatedAttester
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.evidence import TdxEvidence
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession

BROKERS: Final = 3
GUESTS: Final = 2000
POLICIES: Final = 500
SMOKE: Final = (20, 10)
AT_ONCE: Final = 8
"""Guests at the same time: more would only wait for the CPU."""

KILL_SECONDS: Final = 2.0
WRITER_SECONDS: Final = 0.2
HANDSHAKES: Final = 5
"""Attempts of a guest to attest (attestation-agent, kbs_protocol, RCAR_MAX_ATTEMPT)."""

PAUSE_SECONDS: Final = 1.0
STARTS: Final = 5
"""Starts of a pod whose guest was not served; Kubernetes starts it without a limit."""

RESOURCES: Final = ("even", "odd")
RELEASE_POLICY: Final = "releasePolicy.rego"
SEED: Final = 19
_TWICE: Final = 4
"""One of so many guests sends its answer to two brokers at the same time."""


def content_of(resource: str) -> bytes:
    """Return the secret that is stored in a resource."""
    return f"the secret of {resource} guests".encode()


def policy(number: int) -> bytes:
    """Return the release policy of a number, which allows one resource."""
    path = f"default/brokers/{RESOURCES[number % 2]}"
    return (
        f"# number {number}\npackage policy\n\nimport rego.v1\n\ndefault allow := false\n\n"
        f'allow if input.resource.path == "{path}"\n'
    ).encode()


@dataclass
class Policies:
    """The numbers of the policies that may be in force, over time.

    Attributes:
        changes: number, time at which the change was sent, and at which it was acknowledged
            (infinite if it never was).
    """

    changes: list[tuple[int, float, float]] = field(default_factory=list)

    def begin(self, number: int) -> None:
        """Note that a change is sent."""
        self.changes.append((number, time.monotonic(), float("inf")))

    def acknowledge(self) -> None:
        """Note that the last change was acknowledged."""
        number, begun, _ = self.changes[-1]
        self.changes[-1] = (number, begun, time.monotonic())

    def possible(self, begin: float, end: float) -> set[int]:
        """Return the numbers of the policies that may have decided between two times."""
        decided = [
            at for at, (_, _, acknowledged) in enumerate(self.changes) if acknowledged <= begin
        ]
        first = decided[-1] if decided else 0
        return {number for number, begun, _ in self.changes[first:] if begun <= end}


@dataclass
class Outcomes:
    """What happened to the guests.

    Attributes:
        twice: answers that were sent to two brokers at once, and how many were accepted twice.
    """

    served: int = 0
    refused_by_policy: int = 0
    restarts: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)
    unserved: list[str] = field(default_factory=list)
    twice: int = 0
    spent_twice: list[str] = field(default_factory=list)


class Fleet:
    """The brokers, of which some are running, and the balancer in front of them."""

    def __init__(self, site: Site, options: Sequence[str], choose: random.Random) -> None:
        self._site = site
        self._options = options
        self._choose = choose
        self.gates = [Gate() for _ in range(BROKERS)]
        self.running: dict[int, Broker] = {}
        self.kills = 0

    async def start(self, number: int) -> None:
        """Start a broker."""
        broker = await Broker.start(self._site, *self._options)
        self.running[number] = broker
        self.gates[number].open(broker.client_api)

    async def kill_one(self) -> None:
        """Kill a broker, if another one runs, and start it again in the background."""
        number = self._choose.choice(sorted(self.running))
        broker = self.running.pop(number)
        closing = asyncio.create_task(self.gates[number].close())
        await broker.kill()
        await closing
        self.kills += 1
        await self.start(number)

    async def stop(self) -> None:
        """Kill all brokers."""
        for broker in self.running.values():
            await broker.kill()

    def any(self) -> list[Broker]:
        """Return the running brokers in random order."""
        brokers = list(self.running.values())
        self._choose.shuffle(brokers)
        return brokers


class Balancer(httpx.AsyncBaseTransport):
    """Sends each request to a broker at random; to the next one if it cannot connect."""

    def __init__(self, fleet: Fleet, ca: Path) -> None:
        self._fleet = fleet
        self._transport = httpx.AsyncHTTPTransport(
            verify=KbsLink("https://127.0.0.1:1", ca=ca)._context(),  # noqa: SLF001  # the same trust
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=30),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        problem: Exception = httpx.ConnectError("no broker runs")
        for broker in self._fleet.any():
            target = httpx.URL(broker.kbs)
            sent = httpx.Request(  # the guest's own request keeps its URL, which its cookie is for
                request.method,
                request.url.copy_with(host=target.host, port=target.port),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
            try:
                return await self._transport.handle_async_request(sent)
            except httpx.ConnectError as error:
                problem = error
        raise problem

    async def close(self) -> None:
        """Close all connections; unlike `aclose`, which each guest's client calls."""
        await self._transport.aclose()


class Guests:
    """The guests, one after the other in `AT_ONCE` rows."""

    def __init__(self, site: Site, balancer: Balancer, policies: Policies) -> None:
        self._link = KbsLink("https://balancer", ca=site.ca, timeout_seconds=CALL_SECONDS)
        self._attester = SimulatedAttester(site.platform)
        self._balancer = balancer
        self._policies = policies
        self._choose = random.Random(SEED + 1)  # noqa: S311  # repeatable, nothing secret
        self.outcomes = Outcomes()

    async def run(self, numbers: asyncio.Queue[int]) -> None:
        """Serve guests until there are none left."""
        while not numbers.empty():
            await self._pod(numbers.get_nowait())

    async def _pod(self, number: int) -> None:
        """Start a pod until its guest was served."""
        key = TeeKey.new(TeeKeyKind.usual(Version.V0_4_0), Version.V0_4_0)
        problem = ""
        for start in range(STARTS):
            self.outcomes.restarts += start > 0
            try:
                guest = RcarGuest(TdxEvidence(self._attester), key=key)
                async with RcarSession.open(self._link, guest, transport=self._balancer) as session:
                    await self._attest(session, twice=number % _TWICE == 0 and start == 0)
                    await self._fetch(session)
                    self.outcomes.served += 1
                    return
            except FAILURES as error:
                problem = failure_text(error)
                await asyncio.sleep(PAUSE_SECONDS)
        self.outcomes.unserved.append(f"guest {number}: {problem}")

    async def _attest(self, session: RcarSession, *, twice: bool) -> None:
        for attempt in range(1, HANDSHAKES + 1):
            try:
                body = await session.answer(await session.auth())
                if not twice:
                    await session.attest(body)
                    return
                self.outcomes.twice += 1
                results = await asyncio.gather(
                    session.attest(body), session.attest(body), return_exceptions=True
                )
                errors = [result for result in results if isinstance(result, BaseException)]
                if not errors:
                    self.outcomes.spent_twice.append("two brokers accepted one answer")
                if len(errors) < len(results):
                    return
                raise errors[0]
            except FAILURES:
                self.outcomes.repeated += 1
                if attempt == HANDSHAKES:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)

    async def _fetch(self, session: RcarSession) -> None:
        """Request both resources in turn until the policy in force allows one."""
        order = list(RESOURCES)
        self._choose.shuffle(order)
        for resource in order * 50:
            begin = time.monotonic()
            try:
                secret = (await session.get(f"default/brokers/{resource}")).reveal()
            except KbsRefused as error:
                if error.status == 403:
                    self.outcomes.refused_by_policy += 1
                    continue
                if error.status != 401:
                    raise
                await self._attest(session, twice=False)
                continue
            self._judge(resource, secret, begin, time.monotonic())
            return
        raise VerdictdError("no policy allowed a resource in a hundred requests")

    def _judge(self, resource: str, secret: bytes, begin: float, end: float) -> None:
        possible = self._policies.possible(begin, end)
        if secret != content_of(resource):
            self.outcomes.wrong.append(f"{resource}: another content")
        if not any(RESOURCES[number % 2] == resource for number in possible):
            self.outcomes.wrong.append(f"{resource} under the policies {sorted(possible)}")


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Run the scenario once; its length follows from the numbers of guests and policies."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        yield Row.skipped("three brokers", "neither valkey-server nor redis-server is installed")
        return
    guests, count = SMOKE if budget.smoke else (GUESTS, POLICIES)
    choose = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
    site = Site.make(budget.directory)
    for resource in RESOURCES:
        path = site.data / "resources" / "default" / "brokers" / resource
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content_of(resource))
    async with running_valkey(program, budget.directory / "valkey") as valkey:
        fleet = Fleet(site, ("--kbs-sessions", valkey.url), choose)
        ledger, policies = Ledger(), Policies()
        try:
            for number in range(BROKERS):
                await fleet.start(number)
            balancer = Balancer(fleet, site.ca)
            all_guests = Guests(site, balancer, policies)
            begin = time.monotonic()
            lost = await _work(fleet, all_guests, policies, valkey, ledger, choose, (guests, count))
            seconds = time.monotonic() - begin
            await balancer.close()
            differences = [
                f"broker {at}: {line}"
                for at, broker in fleet.running.items()
                for line in (
                    *await changes.verify(broker.client_api, ledger),
                    *await _policy_differences(broker, policies),
                )
            ]
        finally:
            await fleet.stop()
    for row in rows(all_guests.outcomes, policies, fleet.kills, seconds, valkey):
        yield row
    yield judged("operators of the three brokers", ledger, (*lost, *differences))
    yield await trail(site, ledger)


def rows(
    outcomes: Outcomes, policies: Policies, kills: int, seconds: float, valkey: Valkey
) -> list[Row]:
    """Return the rows about guests."""

    def first(problems: Sequence[str]) -> str:
        return f"; e.g. {problems[0]}" if problems else ""

    case = (
        f"{BROKERS} brokers, {kills} kill -9, {len(policies.changes)} policies, Valkey flushed "
        f"{valkey.flushes} and killed {valkey.kills} times, {seconds:.0f} s"
    )
    whole = outcomes.served + len(outcomes.unserved)
    return [
        Row.judged(
            case,
            f"{outcomes.served} of {whole} guests served, {outcomes.repeated} handshakes repeated, "
            f"{outcomes.restarts} pods started again{first(outcomes.unserved)}",
            passed=outcomes.served > 0 and not outcomes.unserved,
        ),
        Row.judged(
            "no secret that the policy in force refuses",
            f"{outcomes.served} secrets, {outcomes.refused_by_policy} refused by policy, "
            f"{len(outcomes.wrong)} wrong{first(outcomes.wrong)}",
            passed=not outcomes.wrong and outcomes.refused_by_policy > 0,
        ),
        Row.judged(
            "no challenge spent twice",
            f"{outcomes.twice} answers sent to two brokers at once, {len(outcomes.spent_twice)} "
            "accepted twice",
            passed=not outcomes.spent_twice and outcomes.twice > 0,
        ),
    ]


async def _work(  # everything that runs at the same time
    fleet: Fleet,
    guests: Guests,
    policies: Policies,
    valkey: Valkey,
    ledger: Ledger,
    choose: random.Random,
    numbers: tuple[int, int],
) -> list[str]:
    """Run guests, operators and failures until guests and policies are through.

    Returns:
        A line for each acknowledged policy that was not in force.
    """
    queue: asyncio.Queue[int] = asyncio.Queue()
    for number in range(numbers[0]):
        queue.put_nowait(number)
    writers = [
        Writer(f"b{at}", ledger, choose, gate, sets=False, pause=WRITER_SECONDS)
        for at, gate in enumerate(fleet.gates)
    ]
    lost: list[str] = []
    first_policy = asyncio.Event()
    async with writing(writers), asyncio.TaskGroup() as group:
        killing = group.create_task(_kill(fleet))
        changing = group.create_task(
            _change(fleet, policies, queue, numbers[1], numbers[0], lost, first_policy)
        )
        await first_policy.wait()
        serving = [group.create_task(guests.run(queue)) for _ in range(AT_ONCE)]
        failing = group.create_task(_fail(valkey, queue, numbers[0]))
        await asyncio.wait([*serving, changing, failing])
        killing.cancel()
        await asyncio.wait([killing])
        for number in range(BROKERS):
            if number not in fleet.running:
                await fleet.start(number)
        for gate in fleet.gates:
            await gate.close()
    return lost


async def _kill(fleet: Fleet) -> None:
    """Kill a broker every two seconds; the one before may still be starting."""
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(KILL_SECONDS)
            if len(fleet.running) > 1:
                group.create_task(fleet.kill_one())


async def _change(  # the state of one operator
    fleet: Fleet,
    policies: Policies,
    queue: asyncio.Queue[int],
    count: int,
    guests: int,
    lost: list[str],
    first: asyncio.Event,
) -> None:
    """Set one policy after the other, in step with the guests, through any broker."""
    for number in range(count):
        while not queue.empty() and (guests - queue.qsize()) / guests < number / count:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.05)
        policies.begin(number)
        while not await _set_policy(fleet, number, lost):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.1)
        policies.acknowledge()
        first.set()


async def _set_policy(fleet: Fleet, number: int, lost: list[str]) -> bool:
    """Set a policy through a broker, and read it from another one; return whether it was set."""
    brokers = fleet.any()
    if not brokers:
        return False
    content = policy(number)
    try:
        async with channel_to(brokers[0].client_api) as channel:
            stub: Any = v1_grpc.DocumentServiceStub(channel)
            request = v1.SetPolicyRequest(name=RELEASE_POLICY, content=content)
            await stub.SetPolicy(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    try:
        async with channel_to(brokers[-1].client_api) as channel:
            stub = v1_grpc.DocumentServiceStub(channel)
            answer = await stub.DescribeDocument(
                v1.DescribeDocumentRequest(name=RELEASE_POLICY), timeout=CALL_SECONDS
            )
    except grpc.aio.AioRpcError:
        return True  # that broker was killed
    if answer.sha256 != hashlib.sha256(content).hexdigest():
        lost.append(f"policy {number} was acknowledged, and another broker reads another one")
    return True


async def _policy_differences(broker: Broker, policies: Policies) -> list[str]:
    async with channel_to(broker.client_api) as channel:
        stub: Any = v1_grpc.DocumentServiceStub(channel)
        request = v1.DescribeDocumentRequest(name=RELEASE_POLICY)
        answer = await stub.DescribeDocument(request, timeout=CALL_SECONDS)
    number = policies.changes[-1][0]
    in_force = answer.sha256 == hashlib.sha256(policy(number)).hexdigest()
    return [] if in_force else [f"the last policy is not {number}"]


async def _fail(valkey: Valkey, queue: asyncio.Queue[int], guests: int) -> None:
    """Flush Valkey after a third of the guests, and kill it after two thirds."""
    for part, fail in ((2 / 3, valkey.flush), (1 / 3, valkey.restart)):
        while queue.qsize() > guests * part:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.05)
        await fail()


class Valkey:
    """A server on loopback that is flushed and killed.

    Attributes:
        url: for `--kbs-sessions`.
    """

    def __init__(self, program: str, directory: Path) -> None:
        directory.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._command = (
            *(program, "--port", str(self._port), "--bind", "127.0.0.1"),
            *("--dir", str(directory), "--save", "", "--appendonly", "no"),
        )
        self._log = directory / "log"
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"valkey://127.0.0.1:{self._port}"
        self.flushes = self.kills = 0

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log
            )
        async with asyncio.timeout(60):
            while not await self._command_succeeds(b"PING\r\n"):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)

    async def flush(self) -> None:
        """Remove all sessions."""
        if not await self._command_succeeds(b"FLUSHALL\r\n"):
            raise BrokerFailed(f"Valkey does not answer: {self._log}")
        self.flushes += 1

    async def restart(self) -> None:
        """Kill it, and start it again."""
        await self.kill()
        self.kills += 1
        await self.start()

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def _command_succeeds(self, command: bytes) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        try:
            writer.write(command)
            return (await reader.readline()).startswith(b"+")
        finally:
            writer.close()


@asynccontextmanager
async def running_valkey(program: str, directory: Path) -> AsyncIterator[Valkey]:
    """Run a server until the context ends."""
    valkey = Valkey(program, directory)
    await valkey.start()
    try:
        yield valkey
    finally:
        await valkey.kill()


BROKERS_SCENARIO: Final = Scenario(
    "brokers", "three brokers, one store, one Valkey: kills, flushes, 500 policies", 3, run
)
