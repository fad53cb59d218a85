"""Metrics from events: bounded whatever peers invent, and every event type is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.events import RecordedEvents
from tests.support.metrics import parsed
from verdictd_py.domain import correlation
from verdictd_py.domain import events as known
from verdictd_py.domain.correlation import Correlation
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.metrics import families
from verdictd_py.metrics.counting import CountedConnections, CountedEvents, count
from verdictd_py.metrics.exposition import Exposition
from verdictd_py.metrics.memory import Layout, Memory
from verdictd_py.stages import Stage, begin, measured

INVENTED = 100_000
FAMILIES = families.families(("tdx", "sgx"))


@pytest.fixture
def memory() -> Memory:
    return Memory.create(Layout(FAMILIES), 0)


@pytest.fixture(autouse=True)
def _no_connection_afterwards() -> Iterator[None]:
    yield
    correlation.enter(correlation.NO_CONNECTION)


def page(memory: Memory) -> str:
    return Exposition(memory, FAMILIES, lambda: ()).page("application/openmetrics-text")[0].decode()


def example(kind: type[Event], **more: Any) -> Event:
    """An event of a type, with a value of the right form in each field."""
    values: dict[str, Any] = {
        "text": "invented",
        "list of texts": ("invented",),
        "number": 7,
        "yes or no": True,
        "size of a secret": SecretBytes(b"invented"),
    }
    fields = {name: values[spec.type] for name, spec in kind.spec.fields.items()}
    return kind(**{**fields, **more})


@pytest.mark.parametrize("kind", known.CATALOGUE, ids=lambda kind: str(kind.spec.name))
def test_every_event_is_counted_and_passed_on(memory: Memory, kind: type[Event]) -> None:
    log = RecordedEvents()
    event = example(kind)
    CountedEvents(memory.of(0), log).record(event)
    assert log.events == [event]
    found = parsed(page(memory))
    assert found.value("verdictd_events_total", event=kind.spec.name) == 1
    assert found.value("verdictd_events_total") == 1


def test_invented_names_make_no_series(memory: Memory) -> None:
    """100,000 peers, paths, kids, commands, codes and reasons."""
    numbers = memory.of(0)
    kinds = (
        known.GuestRefused,
        known.GuestNotJudged,
        known.SecretReleased,
        known.ReleaseRefused,
        known.WrapRefused,
        known.RequestReceived,
        known.RequestAnswered,
        known.RequestFailed,
        known.ConnectionRefused,
        known.ConnectionFailed,
        known.CollateralRenewed,
        known.PolicySet,
        known.FileChanged,
    )
    begin("listen", CountedConnections(numbers))
    for kind in kinds:
        count(numbers, example(kind))
    with measured(Stage.AUDIT):
        pass
    before = parsed(page(memory))
    for number in range(INVENTED):
        kind = kinds[number % len(kinds)]
        texts = {
            name: f"invented-{number}"
            for name, spec in kind.spec.fields.items()
            if spec.type == "text"
        }
        count(numbers, example(kind, **texts))
    text = page(memory)
    after = parsed(text)
    assert after.series == before.series
    assert {name: set(series) for name, series in after.samples.items()} == {
        name: set(series) for name, series in before.samples.items()
    }
    assert "invented" not in text
    assert after.value("verdictd_events_total") == INVENTED + len(kinds)
    assert after.value("verdictd_guest_requests_total", operation="other") > 0
    assert after.value("verdictd_appraisals_total", code="other", tee="unknown") > 0
    assert len(numbers._known) < 1000


def test_a_stage_within_another_one_counts_for_itself(memory: Memory) -> None:
    begun = begin("listen", CountedConnections(memory.of(0)))
    with measured(Stage.VERIFICATION), measured(Stage.COLLATERAL):
        started = time.monotonic_ns()
        while time.monotonic_ns() - started < 20_000_000:
            pass
    found = parsed(page(memory))
    seconds = "verdictd_stage_seconds_sum"
    assert found.value(seconds, stage="collateral") >= 0.02
    assert found.value(seconds, stage="verification") < found.value(seconds, stage="collateral")
    assert found.value("verdictd_stage_seconds_count", stage="verification", listener="listen") == 1
    assert f'# {{connection="{begun.id}"}}' in page(memory)


def test_nothing_is_measured_without_a_meter() -> None:
    begin("listen", None)
    with measured(Stage.AUDIT):
        assert correlation.current().observe is None


def test_an_appraisal_has_the_id_of_its_connection() -> None:
    begun = begin("listen", None)
    unique = "f" * 32
    assert correlation.extended(unique) == begun.id + "f" * 16
    correlation.enter(correlation.NO_CONNECTION)
    assert correlation.extended(unique) == unique


def test_an_event_keeps_the_connection_in_which_it_was_made() -> None:
    correlation.enter(Correlation("a" * 16, "listen"))
    event = known.ConnectionClosed(peer="p")
    correlation.enter(correlation.NO_CONNECTION)
    assert event.correlation.id == "a" * 16
    assert event == known.ConnectionClosed(peer="p")
