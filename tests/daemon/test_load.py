"""The console displays latency and load of the last minutes, from the numbers of all processes."""

from __future__ import annotations

import pytest

from verdictd_py.daemon import load as tested
from verdictd_py.daemon.load import LoadHistory
from verdictd_py.metrics import families
from verdictd_py.metrics.memory import Layout, Memory
from verdictd_py.stages import Stage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> Memory:
    return Memory(Layout(families.families(("tdx",))), 3)


def test_only_the_last_minutes_are_measured(memory: Memory) -> None:
    clock = Clock()
    history = LoadHistory(memory, 3, clock)
    one, two = memory.of(1), memory.of(2)
    for _ in range(100):
        one.observe(families.STAGES, ("listen",), (str(Stage.POLICY),), seconds=5.0)
    for _ in range(30):
        history.note()
        clock.now += tested.NOTE_SECONDS
    for _ in range(90):
        one.observe(families.STAGES, ("listen",), (str(Stage.POLICY),), seconds=0.002)
    for _ in range(10):
        two.observe(families.STAGES, ("kbs_http",), (str(Stage.POLICY),), seconds=0.2)
    load = history.load({"listen": {"new": 2, "attested": 3}}, {"listen": 100})
    (policy,) = load.stages
    assert (policy.stage, policy.number) == ("policy", 100)
    assert 0.001 <= policy.median <= 0.0025
    assert 0.1 <= policy.p95 <= 0.25
    assert policy.mean == pytest.approx(0.0218)
    (listener,) = load.listeners
    assert (listener.number, listener.limit) == (5, 100)


def test_each_process_has_its_own_load(memory: Memory) -> None:
    clock = Clock()
    history = LoadHistory(memory, 3, clock)
    worker = memory.of(2)
    worker.set(families.CPU, ("worker",), value=10.0)
    assert history.load({}, {}).processes[0].cpu is None
    history.note()
    clock.now += 20
    worker.set(families.CPU, ("worker",), value=15.0)
    worker.set(families.MEMORY, ("worker",), value=1 << 20)
    worker.set(families.QUEUES, ("worker",), ("audit",), value=7)
    processes = history.load({}, {}).processes
    assert [each.number for each in processes] == [0, 1, 2]
    assert [each.cpu for each in processes] == [0.0, 0.0, 0.25]
    assert (processes[2].memory, processes[2].queued) == (1 << 20, 7)


def test_the_period_is_ten_minutes(memory: Memory) -> None:
    clock = Clock()
    history = LoadHistory(memory, 3, clock)
    worker = memory.of(1)
    for number in range(30):
        worker.observe(families.STAGES, ("listen",), (str(Stage.POLICY),), seconds=number)
        history.note()
        clock.now += tested.NOTE_SECONDS - 1
        history.note()  # too early to be noted
        clock.now += 1
    load = history.load({}, {})
    assert load.seconds == 600
    (policy,) = load.stages
    assert policy.number == 19, "of the seconds since the oldest note"
    assert policy.mean == pytest.approx(20.0)


def test_the_delay_of_the_event_loops_is_their_mean(memory: Memory) -> None:
    history = LoadHistory(memory, 3, Clock())
    memory.of(0).observe(families.LOOP_DELAY, ("operator",), seconds=9.0)
    history.note()
    assert history.load({}, {}).delay is None
    memory.of(0).observe(families.LOOP_DELAY, ("operator",), seconds=0.1)
    memory.of(1).observe(families.LOOP_DELAY, ("worker",), seconds=0.3)
    assert history.load({}, {}).delay == pytest.approx(0.2)
