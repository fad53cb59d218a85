"""Measurement: server CPU of some operations, in alternating rounds of the broker and its limit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from benchmarks.processes import BenchmarkFailed, Peer, Process

ROUNDS: Final = 5

_MS: Final = 1000.0


@dataclass(frozen=True)
class Sample:
    """Cost of one operation, the mean of one round.

    Attributes:
        cpu: milliseconds of the server's CPU, all of its processes together.
        wall: milliseconds of wall time, as the client sees it.
        by_process: CPU seconds of each of the server's processes in the round, by pid.
        latencies: wall time of each operation, for commands that measure it.
    """

    cpu: float
    wall: float
    by_process: Mapping[int, float] = field(default_factory=dict)
    latencies: Sequence[float] = ()

    def __add__(self, other: Sample) -> Sample:
        return Sample(self.cpu + other.cpu, self.wall + other.wall)


Side = Callable[[], Sample]


def cost(server: Process, client: Peer, call: str, **arguments: Any) -> Sample:  # noqa: ANN401
    """Have the client execute a command, and return what it costs the server.

    Raises:
        BenchmarkFailed: an operation failed, so that the cost is not that of the operations.
    """
    server.settle()
    before = server.cpu()
    answer = client.call(call, **arguments)
    server.settle()
    spent = {pid: after - before.get(pid, 0.0) for pid, after in server.cpu().items()}
    if answer["failures"]:
        raise BenchmarkFailed(f"{call}: {answer['failures'][0]}")
    count = answer["count"]
    return Sample(
        _MS * sum(spent.values()) / count,
        _MS * answer["seconds"] / count,
        by_process=spent,
        latencies=answer.get("latencies", ()),
    )


def alternate(
    sides: Sequence[Side], rounds: int = ROUNDS, *, warm_up: bool = True
) -> list[list[Sample]]:
    """Measure each side in turn, some rounds; return the samples of each side.

    Args:
        warm_up: begin with a round that is not counted, in which caches fill.
    """
    for side in sides if warm_up else ():
        side()
    samples: list[list[Sample]] = [[] for _ in sides]
    for _ in range(rounds):
        for result, side in zip(samples, sides, strict=True):
            result.append(side())
    return samples


@dataclass(frozen=True)
class Measurement:
    """Result of a case.

    Attributes:
        values: one for each round, in the unit of the case.
        limits: raw limits of the same rounds; empty if the target is an absolute value.
        wall: median of the wall time of one operation in ms, None if it has no meaning.
        satisfied: whether the conditions of the case other than its target are satisfied.
        notes: sentences about how it was measured, or why a condition is not satisfied.
    """

    values: Sequence[float]
    limits: Sequence[float] = ()
    wall: float | None = None
    satisfied: bool = True
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, samples: Sequence[Sequence[Sample]]) -> Measurement:
        """Return the measurement of samples of the broker and of its limit, see `alternate`."""
        broker, limit = samples
        return cls(
            [sample.cpu for sample in broker],
            [sample.cpu for sample in limit],
            wall=statistics.median(sample.wall for sample in broker),
        )


@dataclass(frozen=True)
class Result:
    """A case as it is reported.

    Attributes:
        median: None if the case could not be measured.
        spread: largest minus smallest value of the rounds.
        ratio: `median / limit`; None for an absolute target, which `median` must not exceed.
        target: at most this for the direction `max`, at least this for `min`.
        wall: median of the wall time of one operation in ms.
        seconds: how long the measurement took.
    """

    name: str
    unit: str
    median: float | None
    spread: float | None
    limit: float | None
    ratio: float | None
    target: float
    direction: Literal["max", "min"]
    met: bool
    wall: float | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, unit: str, target: float, measured: Measurement) -> Result:
        """Judge a measurement whose target is a maximum."""
        median = statistics.median(measured.values)
        limit = statistics.median(measured.limits) if measured.limits else None
        ratio = None if limit is None else median / limit
        compared = median if ratio is None else ratio
        return cls(
            name,
            unit,
            median,
            max(measured.values) - min(measured.values),
            limit,
            ratio,
            target,
            "max",
            met=measured.satisfied and compared <= target,
            wall=measured.wall,
            notes=measured.notes,
        )

    @classmethod
    def missing(cls, name: str, unit: str, target: float, reason: str) -> Result:
        """Return the result of a case that could not be measured; its target is not met."""
        notes = (reason,)
        return cls(name, unit, None, None, None, None, target, "max", met=False, notes=notes)

    def as_json(self) -> dict[str, Any]:
        """Return the members of a case in the JSON document."""
        names = ("name", "unit", "median", "spread", "limit", "ratio", "target", "direction", "met")
        return {name: _rounded(getattr(self, name)) for name in names}

    def details(self) -> dict[str, Any]:
        """Return what the JSON document also has about the case, next to `cases`."""
        seconds = round(self.seconds, 1)
        return {"wall_ms": _rounded(self.wall), "notes": list(self.notes), "seconds": seconds}


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value
