"""Numbers of all processes of a broker, in memory that they share.

Each process writes its own region only, and the operator process reads all of them. So a scrape
waits for no worker, and nothing is lost when a worker is killed: its replacement counts on in the
same region. Counters therefore never decrease while the broker runs.

A number is a float of eight bytes, which the processor writes at once. Counts are exact up to 2^53.
"""

from __future__ import annotations

import hashlib
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from threading import Lock
from time import time
from typing import Final, Self

from verdictd_py import sharedmemory
from verdictd_py.errors import ConfigError
from verdictd_py.metrics.families import SECONDS, Family, Kind

_NUMBER: Final = 8  # bytes of format "d"
_HEADER_BYTES: Final = 64
_BUCKETS: Final = len(SECONDS) + 1
_BOUNDS: Final = tuple(round(bound * 1e9) for bound in SECONDS)  # in nanoseconds
_EXEMPLAR: Final = 4  # numbers: time, value, and sixteen bytes of the id

EXEMPLAR_SECONDS: Final = 1.0
"""Shortest time between two exemplars of a number."""

Labels = tuple[tuple[str, ...], ...]
"""Values of the labels, one tuple for each axis."""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One event that a number counts.

    Attributes:
        id: hexadecimal id of the appraisal or connection.
        value: what was observed, 1 for a counter.
        at: Unix time.
    """

    id: str
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers of one series, of all processes together.

    Attributes:
        labels: values of the labels, in the order of the family's labels.
        numbers: the value; for a histogram the number of observations in each bucket, which do
            not add up, then their sum.
        exemplars: the latest exemplar of each number but the sum; None where there is none.
    """

    labels: tuple[str, ...]
    numbers: tuple[float, ...]
    exemplars: tuple[Exemplar | None, ...] = ()


class _Place:
    """Where a family's numbers are in a region.

    Attributes:
        first: index of the first number.
        width: numbers of one series.
        exemplars: index of the first exemplar, for a family that has them.
    """

    def __init__(self, family: Family, first: int) -> None:
        self.family = family
        self.first = first
        self.width = _BUCKETS + 1 if family.kind is Kind.HISTOGRAM else 1
        self.series = tuple(product(*(axis.values for axis in family.axes)))
        self._steps: list[tuple[dict[tuple[str, ...], int], Callable[..., tuple[str, ...]]]] = []
        step = self.width
        for axis in reversed(family.axes):
            offsets = {value: at * step for at, value in enumerate(axis.values)}
            self._steps.append((offsets, axis.fallback))
            step *= len(axis.values)
        self._steps.reverse()
        self.exemplars = first + step
        observed = max(self.width - 1, 1)
        self.end = self.exemplars
        if family.exemplar:
            self.end += len(self.series) * observed * _EXEMPLAR
        self.observed = observed

    def index(self, labels: Labels) -> int:
        """Return the index of the first number of a series."""
        index = self.first
        for (offsets, fallback), value in zip(self._steps, labels, strict=True):
            offset = offsets.get(value)
            index += offsets[fallback(value)] if offset is None else offset
        return index

    def contains(self, labels: Labels) -> bool:
        """Return whether all labels have values of their sets."""
        steps = zip(self._steps, labels, strict=True)
        return all(value in offsets for (offsets, _), value in steps)

    def exemplar(self, index: int) -> int:
        """Return the index of the exemplar of the number at `index`."""
        series, number = divmod(index - self.first, self.width)
        return self.exemplars + (series * self.observed + number) * _EXEMPLAR


