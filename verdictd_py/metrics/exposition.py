"""Text formats of Prometheus, written by its own library.

This module is imported with the first broker that serves metrics: the library takes 10 ms of the
start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Final

from prometheus_client import exposition, openmetrics
from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar as WrittenExemplar

from verdictd_py.metrics.families import SECONDS, Family, Kind
from verdictd_py.metrics.memory import Memory, Series
from verdictd_py.metrics.reading import Reading

MAX_COMPLETE: Final = 64
"""Families with more series than this leave out those that are still 0."""

MAX_PART: Final = 0.05
"""Maximum part of the time in which pages are written, however often clients request them."""

OPENMETRICS: Final = "application/openmetrics-text"


class Exposition:
    """Writer of the metrics of a broker; it may be used by any thread.

    Args:
        memory: numbers of all processes.
        families: the metrics in this memory.
        readings: returns further gauges.
        monotonic: clock in seconds.
    """

    def __init__(
        self,
        memory: Memory,
        families: Sequence[Family],
        readings: Callable[[], Sequence[Reading]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collected(memory, tuple(families), readings))
        self._monotonic = monotonic
        self._lock = Lock()
        self._pages: dict[bool, tuple[float, bytes]] = {}

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and the content type.

        A page that was written a moment ago is returned again: clients without any rights may
        request it at any rate, and writing takes milliseconds.

        Args:
            accept: header of the request.
        """
        is_open = OPENMETRICS in accept
        kind = openmetrics.exposition.CONTENT_TYPE_LATEST if is_open else _PLAIN
        with self._lock:
            valid_until, page = self._pages.get(is_open, (0.0, b""))
            began = self._monotonic()
            if not page or began >= valid_until:
                generate = openmetrics.exposition.generate_latest if is_open else _generate
                page = generate(self._registry)
                ended = self._monotonic()
                self._pages[is_open] = (ended + (ended - began) / MAX_PART, page)
        return page, kind


_PLAIN: Final = exposition.CONTENT_TYPE_PLAIN_0_0_4
_generate: Final = exposition.generate_latest


class _Collected(Collector):
    def __init__(
        self,
        memory: Memory,
        families: tuple[Family, ...],
        readings: Callable[[], Sequence[Reading]],
    ) -> None:
        self._memory = memory
        self._families = families
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield _metric(family, tuple(self._memory.read(family.name)))
        for reading in self._readings():
            metric = Metric(reading.name, reading.help, Kind.GAUGE)
            for labels, value in reading.values.items():
                metric.add_sample(
                    reading.name, dict(zip(reading.labels, labels, strict=True)), value
                )
            yield metric


def _metric(family: Family, all_series: Sequence[Series]) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    add = {
        Kind.COUNTER: _add_counter,
        Kind.GAUGE: _add_gauge,
        Kind.HISTOGRAM: _add_histogram,
    }[family.kind]
    is_complete = len(all_series) <= MAX_COMPLETE
    for series in all_series:
        if is_complete or any(series.numbers):
            labels = dict(zip(family.labels, series.labels, strict=True))
            add(metric, family, labels, series)
    return metric


def _add_counter(metric: Metric, family: Family, labels: dict[str, str], series: Series) -> None:
    exemplar = _exemplar(family, series, 0)
    metric.add_sample(f"{family.name}_total", labels, series.numbers[0], exemplar=exemplar)


def _add_gauge(metric: Metric, family: Family, labels: dict[str, str], series: Series) -> None:
    metric.add_sample(family.name, labels, series.numbers[0])


def _add_histogram(metric: Metric, family: Family, labels: dict[str, str], series: Series) -> None:
    *observed, total = series.numbers
    count = 0.0
    for at, bound in enumerate((*SECONDS, float("inf"))):
        count += observed[at]
        text = "+Inf" if bound == float("inf") else str(bound)
        metric.add_sample(
            f"{family.name}_bucket",
            {**labels, "le": text},
            count,
            exemplar=_exemplar(family, series, at),
        )
    metric.add_sample(f"{family.name}_count", labels, count)
    metric.add_sample(f"{family.name}_sum", labels, total)


def _exemplar(family: Family, series: Series, number: int) -> WrittenExemplar | None:
    exemplar = series.exemplars[number] if series.exemplars else None
    if exemplar is None:
        return None
    return WrittenExemplar({family.exemplar: exemplar.id}, exemplar.value, exemplar.at)
