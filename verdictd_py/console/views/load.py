"""What the overview displays about latency, processes and connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageLatency:
    """Times of one stage of requests, in seconds; percentiles are interpolated in buckets.

    Attributes:
        number: number of requests.
    """

    stage: str
    number: int
    mean: float
    median: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """Load of one process.

    Attributes:
        number: 0 for the operator process, else that of the worker.
        cpu: share of one core; None before it is known.
        memory: resident bytes.
        queued: records and lines that wait to be written.
    """

    number: int
    cpu: float | None
    memory: int
    queued: int


@dataclass(frozen=True, slots=True)
class ListenerLoad:
    """Connections of one listener.

    Attributes:
        name: name of the listener in settings and metrics.
        states: number of connections by state.
        limit: maximum number; 0 if it is not known.
    """

    name: str
    states: tuple[tuple[str, int], ...]
    limit: int

    @property
    def number(self) -> int:
        return sum(number for _, number in self.states)


@dataclass(frozen=True, slots=True)
class Load:
    """Load of the broker.

    Attributes:
        seconds: length of the period of the latencies.
        delay: mean delay of the event loops in that period, in seconds; None if it is not known.
    """

    seconds: int = 0
    stages: tuple[StageLatency, ...] = ()
    processes: tuple[ProcessLoad, ...] = ()
    listeners: tuple[ListenerLoad, ...] = ()
    delay: float | None = None


def duration(seconds: float) -> str:
    """Return a time in a suitable unit: `0.31 ms`, `12 ms`, `1.4 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"


def size(number: int) -> str:
    """Return a number of bytes: `86 MiB`."""
    return f"{number / 2**20:.0f} MiB"