class Layout:
    """Places of all numbers in a region, which is the same in all processes of a broker."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.places: dict[str, _Place] = {}
        end = 0
        for family in families:
            place = self.places[family.name] = _Place(family, end)
            end = place.end
        self.numbers = end
        described = repr([(f.name, f.kind, f.axes, f.exemplar) for f in families])
        self.digest = hashlib.sha256(described.encode()).digest()


class Numbers:
    """Numbers that one process writes; its methods may be called by several threads."""

    def __init__(self, layout: Layout, memory: memoryview[float]) -> None:
        self._places = layout.places
        self._memory = memory
        self._lock = Lock()
        self._known: dict[tuple[str, Labels], int] = {}

    def index(self, name: str, labels: Labels) -> int:
        """Return where the first number of a series is, for `add_at` and `observe_at`."""
        index = self._known.get((name, labels))
        if index is None:
            place = self._places[name]
            index = place.index(labels)
            if place.contains(labels):  # so there are never more than series
                self._known[name, labels] = index
        return index

    def add(
        self, name: str, *labels: tuple[str, ...], amount: float = 1, exemplar: str = ""
    ) -> None:
        """Add to a counter.

        Args:
            labels: values of its labels, one tuple for each axis.
            exemplar: hexadecimal id of what is counted; empty for none.
        """
        index = self.index(name, labels)
        with self._lock:
            self._memory[index] += amount
            if exemplar:
                at = self._places[name].exemplar(index)
                if not 0 <= time() - self._memory[at] < EXEMPLAR_SECONDS:
                    self._note(at, exemplar, amount)

    def add_at(self, index: int, amount: float = 1) -> None:
        """Add to the counter at an index."""
        with self._lock:
            self._memory[index] += amount

    def observe(
        self, name: str, *labels: tuple[str, ...], seconds: float, exemplar: str = ""
    ) -> None:
        """Add an observation to a histogram; see `add`."""
        first = self.index(name, labels)
        at = self._places[name].exemplar(first) if exemplar else 0
        self.observe_at(first, at, round(seconds * 1e9), exemplar)

    def observe_at(self, first: int, exemplars: int, nanoseconds: int, exemplar: str) -> None:
        """Add an observation to the histogram at an index.

        Args:
            exemplars: index of its exemplars.
        """
        bucket = bisect_left(_BOUNDS, nanoseconds)
        memory = self._memory
        with self._lock:
            memory[first + bucket] += 1
            memory[first + _BUCKETS] += nanoseconds / 1e9
            at = exemplars + bucket * _EXEMPLAR
            if exemplar and not 0 <= time() - memory[at] < EXEMPLAR_SECONDS:
                self._note(at, exemplar, nanoseconds / 1e9)

    def exemplars(self, name: str, first: int) -> int:
        """Return where the exemplars of the series at an index are."""
        return self._places[name].exemplar(first)

    def set(self, name: str, *labels: tuple[str, ...], value: float) -> None:
        """Set a gauge, or a counter that another part counts."""
        self._memory[self.index(name, labels)] = value

    def get(self, name: str, *labels: tuple[str, ...]) -> float:
        """Return a number of this process."""
        return self._memory[self.index(name, labels)]

    def _note(self, at: int, identity: str, value: float) -> None:
        """Write an exemplar; the callers do not if the last one was written a moment ago."""
        memory = self._memory
        with suppress(ValueError):  # it is not an id
            written = memoryview(bytes.fromhex(identity)[:16].ljust(16, b"\0")).cast("d")
            memory[at] = 0  # a reader ignores it meanwhile
            memory[at + 1] = value
            memory[at + 2 : at + 4] = written
            memory[at] = time()


class Memory:
    """Regions of all processes of a broker.

    Args:
        layout: places of the numbers.
        regions: number of regions that this process uses: one for the operator process, then one
            for each worker.
        descriptor: shared memory; None for a broker of one process.

    Raises:
        ConfigError: the memory cannot be mapped, or has another layout.
    """

    def __init__(self, layout: Layout, regions: int, descriptor: int | None = None) -> None:
        self.layout = layout
        self.descriptor = descriptor
        size = _HEADER_BYTES + regions * layout.numbers * _NUMBER
        if descriptor is None:
            whole = memoryview(bytearray(size))
        else:
            whole = memoryview(sharedmemory.attach(descriptor))
            if len(whole) < size or bytes(whole[: len(layout.digest)]) != layout.digest:
                raise ConfigError(
                    "the processes of the broker count different metrics; install one version of "
                    "verdictd-py and of its plug-ins, and restart the broker"
                )
        numbers = whole[_HEADER_BYTES:].cast("d")
        self._regions = [
            numbers[at : at + layout.numbers]
            for at in range(0, regions * layout.numbers, layout.numbers)
        ]

    @classmethod
    def create(cls, layout: Layout, workers: int) -> Self:
        """Create the memory of a broker with so many workers; 0 for a single process.

        Raises:
            ConfigError: the kernel refuses it.
        """
        if not workers:
            return cls(layout, 1)
        size = _HEADER_BYTES + (workers + 1) * layout.numbers * _NUMBER
        descriptor = sharedmemory.create("metrics", size)
        os.pwrite(descriptor, layout.digest, 0)
        return cls(layout, workers + 1, descriptor)

    def of(self, process: int) -> Numbers:
        """Return the numbers that a process writes: 0 is the operator process, then workers."""
        return Numbers(self.layout, self._regions[process])

    def forget_gauges(self, process: int) -> None:
        """Set the gauges of a worker that has ended to 0; its counters stay."""
        region = self._regions[process]
        for place in self.layout.places.values():
            if place.family.kind is Kind.GAUGE:
                for index in range(place.first, place.exemplars):
                    region[index] = 0

    def close(self) -> None:
        """Close the descriptor; the numbers of this process stay readable."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def read(self, name: str) -> Iterator[Series]:
        """Return the series of a family."""
        place = self.layout.places[name]
        combine = max if place.family.largest else math.fsum
        rows = [region[place.first : place.exemplars].tolist() for region in self._regions]
        totals = [combine(numbers) for numbers in zip(*rows, strict=True)]
        for number, labels in enumerate(place.series):
            at = number * place.width
            exemplars: tuple[Exemplar | None, ...] = ()
            if place.family.exemplar:
                first = place.first + at
                exemplars = tuple(
                    self._exemplar(place.exemplar(first + each)) for each in range(place.observed)
                )
            yield Series(
                tuple(value for axis in labels for value in axis),
                tuple(totals[at : at + place.width]),
                exemplars,
            )

    def _exemplar(self, index: int) -> Exemplar | None:
        """Return the latest exemplar of all processes, that is not being written now."""
        latest: Exemplar | None = None
        for region in self._regions:
            at = region[index]
            if not at or (latest is not None and at <= latest.at):
                continue
            value, identity = region[index + 1], bytes(region[index + 2 : index + 4])
            if region[index] == at:
                text = identity.hex()
                short = text.removesuffix("0" * 16)
                latest = Exemplar(short, value, at)
        return latest
