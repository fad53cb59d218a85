"""Three brokers on one store and one Valkey: each request of a guest goes to any of them.

A load balancer sends each request of a guest to a broker at random, and to another one if it cannot
connect. Meanwhile, an operator changes the release policy, others change keys and resources, one
broker is killed every two seconds, and every engine fails: Valkey is flushed and killed, PostgreSQL
crashes, and one broker is cut off from PostgreSQL for longer than it may decide without it.

The release policy of each number allows one of sixteen resources. A broker on a directory must
decide by no policy whose successor was acknowledged before the request. A broker on PostgreSQL may
do so for a bound (docs/postgresql.md); how long it did so at most is measured.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import grpc

from tools.engines.processes import Missing
from tools.torture import changes
from tools.torture.balancer import Balancer, Fleet
from tools.torture.broker import Broker, Site
from tools.torture.changes import Ledger, Writer
from tools.torture.clients import CALL_SECONDS, FAILURES, channel_to, failure_text
from tools.torture.kills import judged, recorded, trail, writing
from tools.torture.policies import (
    RELEASE_POLICY,
    RESOURCES,
    Policies,
    content_of,
    decisions,
    digest_of,
    path_of,
    policy,
    resource_of,
)
from tools.torture.scenario import Budget, Row, Scenario
from tools.torture.sharedstores import DirectoryStore, PostgresStore, Sessions, SharedStore
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.errors import VerdictdError
from verdictd_py.guest.attesters import SimulatedAttester
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.evidence import TdxEvidence
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import JsonObject, Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession

BROKERS: Final = 3
GUESTS: Final = 2000
POLICIES: Final = 500
SMOKE: Final = (20, 10)
AT_ONCE: Final = 8
"""Guests at the same time: more would only wait for the CPU."""

KILL_SECONDS: Final = 2.0
CUT_SECONDS: Final = (3.0, 30.0)
"""How long a broker is cut off from the store: in the smallest form, and in the whole one."""

WRITER_SECONDS: Final = 0.2
HANDSHAKES: Final = 5
"""Attempts of a guest to attest (attestation-agent, kbs_protocol, RCAR_MAX_ATTEMPT)."""

PAUSE_SECONDS: Final = 1.0
STARTS: Final = 5
"""Starts of a pod whose guest was not served; Kubernetes starts it without a limit."""

RECORDED_SECONDS: Final = 2.0
"""Time that may pass between a decision and its record, on a busy machine."""

AHEAD: Final = 0.05
"""Part of all guests that may begin before the policies have come as far."""

REQUESTS: Final = 100
SEED: Final = 19
_TWICE: Final = 4
"""One of so many guests sends its answer to two brokers at the same time."""

_OLD: Final = 8
"""A guest requests resources of so many last policies, of which only one is in force."""


@dataclass
class Outcomes:
    """What happened to the guests.

    Attributes:
        late: longest time for which an old policy released a secret after its successor was
            acknowledged.
        twice: answers that were sent to two brokers at once, and how many were accepted twice.
    """

    served: int = 0
    refused_by_policy: int = 0
    restarts: int = 0
    repeated: int = 0
    late: float = 0.0
    wrong: list[str] = field(default_factory=list)
    unserved: list[str] = field(default_factory=list)
    twice: int = 0
    spent_twice: list[str] = field(default_factory=list)


class Guests:
    """The guests, one after the other in `AT_ONCE` rows.

    Args:
        bound: seconds for which an old policy may decide after its successor was acknowledged.
    """

    def __init__(self, site: Site, balancer: Balancer, policies: Policies, bound: float) -> None:
        self._bound = bound
        self._link = KbsLink("https://balancer", ca=site.ca, timeout_seconds=CALL_SECONDS)
        self._attester = SimulatedAttester(site.platform)
        self._balancer = balancer
        self._policies = policies
        self._choose = random.Random(SEED + 1)  # noqa: S311  # repeatable, nothing secret
        self.outcomes = Outcomes()

    async def run(self, numbers: asyncio.Queue[int], wait: Callable[[], bool]) -> None:
        """Serve guests until there are none left.

        Args:
            wait: whether the next guest is to wait for the policies.
        """
        while not numbers.empty():
            if wait():
                await asyncio.sleep(0.05)
                continue
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
                    twice = number % _TWICE == 0 and start == 0
                    body = await self._attest(session, twice=twice)
                    await self._fetch(session)
                    if twice:
                        await self._replay(session, body)
                    self.outcomes.served += 1
                    return
            except FAILURES as error:
                problem = failure_text(error)
                await asyncio.sleep(PAUSE_SECONDS)
        self.outcomes.unserved.append(f"guest {number}: {problem}")

    async def _attest(self, session: RcarSession, *, twice: bool) -> JsonObject:
        """Attest; return the answer that was accepted."""
        for attempt in range(1, HANDSHAKES + 1):
            try:
                body = await session.answer(await session.auth())
                sent = [session.attest(body) for _ in range(1 + twice)]
                self.outcomes.twice += twice
                results = await asyncio.gather(*sent, return_exceptions=True)
                errors = [result for result in results if isinstance(result, BaseException)]
                if twice and not errors:
                    self.outcomes.spent_twice.append("two brokers accepted one answer")
                if len(errors) < len(results):
                    return body
                raise errors[0]
            except FAILURES:
                self.outcomes.repeated += 1
                if attempt == HANDSHAKES:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError  # the last attempt returns or raises

    async def _replay(self, session: RcarSession, body: JsonObject) -> None:
        """Send an answer that was accepted once more; a broker that is killed refuses it, too."""
        with suppress(*FAILURES):
            await session.attest(body)
            self.outcomes.spent_twice.append("an answer was accepted again after its secret")

    async def _fetch(self, session: RcarSession) -> None:
        """Request resources of the last policies until the policy in force allows one."""
        for _ in range(REQUESTS):
            newest = self._policies.newest
            old = newest - self._choose.randrange(_OLD) * self._choose.randrange(2)
            resource, begin = resource_of(max(0, old)), time.monotonic()
            try:
                secret = (await session.get(path_of(resource))).reveal()
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
        raise VerdictdError(f"no policy allowed a resource in {REQUESTS} requests")

    def _judge(self, resource: str, secret: bytes, begin: float, end: float) -> None:
        if secret != content_of(resource):
            self.outcomes.wrong.append(f"{resource}: another content")
        late = self._policies.stale_release(resource, begin, end)
        self.outcomes.late = max(self.outcomes.late, late)
        if late > self._bound:
            self.outcomes.wrong.append(f"{resource} {late:.1f} s after it was withdrawn")


class Operator:
    """Sets one policy after the other, in step with the guests, through any broker.

    Args:
        bound: seconds after which every broker must read a policy that was acknowledged.

    Attributes:
        lost: a line for each acknowledged policy that was not in force.
        seen_after: longest time until another broker read an acknowledged policy.
    """

    def __init__(self, fleet: Fleet, policies: Policies, bound: float) -> None:
        self._fleet = fleet
        self._policies = policies
        self._bound = bound
        self.first = asyncio.Event()
        self.lost: list[str] = []
        self.seen_after = 0.0

    async def run(self, queue: asyncio.Queue[int], guests: int, count: int) -> None:
        """Set policies until there are none left."""
        self._policies.before = await policy_at(self._fleet.for_operators()[0])
        for number in range(count):
            while not queue.empty() and (guests - queue.qsize()) / guests < number / count:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)
            self._policies.begin()
            while not await self._set(number):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.1)
            self.first.set()

    async def _set(self, number: int) -> bool:
        """Set a policy, and read it from another broker; return whether it was acknowledged."""
        brokers = self._fleet.for_operators()
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
        self._policies.acknowledge()
        await self._read(brokers[-1], number)
        return True

    async def _read(self, broker: Broker, number: int) -> None:
        """Read the policy at a broker until it is there; a broker that was killed is skipped."""
        acknowledged = time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                found = await policy_at(broker)
            except grpc.aio.AioRpcError:
                return
            if found == digest_of(number):
                self.seen_after = max(self.seen_after, asked - acknowledged)
                return
            if asked > acknowledged + self._bound:
                self.lost.append(f"policy {number} was acknowledged, and a broker reads another")
                return
            await asyncio.sleep(0.02)


async def policy_at(broker: Broker) -> str:
    """Return the digest of the release policy that a broker reads."""
    async with channel_to(broker.client_api) as channel:
        stub: Any = v1_grpc.DocumentServiceStub(channel)
        request = v1.DescribeDocumentRequest(name=RELEASE_POLICY)
        return str((await stub.DescribeDocument(request, timeout=CALL_SECONDS)).sha256)


@dataclass(frozen=True)
class Form:
    """A form of the scenario.

    Attributes:
        valkey: whether sessions are in Valkey; otherwise they are in the database.
    """

    postgres: bool
    valkey: bool

    @property
    def case(self) -> str:
        """Name of what the brokers share, for the table."""
        shared = "PostgreSQL" if self.postgres else "directory"
        return f"{BROKERS} brokers on one {shared}" + (" and one Valkey" if self.valkey else "")


async def run(budget: Budget, form: Form) -> AsyncIterator[Row]:
    """Run the scenario once; its length follows from the numbers of guests and policies."""
    site = Site.make(budget.directory)
    for resource in RESOURCES:
        path = site.data / "resources" / path_of(resource)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content_of(resource))
    async with AsyncExitStack() as stack:
        sessions: Sessions | None = None
        try:
            if form.valkey:
                opening = Sessions.running(budget.directory / "valkey")
                sessions = await stack.enter_async_context(opening)
            url = "" if sessions is None else sessions.url
            store: SharedStore = DirectoryStore(site, BROKERS, url)
            if form.postgres:
                running = PostgresStore.running(site, BROKERS, url)
                store = await stack.enter_async_context(running)
        except Missing as error:
            yield Row.skipped(form.case, str(error))
            return
        for row in await _judged(budget, form, site, store, sessions):
            yield row


async def _judged(
    budget: Budget, form: Form, site: Site, store: SharedStore, sessions: Sessions | None
) -> list[Row]:
    """Run everything, and return the rows."""
    work = Work(site, store, sessions, smoke=budget.smoke)
    try:
        await work.run()
        differences = await work.differences()
    finally:
        await work.fleet.stop()
    operators = judged("operators of the brokers", work.ledger, differences)
    trails = [await trail(path, log=await store.heads(path)) for path in store.trails]
    return [*work.rows(form), operators, *trails, recorded(store.trails, work.ledger)]


class Work:
    """Everything that runs at the same time: guests, operators, and failures.

    Args:
        sessions: the Valkey with the sessions; None if they are in the store.
    """

    def __init__(
        self, site: Site, store: SharedStore, sessions: Sessions | None, *, smoke: bool
    ) -> None:
        choose = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
        self._store = store
        self._sessions = sessions
        self._numbers = SMOKE if smoke else (GUESTS, POLICIES)
        self._cut_seconds = CUT_SECONDS[not smoke]
        self._choose = choose
        self._queue: asyncio.Queue[int] = asyncio.Queue()
        self._seconds = 0.0
        self._cuts = 0
        self._ca = site.ca
        self._site = site
        self.fleet = Fleet(store.places, choose)
        self.ledger = Ledger()
        self.policies = Policies()
        self.operator = Operator(self.fleet, self.policies, store.bound)
        self.outcomes = Outcomes()

    async def run(self) -> None:
        """Run until guests and policies are through, and all brokers run."""
        await self.fleet.start_all()
        begin, guests = time.monotonic(), self._numbers[0]
        for number in range(guests):
            self._queue.put_nowait(number)
        writers = [
            Writer(f"b{at}", self.ledger, self._choose, gate, sets=False, pause=WRITER_SECONDS)
            for at, gate in enumerate(self.fleet.gates)
        ]
        balancer = Balancer(self.fleet, self._ca)
        pods = Guests(self._site, balancer, self.policies, self._store.bound)
        self.outcomes = pods.outcomes
        async with writing(writers), asyncio.TaskGroup() as group:
            unending = [group.create_task(self._kill()), group.create_task(self.fleet.watch())]
            changing = group.create_task(self.operator.run(self._queue, *self._numbers))
            await self.operator.first.wait()
            serving = [
                group.create_task(pods.run(self._queue, self._is_ahead)) for _ in range(AT_ONCE)
            ]
            await asyncio.wait([*serving, changing, group.create_task(self._fail())])
            for task in unending:
                task.cancel()
            await asyncio.wait(unending)
            await self.fleet.start_all()
            for gate in self.fleet.gates:
                await gate.close()
        self._seconds = time.monotonic() - begin
        await balancer.close()

    def _is_ahead(self) -> bool:
        """Return whether more of the guests than of the policies have begun, by some."""
        guests, count = self._numbers
        return 1 - self._queue.qsize() / guests > len(self.policies.changes) / count + AHEAD

    async def _kill(self) -> None:
        """Kill a broker every two seconds; the one before may still be starting."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(KILL_SECONDS)
                group.create_task(self.fleet.kill_one())

    async def _fail(self) -> None:
        """Let each part fail once, spread over the guests."""
        failures: list[Callable[[], Awaitable[None]]] = [self._cut, self._store.restart]
        if self._sessions is not None:
            failures = [
                *(self._cut, self._sessions.flush),
                *(self._store.restart, self._sessions.restart),
            ]
        for done, fail in enumerate(failures, 1):
            left = self._numbers[0] * (1 - done / (len(failures) + 1))
            while self._queue.qsize() > left:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)
            await fail()

    async def _cut(self) -> None:
        """Cut a broker off from the store, for longer than it may decide without it."""
        if not self._store.bound:
            return
        while not (free := sorted(self.fleet.running)):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.05)
        number = self._choose.choice(free)
        self.fleet.cut.add(number)
        async with self._store.cut_off(number):
            await asyncio.sleep(self._cut_seconds)
        self.fleet.cut.discard(number)
        self._cuts += 1

    async def differences(self) -> list[str]:
        """Return what a broker reports within the bound, and an acknowledgement contradicts."""
        end = time.monotonic() + self._store.bound
        while True:
            found = [
                f"broker {at}: {line}"
                for at, broker in self.fleet.running.items()
                for line in await self._differences_at(broker)
            ]
            if not found or time.monotonic() > end:
                return [*self.operator.lost, *found]
            await asyncio.sleep(0.5)

    async def _differences_at(self, broker: Broker) -> list[str]:
        found = await changes.verify(broker.client_api, self.ledger)
        last = len(self.policies.changes) - 1
        if await policy_at(broker) != digest_of(last):
            found.append(f"the last policy is not {last}")
        return found

    def rows(self, form: Form) -> list[Row]:
        """Return the rows about guests."""
        outcomes, store = self.outcomes, self._store
        failed = [f"{self.fleet.kills} kill -9", f"{len(self.policies.changes)} policies"]
        if self._sessions is not None:
            failed += [
                f"Valkey flushed {self._sessions.flushes} and killed {self._sessions.kills} times"
            ]
        if store.bound:
            failed += [
                f"PostgreSQL crashed {store.restarts} times",
                f"a broker cut off from it for {self._cut_seconds:.0f} s {self._cuts} times",
            ]
        whole = outcomes.served + len(outcomes.unserved)
        return [
            Row.judged(
                f"{form.case}: {', '.join(failed)}, {self._seconds:.0f} s",
                f"{outcomes.served} of {whole} guests served, {outcomes.repeated} handshakes "
                f"repeated, {outcomes.restarts} pods started again{first(outcomes.unserved)}",
                passed=outcomes.served > 0 and not outcomes.unserved,
            ),
            Row.judged(
                "no secret that the policy in force refuses",
                f"{outcomes.served} secrets, {outcomes.refused_by_policy} refused by policy, "
                f"{len(outcomes.wrong)} wrong; a withdrawn policy released one at most "
                f"{outcomes.late:.2f} s later, another broker read a new one after at most "
                f"{self.operator.seen_after:.2f} s{first(outcomes.wrong)}",
                passed=not outcomes.wrong and outcomes.refused_by_policy > 0,
            ),
            self._decided(),
            Row.judged(
                "no challenge spent twice",
                f"{outcomes.twice} answers sent to two brokers at once and again later, "
                f"{len(outcomes.spent_twice)} accepted twice{first(outcomes.spent_twice)}",
                passed=not outcomes.spent_twice and outcomes.twice > 0,
            ),
        ]

    def _decided(self) -> Row:
        """Return the row about the policies that decided, as the audit trails name them."""
        made = decisions(self._store.trails, self.policies)
        wrong, limit = [*made.wrong], self._store.bound + RECORDED_SECONDS
        if made.longest > limit:
            wrong.append(f"a policy decided {made.longest:.2f} s after it was replaced")
        if made.releases < self.outcomes.served:
            wrong.append(f"{self.outcomes.served} secrets, {made.releases} records of a release")
        return Row.judged(
            "each decision by the policy in force, as the audit trails say",
            f"{made.releases} releases and {made.refusals} refusals; {len(made.late)} recorded "
            f"after the next policy was acknowledged, at most {made.longest:.2f} s"
            f"{first(wrong)}",
            passed=not wrong and made.releases > 0,
        )


def first(problems: Sequence[str]) -> str:
    """Return the first problem as an example; empty if there is none."""
    return f"; e.g. {problems[0]}" if problems else ""


def _scenario(name: str, about: str, form: Form) -> Scenario:
    return Scenario(name, about, 3, partial(run, form=form))


BROKERS_SCENARIOS: Final = (
    _scenario(
        "brokers",
        "three brokers, one PostgreSQL, one Valkey: kills, failures, 500 policies",
        Form(postgres=True, valkey=True),
    ),
    _scenario(
        "brokers-directory",
        "the same on one data directory and one Valkey",
        Form(postgres=False, valkey=True),
    ),
    _scenario(
        "brokers-postgresql",
        "the same on one PostgreSQL, sessions included",
        Form(postgres=True, valkey=False),
    ),
)
