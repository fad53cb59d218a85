"""Latency, load of the processes and connections for the console, from the shared numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from verdictd_py.console.views.load import ListenerLoad, Load, ProcessLoad, StageLatency
from verdictd_py.metrics import families
from verdictd_py.metrics.families import SECONDS
from verdictd_py.metrics.memory import Memory
from verdictd_py.stages import Stage

NOTE_SECONDS: Final = 30.0
"""Pause between two noted states."""

_NOTES: Final = 20
"""States that are stored: ten minutes."""

_BUCKETS: Final = len(SECONDS) + 1


@dataclass(frozen=True, slots=True)
class _State:
    """Numbers at one moment: histograms by stage, that of the event loops, seconds of CPU."""

    at: float
    stages: Mapping[str, Sequence[float]]
    delays: Sequence[float]
    cpu: Sequence[float]


class LoadHistory:
    """States of the last minutes, so that the load of now is displayed, not that since the start.

    Args:
        memory: numbers of all processes.
        processes: number of processes, the operator process included.
        monotonic: monotonic clock, in seconds.
    """

    def __init__(self, memory: Memory, processes: int, monotonic: Callable[[], float]) -> None:
        self._memory = memory
        self._numbers = [memory.of(number) for number in range(processes)]
        self._monotonic = monotonic
        self._states: deque[_State] = deque(maxlen=_NOTES)

    def note(self) -> None:
        """Note the state of now, if the last one is old enough."""
        now = self._monotonic()
        if not self._states or now - self._states[-1].at >= NOTE_SECONDS:
            self._states.append(self._state(now))

    def load(self, connections: Mapping[str, Mapping[str, int]], limits: Mapping[str, int]) -> Load:
        """Return the load of the last minutes.

        Args:
            connections: numbers of connections by state, of each listener.
            limits: maximum number of connections, of some listeners.
        """
        now = self._state(self._monotonic())
        first = self._states[0] if self._states else now
        stages = [
            _latency(stage, _minus(now.stages[stage], first.stages[stage]))
            for stage in (str(each) for each in Stage)
        ]
        delays = _minus(now.delays, first.delays)
        number = sum(delays[:_BUCKETS])
        return Load(
            seconds=round(now.at - first.at),
            stages=tuple(each for each in stages if each.number),
            processes=tuple(self._process(n, now, first) for n in range(len(self._numbers))),
            listeners=tuple(
                ListenerLoad(name, tuple(states.items()), limits.get(name, 0))
                for name, states in connections.items()
            ),
            delay=delays[_BUCKETS] / number if number else None,
        )

    def _state(self, at: float) -> _State:
        """Return the numbers of all processes together, but the seconds of CPU of each."""
        stages = {str(stage): [0.0] * (_BUCKETS + 1) for stage in Stage}
        place = self._memory.layout.places[families.STAGES].family.labels.index("stage")
        for series in self._memory.read(families.STAGES):
            total = stages[series.labels[place]]
            for at_, value in enumerate(series.numbers):
                total[at_] += value
        delays = [0.0] * (_BUCKETS + 1)
        for series in self._memory.read(families.LOOP_DELAY):
            for at_, value in enumerate(series.numbers):
                delays[at_] += value
        cpu = [
            numbers.get(families.CPU, _process_label(number))
            for number, numbers in enumerate(self._numbers)
        ]
        return _State(at, stages, delays, cpu)

    def _process(self, number: int, now: _State, first: _State) -> ProcessLoad:
        label, numbers = _process_label(number), self._numbers[number]
        seconds = now.at - first.at
        used = now.cpu[number] - first.cpu[number]
        queued = sum(numbers.get(families.QUEUES, label, (name,)) for name in ("audit", "log"))
        return ProcessLoad(
            number,
            max(0.0, used / seconds) if seconds > 0 else None,
            int(numbers.get(families.MEMORY, label)),
            int(queued),
        )


def _process_label(number: int) -> tuple[str]:
    return ("worker" if number else "operator",)


def _minus(now: Sequence[float], first: Sequence[float]) -> list[float]:
    return [max(0.0, one - other) for one, other in zip(now, first, strict=True)]


def _latency(stage: str, numbers: Sequence[float]) -> StageLatency:
    """Return the times in a histogram: numbers of each bucket, then the sum in seconds."""
    buckets, total = numbers[:_BUCKETS], numbers[_BUCKETS]
    number = sum(buckets)
    return StageLatency(
        stage,
        int(number),
        total / number if number else 0.0,
        *(_quantile(buckets, part) for part in (0.5, 0.95, 0.99)),
    )


def _quantile(buckets: Sequence[float], part: float) -> float:
    """Return a quantile, interpolated in its bucket; at most the last bound."""
    wanted, below = part * sum(buckets), 0.0
    for at, number in enumerate(buckets):
        if number and below + number >= wanted:
            lower = SECONDS[at - 1] if at else 0.0
            upper = SECONDS[at] if at < len(SECONDS) else SECONDS[-1]
            return lower + (upper - lower) * (wanted - below) / number
        below += number
    return 0.0
