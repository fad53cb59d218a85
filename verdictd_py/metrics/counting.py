"""Metrics that follow from events: one receiver of all events counts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from verdictd_py.domain import events as known
from verdictd_py.domain.eventtypes import Event
from verdictd_py.errors import NoCapacity, Overloaded
from verdictd_py.metrics import families
from verdictd_py.metrics.memory import Numbers
from verdictd_py.ports import Events
from verdictd_py.stages import Stage

_OPERATIONS: Final[Mapping[str, str]] = {
    "POST /auth": "auth",
    "POST /attest": "attest",
    "GET /resource/{repository}/{type}/{tag}": "resource",
}
"""Labels of HTTP requests by method and route. A guest over RATS-TLS sends the label itself."""


class CountedEvents:
    """Port `Events` that counts each event, then passes it on to the log.

    It is the log of the audit trail: events that must be audited arrive here once their records
    are on disk, also from the thread of the trail.

    Args:
        log: receives every event.
    """

    def __init__(self, numbers: Numbers, log: Events) -> None:
        self._numbers = numbers
        self._log = log
        self._places: dict[type[Event], int] = {}

    def record(self, event: Event) -> None:
        """Count an event, then have it logged."""
        self._count(event)
        self._log.record(event)

    async def commit(self, *events: Event) -> None:
        """Count events, then have them logged."""
        for event in events:
            self._count(event)
        await self._log.commit(*events)

    def _count(self, event: Event) -> None:
        kind = type(event)
        place = self._places.get(kind)
        if place is None:
            place = self._places[kind] = _place(self._numbers, event)
        self._numbers.add_at(place)
        counter = _COUNTERS.get(kind)
        if counter is not None:
            counter(self._numbers, event)


class CountedConnections:
    """Port `Meter` of `verdictd_py.stages`: connections and their stages."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._stages: dict[str, dict[str, tuple[int, int]]] = {}
        self._accepted: dict[str, int] = {}

    def connected(self, listener: str) -> None:
        place = self._accepted.get(listener)
        if place is None:
            place = self._numbers.index(families.CONNECTIONS, ((listener,),))
            self._accepted[listener] = place
        self._numbers.add_at(place)

    def called(self, listener: str, status: str) -> None:
        self._numbers.add(families.CALLS, (listener,), (status,))

    def observer(self, listener: str, connection: str) -> Callable[[str, int, int], None]:
        observe = self._numbers.observe_at
        places = self._stages.get(listener) or self._places(listener)

        def stage(name: str, nanoseconds: int, total: int) -> None:
            del total
            first, exemplars = places[name]
            observe(first, exemplars, nanoseconds, connection)

        return stage

    def _places(self, listener: str) -> dict[str, tuple[int, int]]:
        """Return where the numbers of each stage are."""
        places = self._stages[listener] = {}
        for stage in Stage:
            first = self._numbers.index(families.STAGES, ((listener,), (stage.value,)))
            places[stage] = (first, self._numbers.exemplars(families.STAGES, first))
        return places


def count(numbers: Numbers, event: Event) -> None:
    """Count one event in all metrics that it concerns."""
    numbers.add_at(_place(numbers, event))
    counter = _COUNTERS.get(type(event))
    if counter is not None:
        counter(numbers, event)


def _place(numbers: Numbers, event: Event) -> int:
    """Return where events of this type are counted."""
    return numbers.index(families.EVENTS, ((event.spec.name,),))


def _listener(event: Event) -> tuple[str]:
    return (event.correlation.listener or "none",)


def _appraised(result: str) -> Callable[[Numbers, Event], None]:
    def counter(numbers: Numbers, event: Event) -> None:
        appraised = cast("known.GuestAccepted", event)
        numbers.add(
            families.APPRAISALS,
            _listener(event),
            (getattr(event, "tee", None) or "unknown",),
            (result, appraised.code),
            exemplar=appraised.appraisal,
        )
        if appraised.code == NoCapacity.code:
            numbers.add(families.LIMITED, _listener(event), ("platform",))

    return counter


