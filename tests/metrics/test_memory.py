"""Numbers of several processes in shared memory: bounded series, and lasting counters."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from verdictd_py.errors import ConfigError
from verdictd_py.metrics import families
from verdictd_py.metrics.exposition import Exposition
from verdictd_py.metrics.families import Axis, Family, Kind
from verdictd_py.metrics.memory import Layout, Memory
from verdictd_py.metrics.reading import Reading

COLORS = Family("test_colors", Kind.COUNTER, "Colors.", (Axis.of("color", ("red", "blue")),), "id")
SECONDS = Family("test_seconds", Kind.HISTOGRAM, "Seconds.", (Axis.of("stage", ("a",)),), "id")
OPEN = Family("test_open", Kind.GAUGE, "Open.")
LARGEST = Family("test_largest", Kind.GAUGE, "Largest.", largest=True)
ALL = (COLORS, SECONDS, OPEN, LARGEST)
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Memory of an operator process and two workers."""
    created = Memory.create(Layout(ALL), 2)
    yield created
    created.close()


def value(memory: Memory, name: str, *labels: str) -> float:
    return next(s.numbers[0] for s in memory.read(name) if s.labels == labels)


def test_the_processes_are_added_up(memory: Memory) -> None:
    assert memory.descriptor is not None
    worker = Memory(Layout(ALL), 3, os.dup(memory.descriptor))
    memory.of(0).add("test_colors", ("red",))
    worker.of(1).add("test_colors", ("red",), amount=2)
    worker.of(2).set("test_open", value=5)
    worker.of(1).set("test_open", value=3)
    worker.of(1).set("test_largest", value=7)
    worker.of(2).set("test_largest", value=6)
    assert value(memory, "test_colors", "red") == 3
    assert value(memory, "test_open") == 8
    assert value(memory, "test_largest") == 7
    worker.close()


def test_a_worker_that_ended_leaves_its_counters(memory: Memory) -> None:
    memory.of(1).add("test_colors", ("blue",), amount=4)
    memory.of(1).observe("test_seconds", ("a",), seconds=0.3)
    memory.of(1).set("test_open", value=9)
    memory.forget_gauges(1)
    assert value(memory, "test_colors", "blue") == 4
    assert sum(next(iter(memory.read("test_seconds"))).numbers[:-1]) == 1
    assert value(memory, "test_open") == 0
    memory.of(1).add("test_colors", ("blue",))  # its replacement
    assert value(memory, "test_colors", "blue") == 5


def test_a_value_outside_of_its_set_is_another(memory: Memory) -> None:
    before = len(tuple(memory.read("test_colors")))
    for number in range(1000):
        memory.of(0).add("test_colors", (f"invented{number}",))
    assert value(memory, "test_colors", families.OTHER) == 1000
    assert len(tuple(memory.read("test_colors"))) == before


def test_an_exemplar_is_the_latest_of_its_number(memory: Memory) -> None:
    memory.of(1).add("test_colors", ("red",), exemplar=ID)
    memory.of(2).observe("test_seconds", ("a",), seconds=0.3, exemplar=ID[:16])
    red = next(s for s in memory.read("test_colors") if s.labels == ("red",))
    assert red.exemplars[0] is not None
    assert (red.exemplars[0].id, red.exemplars[0].value) == (ID, 1)
    stage = next(s for s in memory.read("test_seconds") if s.labels == ("a",))
    written = [exemplar for exemplar in stage.exemplars if exemplar is not None]
    assert [(exemplar.id, exemplar.value) for exemplar in written] == [(ID[:16], 0.3)]
    memory.of(1).add("test_colors", ("red",), exemplar="no id")
    assert value(memory, "test_colors", "red") == 2


def test_memory_of_another_layout_is_refused(memory: Memory) -> None:
    other = Layout((COLORS, Family("test_seconds", Kind.HISTOGRAM, "", SECONDS.axes), *ALL[2:]))
    with pytest.raises(ConfigError, match="different metrics"):
        Memory(other, 3, memory.descriptor)


def page(memory: Memory, *readings: Reading, accept: str = "") -> str:
    return Exposition(memory, ALL, lambda: readings).page(accept)[0].decode()


def test_the_text_is_what_prometheus_reads(memory: Memory) -> None:
    memory.of(1).add("test_colors", ("red",), amount=2)
    memory.of(2).observe("test_seconds", ("a",), seconds=0.0003)
    memory.of(2).observe("test_seconds", ("a",), seconds=99)
    text = page(memory, Reading("test_read", "Read.", ("x",), {('a"\n',): 1.5}))
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for metric in text_string_to_metric_families(text)
        for s in metric.samples
    }
    assert samples["test_colors_total", (("color", "red"),)] == 2
    assert samples["test_seconds_bucket", (("le", "0.0001"), ("stage", "a"))] == 0
    assert samples["test_seconds_bucket", (("le", "0.0005"), ("stage", "a"))] == 1
    assert samples["test_seconds_bucket", (("le", "+Inf"), ("stage", "a"))] == 2
    assert samples["test_seconds_count", (("stage", "a"),)] == 2
    assert samples["test_seconds_sum", (("stage", "a"),)] == pytest.approx(99.0003)
    assert samples["test_read", (("x", 'a"\n'),)] == 1.5


def test_openmetrics_has_the_exemplars(memory: Memory) -> None:
    memory.of(1).add("test_colors", ("red",), exemplar=ID)
    text = page(memory, accept="application/openmetrics-text; version=1.0.0")
    assert f'test_colors_total{{color="red"}} 1.0 # {{id="{ID}"}} 1.0 ' in text
    assert text.endswith("# EOF\n")
    assert "#" not in page(memory).splitlines()[2]


def test_a_page_is_not_written_at_any_rate(memory: Memory) -> None:
    times = iter((0.0, 1.0, 2.0, 20.9, 21.0, 22.0))
    exposition = Exposition(memory, ALL, lambda: (), monotonic=lambda: next(times))
    first = exposition.page("")[0]  # takes a second: a twentieth of the next twenty
    memory.of(0).add("test_colors", ("red",))
    assert exposition.page("")[0] == first
    assert exposition.page("")[0] == first
    assert exposition.page("")[0] != first


def test_names_have_units_and_no_unbounded_label() -> None:
    all_families = families.families(("tdx", "sgx"))
    assert len({family.name for family in all_families}) == len(all_families)
    labels = {label for family in all_families for label in family.labels}
    assert not labels & {"path", "kid", "key", "fmspc", "peer", "address", "caller", "id"}
    for family in all_families:
        assert family.name.startswith("verdictd_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        if family.kind is Kind.HISTOGRAM:
            assert family.name.endswith("_seconds")
        assert family.help.endswith(".")
