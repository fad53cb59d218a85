"""Guest workers as the operator process sees them, with workers that run in this process."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from tests.support.clock import elapse, elapse_until, until
from tests.support.events import RecordedEvents
from verdictd_py.config import MAX_WORKERS, Settings, Unsafe
from verdictd_py.daemon.foundation import connections_of
from verdictd_py.daemon.reload import merged
from verdictd_py.daemon.workers import pool, start
from verdictd_py.daemon.workers.channel import Channel, ChannelFailed
from verdictd_py.daemon.workers.cores import usable_cores, worker_count
from verdictd_py.daemon.workers.pool import LONGEST_PAUSE, Workers
from verdictd_py.daemon.workers.start import Start
from verdictd_py.domain.events import DaemonReloaded, WarningReload
from verdictd_py.domain.eventtypes import Event
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError


@dataclass
class Process:
    """Process of a worker whose program runs in this process."""

    pid: int
    returncode: int | None = None
    channel: Channel | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        await self.ended.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self.end(-signal.SIGKILL)

    def end(self, status: int) -> None:
        if self.returncode is None:
            self.returncode = status
            self.ended.set()
            if self.channel is not None:
                self.channel.close()


@dataclass
class Fleet:
    """Workers of a pool, and the messages that they received.

    Attributes:
        answers: handlers of each new worker, by name.
        received: number of the worker, name and body of each message, in their order.
        dies_at_once: whether new workers end before they have started.
    """

    events: RecordedEvents
    processes: list[Process] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    answers: dict[str, Callable[[], Awaitable[JsonValue]]] = field(default_factory=dict)
    received: list[tuple[int, str, JsonValue]] = field(default_factory=list)
    ends: list[Channel] = field(default_factory=list)
    dies_at_once: bool = False

    async def spawn(self, start: Start, events: object) -> tuple[Any, Channel]:
        own, other = socket.socketpair()
        process = Process(1000 + len(self.processes))
        self.processes.append(process)
        self.starts.append(start)
        end = process.channel = await Channel.open(other, self.events)
        self.ends.append(end)
        for name in ("start", "ping", "drain", "reload", "changed", "parts"):
            end.handle(name, self._handler(start.number, name))
        asyncio.ensure_future(self._end_with(end, process))  # noqa: RUF006  # ends with the channel
        channel = await Channel.open(own, self.events)
        self.ends.append(channel)
        if self.dies_at_once:
            process.end(7)
        return process, channel

    def current(self, number: int) -> Process:
        """The last process of a worker."""
        return next(
            process
            for start, process in reversed(list(zip(self.starts, self.processes, strict=True)))
            if start.number == number
        )

    def _handler(self, number: int, name: str) -> Callable[[JsonValue], Awaitable[JsonValue]]:
        async def handle(body: JsonValue) -> JsonValue:
            self.received.append((number, name, body))
            return await self.answers[name]()

        return handle

    async def _end_with(self, end: Channel, process: Process) -> None:
        await end.wait_closed()
        process.end(0)


def answering(answer: JsonValue) -> Callable[[], Awaitable[JsonValue]]:
    async def handle() -> JsonValue:
        return answer

    return handle


async def never() -> JsonValue:
    await asyncio.get_running_loop().create_future()
    return None


@pytest.fixture
def fleet() -> Fleet:
    answers = {
        "start": answering("audit/a-worker.jsonl"),
        "ping": answering({}),
        "drain": answering(["audit/a-worker.jsonl", 3, "ab"]),
        "reload": answering({"changed": [], "problems": []}),
        "changed": answering(None),
        "parts": answering(None),
    }
    return Fleet(RecordedEvents(), answers=answers)


@dataclass
class Pool:
    """A pool, and the background work that it started."""

    workers: Workers
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def background(
        self, name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(cast("Any", run()), name=name)
        self.tasks.append(task)
        return task

    async def start(self) -> Workers:
        await self.workers.start(self.background)
        return self.workers


@pytest_asyncio.fixture
async def made(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Pool]:
    settings = Settings(data_dir=tmp_path, workers=2)

    async def report(event: Event) -> None:
        fleet.events.record(event)

    workers = Workers(
        2, lambda n: Start(n, 2, settings, Unsafe(), {}), fleet.events, report, spawn=fleet.spawn
    )
    result = Pool(workers)
    yield result
    for task in result.tasks:
        task.cancel()
    await asyncio.gather(*result.tasks, return_exceptions=True)
    for end in fleet.ends:
        end.close()
    await elapse(0)


async def test_all_workers_start_and_are_recorded_with_their_audit_files(
    made: Pool, fleet: Fleet
) -> None:
    workers = await made.start()
    assert workers.numbers == (1, 2)
    assert await workers.problem() == ""
    assert fleet.events.named("worker.started") == [
        {"worker": number, "pid": 999 + number, "file": "audit/a-worker.jsonl"} for number in (1, 2)
    ]


async def test_a_setting_that_a_worker_cannot_use_prevents_the_start(
    made: Pool, fleet: Fleet
) -> None:
    async def fail() -> JsonValue:
        raise ConfigError("cannot read x; check --kbs-admins")

    fleet.answers["start"] = fail
    with pytest.raises(ConfigError, match=r"^cannot read x; check --kbs-admins$"):
        await made.start()
    assert made.workers.numbers == ()
    assert [process.returncode is None for process in fleet.processes] == [False, False]


async def test_a_worker_that_ends_at_its_start_prevents_the_start(made: Pool, fleet: Fleet) -> None:
    fleet.dies_at_once = True
    with pytest.raises(ConfigError, match="cannot start: it ended with status 7"):
        await made.start()


@pytest.mark.parametrize(
    ("status", "reason"),
    [(-signal.SIGSEGV, "it was ended by SIGSEGV"), (1, "it ended with status 1")],
)
async def test_a_worker_that_dies_is_replaced_and_the_others_go_on(
    made: Pool, fleet: Fleet, status: int, reason: str
) -> None:
    workers = await made.start()
    ended: list[int] = []
    workers.ended.append(ended.append)
    fleet.current(1).end(status)
    await until(lambda: 1 not in workers.numbers)
    assert workers.numbers == (2,)
    assert await workers.problem() == ""
    with pytest.raises(ChannelFailed, match="guest worker 1 does not run"):
        await workers.call(1, "ping")
    await elapse_until(lambda: workers.numbers == (1, 2))
    assert ended == [1]
    assert [event["reason"] for event in fleet.events.named("warning.worker")] == [reason]
    assert [start.number for start in fleet.starts] == [1, 2, 1]


async def test_a_worker_that_cannot_live_is_started_with_growing_pauses(
    made: Pool, fleet: Fleet
) -> None:
    await made.start()
    fleet.dies_at_once = True
    fleet.current(1).end(1)
    await elapse_until(lambda: len(fleet.events.named("warning.worker")) == 9)
    pauses = [event["restarts_in_seconds"] for event in fleet.events.named("warning.worker")]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert made.workers.numbers == (2,)
    fleet.dies_at_once = False
    await elapse_until(lambda: made.workers.numbers == (1, 2))
    await elapse(LONGEST_PAUSE + 1)
    fleet.current(1).end(1)
    await until(lambda: len(fleet.events.named("warning.worker")) == 10)
    assert fleet.events.named("warning.worker")[-1]["restarts_in_seconds"] == 0


async def test_without_any_worker_the_broker_is_not_ready(made: Pool, fleet: Fleet) -> None:
    workers = await made.start()
    changes: list[tuple[int, ...]] = []
    workers.changed = lambda: changes.append(workers.numbers)
    fleet.dies_at_once = True
    for number in (1, 2):
        fleet.current(number).end(1)
    await until(lambda: not workers.numbers)
    assert await workers.problem() == "no guest worker runs; warning.worker has the cause"
    assert () in changes


async def test_a_worker_that_does_not_answer_is_killed_and_replaced(
    made: Pool, fleet: Fleet
) -> None:
    workers = await made.start()
    fleet.answers["ping"] = never
    first = fleet.current(1)
    await elapse_until(lambda: first.returncode is not None)
    fleet.answers["ping"] = answering({})
    await elapse_until(lambda: len(fleet.processes) == 4 and workers.numbers == (1, 2))
    reasons = {event["reason"] for event in fleet.events.named("warning.worker")}
    assert reasons == {"its event loop did not answer for 30 s; it was killed"}
    assert first.returncode == -signal.SIGKILL


async def test_one_missed_answer_kills_no_worker(made: Pool, fleet: Fleet) -> None:
    """The operator process itself may have been suspended."""
    workers = await made.start()
    missed = [2]

    async def once() -> JsonValue:
        if missed[0]:
            missed[0] -= 1
            await never()
        return {}

    fleet.answers["ping"] = once
    await elapse_until(lambda: not missed[0])
    for _ in range(60):
        await elapse(1)
    assert workers.numbers == (1, 2)
    assert not fleet.events.named("warning.worker")


async def test_problems_of_workers_are_those_of_the_broker(made: Pool, fleet: Fleet) -> None:
    workers = await made.start()
    changes: list[int] = []
    workers.changed = lambda: changes.append(1)
    fleet.answers["ping"] = answering({"sessions": "locked"})

    async def own() -> str:
        return "full"

    await elapse_until(lambda: len(changes) == 2)
    assert await workers.problem_of("sessions")() == "locked"
    assert await workers.problem_of("sessions", own)() == "full; locked"
    assert await workers.problem_of("disk")() == ""
    fleet.answers["ping"] = answering({})
    await elapse_until(lambda: len(changes) == 4)
    assert await workers.problem_of("sessions")() == ""


async def test_a_reload_reports_every_worker_once(made: Pool, fleet: Fleet) -> None:
    workers = await made.start()
    fleet.answers["reload"] = answering({"changed": ["limit: 1, now 2"], "problems": ["x is bad"]})
    assert await workers.reload({"a": 1}) == (["limit: 1, now 2"], ["x is bad"])
    assert [one[0] for one in fleet.received if one[1:] == ("reload", {"a": 1})] == [1, 2]


async def test_a_reload_fails_if_a_worker_ends_meanwhile(made: Pool, fleet: Fleet) -> None:
    workers = await made.start()

    async def die() -> JsonValue:
        fleet.current(2).end(1)
        return {"changed": [], "problems": []}

    fleet.answers["reload"] = die
    changed, problems = await workers.reload(None)
    assert changed == []
    assert [text for text in problems if text.startswith("guest worker 2: ")]


async def test_a_worker_that_starts_during_a_reload_reads_its_files_again(
    made: Pool, fleet: Fleet
) -> None:
    workers = await made.start()
    proceed = asyncio.Event()

    async def slow() -> JsonValue:
        await proceed.wait()
        return "audit/b.jsonl"

    fleet.answers["start"] = slow
    fleet.current(1).end(1)
    await elapse_until(lambda: len(fleet.processes) == 3)
    await workers.reload({"new": True})
    proceed.set()
    await until(lambda: workers.numbers == (1, 2))
    assert [one[0] for one in fleet.received if one[1] == "reload"] == [2, 1]


async def test_merged_reports_fail_if_one_failed() -> None:
    assert merged(DaemonReloaded(changed=("a",)), ["a", "b"], []) == DaemonReloaded(
        changed=("a", "b")
    )
    assert merged(DaemonReloaded(changed=()), [], ["bad"]) == WarningReload(
        changed=(), problems=("bad",)
    )
    before = WarningReload(changed=("a",), problems=("x",))
    assert merged(before, [], ["x"]) == before
    assert merged(before, [], []) == before


async def test_a_stop_drains_all_workers_and_records_their_last_digests(
    made: Pool, fleet: Fleet
) -> None:
    workers = await made.start()
    for task in made.tasks:
        task.cancel()
    await workers.stop(5)
    assert [one for one in fleet.received if one[1] == "drain"] == [
        (1, "drain", 5),
        (2, "drain", 5),
    ]
    assert [process.returncode for process in fleet.processes] == [0, 0]
    assert fleet.events.named("worker.stopped") == [
        {"worker": number, "file": "audit/a-worker.jsonl", "records": 3, "digest": "ab"}
        for number in (1, 2)
    ]


async def test_a_worker_that_does_not_drain_is_killed(made: Pool, fleet: Fleet) -> None:
    workers = await made.start()
    for task in made.tasks:
        task.cancel()
    fleet.answers["drain"] = never
    stopping = asyncio.create_task(workers.stop(5))
    passed = await elapse_until(stopping.done)
    assert passed == pytest.approx(5 + pool.DRAIN_SLACK_SECONDS, abs=2)
    assert [process.returncode is None for process in fleet.processes] == [False, False]
    assert len(fleet.events.named("warning.worker")) == 2


async def test_messages_of_workers_have_their_number(made: Pool, fleet: Fleet) -> None:
    seen: list[tuple[int, JsonValue]] = []

    async def note(number: int, body: JsonValue) -> JsonValue:
        seen.append((number, body))
        return number

    made.workers.handle("note", note)
    workers = await made.start()
    ends = [process.channel for process in fleet.processes]
    assert [await end.call("note", "x") for end in ends if end is not None] == [1, 2]
    assert seen == [(1, "x"), (2, "x")]
    workers.notify_each("changed", 1, but=1)
    workers.notify_each("changed", 2)
    await until(lambda: len([one for one in fleet.received if one[1] == "changed"]) == 3)
    assert sorted(one[::2] for one in fleet.received if one[1] == "changed") == [
        (1, 2),
        (2, 1),
        (2, 2),
    ]


def test_what_a_worker_receives_is_what_was_sent(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        verifier=("tdx",),
        proxy_protocol_from=(ipaddress.ip_network("10.0.0.0/8"),),
        kbs_http="127.0.0.1:1",
        tee={"tdx": {"a": [1]}},
        workers="auto",
    )
    settings._file = tmp_path / "config.toml"
    unsafe = Unsafe(unsafe_tdx_root_ca=tmp_path / "root.pem", insecure_loopback=True)
    sent = Start(3, 4, settings, unsafe, {"listen": 5}, {"limits": 6}, {"token_key": "secret-key"})
    ends = socket.socketpair()
    with ends[0], ends[1]:
        ends[0].sendall(sent.encode())
        received = Start.receive(ends[1])
        ends[0].close()
        with pytest.raises(EOFError):
            Start.receive(ends[1])
    assert received == sent
    assert received.settings.model_fields_set == settings.model_fields_set
    assert received.settings.file == settings.file
    assert "secret-key" not in repr(received)


def test_a_worker_inherits_no_setting_and_no_address_of_the_service_manager() -> None:
    settings = {"VERDICTD_LISTEN": "x", "verdictd_tee": "y"}
    of_service = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "LISTEN_FDS": "2", "LISTEN_PID": "3"}
    other = {"HTTPS_PROXY": "p", "CACHE_DIRECTORY": "/c", "PATH": "/bin"}
    inherited = start._environment({**settings, **of_service, **other})
    assert {name: inherited[name] for name in other} == other
    assert inherited.keys() - other.keys() <= {"PYTHONPATH"}


def test_descriptors_are_divided_for_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, max_connections=1000)
    monkeypatch.setattr("verdictd_py.daemon.descriptors.limit", lambda: 1256)
    worker = connections_of(settings, guests=True, operators=False)
    operators = connections_of(settings, guests=False, operators=True)
    both = connections_of(settings, guests=True, operators=True)
    assert (worker.guests, worker.warning) == (1000, "")
    assert operators.guests == 0
    assert operators.grpc >= both.grpc
    assert both.guests < 1000
    assert "at most 751 guests or 83 gRPC connections at once" in both.warning
    assert "at most 83 gRPC connections at once" in operators.warning
    monkeypatch.setattr("verdictd_py.daemon.descriptors.limit", lambda: 300)
    with pytest.raises(ConfigError, match="may open 300 files only"):
        connections_of(settings, guests=False, operators=True)


@pytest.mark.parametrize("text", ["0", "-1", "129", "many", "", "1.5", "AUTO"])
def test_a_number_of_workers_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"write a number from 1 to {MAX_WORKERS}, or auto"):
        Settings(workers=text)  # type: ignore[arg-type]  # as on the command line


@pytest.mark.parametrize(("value", "expected"), [("2", 2), (128, 128), ("auto", "auto")])
def test_numbers_of_workers(value: Any, expected: object) -> None:
    assert Settings(workers=value).workers == expected


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("150000 100000", 2), ("5000 100000", 1), ("?", 4)]
)
def test_cores_are_those_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 5})
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "missing") == 4
    assert worker_count(3) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(1000)))
    monkeypatch.setattr("verdictd_py.daemon.workers.cores._QUOTA", tmp_path / "missing")
    assert worker_count("auto") <= MAX_WORKERS