def _released(result: str) -> Callable[[Numbers, Event], None]:
    def counter(numbers: Numbers, event: Event) -> None:
        released = cast("known.SecretReleased", event)
        numbers.add(
            families.RELEASES,
            _listener(event),
            (str(released.what),),
            (result,),
            exemplar=released.appraisal,
        )

    return counter


def _wrapped(result: str) -> Callable[[Numbers, Event], None]:
    def counter(numbers: Numbers, event: Event) -> None:
        del event
        numbers.add(families.WRAPS, (result,))

    return counter


def _ended(reason: str) -> Callable[[Numbers, Event], None]:
    def counter(numbers: Numbers, event: Event) -> None:
        numbers.add(families.ENDS, _listener(event), (reason,))
        if isinstance(event, known.ConnectionRefused):
            numbers.add(families.LIMITED, _listener(event), (event.limit or families.OTHER,))

    return counter


def _operation(numbers: Numbers, event: Event, text: str | None, result: str) -> None:
    listener = event.correlation.listener
    if listener in families.GUEST_LISTENERS:
        operation = (_OPERATIONS.get(text or "", text or ""),)
        numbers.add(families.REQUESTS, (listener,), operation, (result,))


def _answered(numbers: Numbers, event: Event) -> None:
    answered = cast("known.RequestAnswered", event)
    _operation(numbers, event, answered.command, "answered")
    if answered.command == "POST /auth":
        numbers.add(families.CHALLENGES)
    elif answered.command == "POST /attest":
        from verdictd_py.protocols.rcar.tokens import LIFETIME  # noqa: PLC0415  # loaded already

        numbers.add(families.SESSIONS)
        numbers.set(families.TOKEN_EXPIRY, value=time.time() + LIFETIME.total_seconds())


def _failed(numbers: Numbers, event: Event) -> None:
    failed = cast("known.RequestFailed", event)
    numbers.add(families.FAILURES, _listener(event), (failed.code,))
    _operation(numbers, event, failed.command or failed.doing, "failed")
    if failed.code == Overloaded.code:
        numbers.add(families.LIMITED, _listener(event), (failed.limit or families.OTHER,))


def _unattested(numbers: Numbers, event: Event) -> None:
    _operation(numbers, event, cast("known.RequestUnattested", event).doing, "unattested")


def _fetched(result: str) -> Callable[[Numbers, Event], None]:
    def counter(numbers: Numbers, event: Event) -> None:
        del event
        numbers.add(families.FETCHES, (result,))

    return counter


def _dropped(numbers: Numbers, event: Event) -> None:
    numbers.add(families.LOG_DROPPED, amount=cast("known.LogDropped", event).lines)


def _flood(numbers: Numbers, event: Event) -> None:
    numbers.add(families.LOG_OMITTED, amount=cast("known.LogFlood", event).lines)


def _untraced(numbers: Numbers, event: Event) -> None:
    numbers.add(families.UNTRACED, amount=cast("known.TraceDropped", event).requests)


_COUNTERS: Final[Mapping[type[Event], Callable[[Numbers, Event], None]]] = {
    known.GuestAccepted: _appraised("accepted"),
    known.GuestRefused: _appraised("refused"),
    known.GuestNotJudged: _appraised("not-judged"),
    known.SecretReleased: _released("released"),
    known.ReleaseRefused: _released("refused"),
    known.ImageKeyWrapped: _wrapped("wrapped"),
    known.ImageKeyUnwrapped: _wrapped("unwrapped"),
    known.WrapRefused: _wrapped("refused"),
    known.RequestAnswered: _answered,
    known.RequestFailed: _failed,
    known.RequestUnattested: _unattested,
    known.ConnectionRefused: _ended("refused"),
    known.ConnectionClosed: _ended("closed"),
    known.ConnectionTimeout: _ended("timeout"),
    known.ConnectionFailed: _ended("failed"),
    known.CollateralRenewed: _fetched("renewed"),
    known.CollateralNotRenewed: _fetched("failed"),
    known.LogDropped: _dropped,
    known.LogFlood: _flood,
    known.TraceDropped: _untraced,
}
