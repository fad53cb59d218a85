"""Metrics from events: bounded whatever peers invent, and every event type is counted."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.clock import until
from tests.support.events import RecordedEvents
from tests.support.metrics import parsed
from verdictd_py.domain import correlation
from verdictd_py.domain import events as known
from verdictd_py.domain.correlation import Correlation
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.events.floods import LINES_PER_MINUTE
from verdictd_py.events.log import LogEvents
from verdictd_py.listeners.accepting import accept
from verdictd_py.listeners.admission import STATUSES
from verdictd_py.metrics import families
from verdictd_py.metrics.counting import CountedConnections, CountedEvents, count
from verdictd_py.metrics.exposition import Exposition
from verdictd_py.metrics.memory import Layout, Memory
from verdictd_py.protocols.eaa import messages as eaa_messages
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
        started = time.monotonic_ns()  # window: time that must pass, no limit
        while time.monotonic_ns() - started < 20_000_000:  # window: as above
            pass
    found = parsed(page(memory))
    seconds = "verdictd_stage_seconds_sum"
    assert 0.02 <= found.value(seconds, stage="collateral") < 1000
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


EXAMPLES: list[tuple[Event, str, dict[str, str], float]] = [
    (
        example(known.GuestAccepted, code="ok", tee="tdx"),
        "verdictd_appraisals_total",
        {"result": "accepted", "code": "ok", "tee": "tdx", "listener": "none"},
        1,
    ),
    (
        example(known.GuestRefused, code="quote-invalid", tee=None),
        "verdictd_appraisals_total",
        {"result": "refused", "code": "quote-invalid", "tee": "unknown"},
        1,
    ),
    (
        example(known.GuestNotJudged, code="timeout"),
        "verdictd_appraisals_total",
        {"result": "not-judged", "code": "timeout"},
        1,
    ),
    (
        example(known.GuestNotJudged, code="no-capacity"),
        "verdictd_limit_refusals_total",
        {"limit": "platform"},
        1,
    ),
    (
        example(known.SecretReleased, what="image-key"),
        "verdictd_releases_total",
        {"kind": "image-key", "result": "released"},
        1,
    ),
    (
        example(known.ReleaseRefused, what="key"),
        "verdictd_releases_total",
        {"kind": "key", "result": "refused"},
        1,
    ),
    (example(known.ImageKeyWrapped), "verdictd_wraps_total", {"result": "wrapped"}, 1),
    (example(known.ImageKeyUnwrapped), "verdictd_wraps_total", {"result": "unwrapped"}, 1),
    (example(known.WrapRefused), "verdictd_wraps_total", {"result": "refused"}, 1),
    (
        example(known.RequestFailed, code="not-found"),
        "verdictd_request_failures_total",
        {"code": "not-found"},
        1,
    ),
    (
        example(known.RequestFailed, code="overloaded", limit="new-keys"),
        "verdictd_limit_refusals_total",
        {"limit": "new-keys"},
        1,
    ),
    (
        example(known.ConnectionRefused, limit="address"),
        "verdictd_limit_refusals_total",
        {"limit": "address"},
        1,
    ),
    (
        example(known.ConnectionRefused),
        "verdictd_connection_ends_total",
        {"reason": "refused"},
        1,
    ),
    (
        example(known.ConnectionTimeout),
        "verdictd_connection_ends_total",
        {"reason": "timeout"},
        1,
    ),
    (example(known.ConnectionFailed), "verdictd_connection_ends_total", {"reason": "failed"}, 1),
    (example(known.ConnectionClosed), "verdictd_connection_ends_total", {"reason": "closed"}, 1),
    (
        example(known.CollateralRenewed),
        "verdictd_collateral_fetches_total",
        {"result": "renewed"},
        1,
    ),
    (
        example(known.CollateralNotRenewed),
        "verdictd_collateral_fetches_total",
        {"result": "failed"},
        1,
    ),
    (example(known.LogDropped, lines=5), "verdictd_log_dropped_lines_total", {}, 5),
    (example(known.LogFlood, lines=6), "verdictd_log_omitted_lines_total", {}, 6),
    (example(known.TraceDropped, requests=8), "verdictd_trace_dropped_requests_total", {}, 8),
]


@pytest.mark.parametrize(
    ("event", "metric", "labels", "value"),
    EXAMPLES,
    ids=[f"{event.spec.name} {metric}" for event, metric, _, _ in EXAMPLES],
)
def test_an_event_counts_in_its_metric(
    memory: Memory, event: Event, metric: str, labels: dict[str, str], value: float
) -> None:
    count(memory.of(0), event)
    assert parsed(page(memory)).value(metric, **labels) == value


def test_the_log_counts_what_it_lost(memory: Memory) -> None:
    """These events are written by the log itself, and no other receiver gets them."""
    log = LogEvents(len)
    log.note = partial(count, memory.of(0))
    log.report_dropped(7)
    for _ in range(LINES_PER_MINUTE + 3):
        log.record(example(known.ConnectionClosed, peer="192.0.2.1:1"))
    log.end_minute()
    found = parsed(page(memory))
    assert found.value("verdictd_log_dropped_lines_total") == 7
    assert found.value("verdictd_log_omitted_lines_total") == 3


async def test_a_connection_leaves_no_id_to_the_next_one() -> None:
    """The accept loop itself belongs to no connection, so neither do its events."""
    before: list[str] = []

    def take(accepted: socket.socket, name: object) -> None:
        before.append(correlation.current().id)
        begin("listen", None)
        accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = asyncio.ensure_future(accept(listening, take, RecordedEvents()))
        for count_ in (1, 2):
            client = socket.create_connection(listening.getsockname())
            await until(lambda wanted=count_: len(before) == wanted)  # type: ignore[misc]
            client.close()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
    assert before == ["", ""]


def test_every_status_of_grpc_has_its_series() -> None:
    """Otherwise its calls count as those of another status."""
    assert tuple(STATUSES[number] for number in sorted(STATUSES)) == families.GRPC_STATUSES


def test_the_requests_of_guests_are_those_that_the_protocol_reads() -> None:
    """Otherwise their requests count as `other`."""
    assert set(families.GUEST_OPERATIONS) == set(eaa_messages._READERS)
