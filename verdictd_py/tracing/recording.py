"""Recording of requests: their stages, and what their events say about them.

Only values from fixed sets and the ids of connections and appraisals are recorded: no secret, no
path, no name of a key, no address of a client, and no text that a client has sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.domain import events as known
from verdictd_py.domain.correlation import ID_DIGITS
from verdictd_py.domain.eventtypes import Event
from verdictd_py.metrics.families import GUEST_OPERATIONS, OTHER
from verdictd_py.ports import Events
from verdictd_py.stages import Meter, Stage, Trace

MAX_STAGES: Final = 64
"""Maximum number of stages of a request; a usual one has up to eight."""

_APPRAISED: Final[dict[type[Event], str]] = {
    known.GuestAccepted: "accepted",
    known.GuestRefused: "refused",
    known.GuestNotJudged: "not-judged",
}
_ANSWERED: Final[dict[type[Event], str]] = {
    known.RequestAnswered: "answered",
    known.RequestFailed: "failed",
    known.RequestUnattested: "unattested",
}
_ENDED: Final[dict[type[Event], str]] = {
    known.ConnectionFailed: "failed",
    known.ConnectionRefused: "limited",
    known.ConnectionTimeout: "timeout",
}
_OUTCOME: Final = ("verdictd.result", "verdictd.appraisal.result", "verdictd.status")
_SUCCEEDED: Final = frozenset(("", "answered", "unattested", "accepted", "ok"))


@dataclass(frozen=True, slots=True)
class Span:
    """A stage of a request: its name, begin and end in nanoseconds since 1970."""

    name: str
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has ended, or a connection that has ended without one.

    Attributes:
        trace: 128 bits that begin with the id of the connection.
        span: 64 random bits.
        parent: `span` of the first request of the connection; 0 for the first one itself.
        span_of: the whole request; its name is that of the operation.
        stages: its stages.
        attributes: what is known about it.
        failed: whether it failed, or was refused.
    """

    trace: int
    span: int
    parent: int
    span_of: Span
    stages: tuple[Span, ...]
    attributes: dict[str, str]
    failed: bool


Put = Callable[[Request], None]
"""Receives requests that have ended. It must neither block nor raise an error."""


class Recorder:
    """Records the requests of one process.

    Args:
        put: receives each of them.
    """

    def __init__(self, put: Put) -> None:
        self._put = put

    def meter(self, inner: Meter | None) -> Meter:
        """Return a meter that traces requests, in addition to what `inner` measures."""
        return _TracingMeter(inner, self._put)

    def events(self, log: Events) -> Events:
        """Return a receiver of events that passes them on to the log."""
        return _NotedEvents(log)


class _NotedEvents:
    """Port `Events` that notes each event in the trace of its connection."""

    def __init__(self, log: Events) -> None:
        self._log = log

    def record(self, event: Event) -> None:
        _note(event)
        self._log.record(event)

    async def commit(self, *events: Event) -> None:
        for event in events:
            _note(event)
        await self._log.commit(*events)


def _note(event: Event) -> None:
    observe = event.correlation.observe
    if isinstance(observe, Trace):
        observe.note(event)


class _TracingMeter:
    """Port `Meter` whose observers are traces."""

    def __init__(self, inner: Meter | None, put: Put) -> None:
        self._inner = inner
        self._put = put

    def connected(self, listener: str) -> None:
        if self._inner is not None:
            self._inner.connected(listener)

    def called(self, listener: str, status: str) -> None:
        if self._inner is not None:
            self._inner.called(listener, status)

    def observer(self, listener: str, connection: str) -> Callable[[str, int, int], None]:
        inner = None if self._inner is None else self._inner.observer(listener, connection)
        return _ConnectionTrace(_Connection(connection, listener), self._put, inner)


@dataclass(slots=True)
class _Connection:
    """What the requests of a connection have in common.

    Attributes:
        first: `Request.span` of the first one; 0 before it has ended.
    """

    id: str
    listener: str
    trace: int = field(init=False)
    first: int = 0

    def __post_init__(self) -> None:
        self.trace = int(self.id + os.urandom(ID_DIGITS // 2).hex(), 16)


class _ConnectionTrace(Trace):
    """The request of a connection that is answered now.

    Events may be noted by the thread of the audit trail, before the task of the request continues.
    """

    __slots__ = ("_attributes", "_began", "_connection", "_inner", "_omitted", "_put", "_stages")

    def __init__(
        self,
        connection: _Connection,
        put: Put,
        inner: Callable[[str, int, int], None] | None,
    ) -> None:
        self._connection = connection
        self._put = put
        self._inner = inner
        self._forget()
        self._began = time.time_ns()

    def __call__(self, stage: str, nanoseconds: int, total: int, /) -> None:
        if self._inner is not None:
            self._inner(stage, nanoseconds, total)
        if len(self._stages) < MAX_STAGES:
            ended = time.time_ns()
            self._stages.append(Span(str(stage), ended - total, ended))
        else:
            self._omitted += 1

    def note(self, event: object) -> None:
        attributes = _attributes_of(event, self._connection.listener)
        if attributes:
            self._began = self._began or time.time_ns()
            self._attributes.update(attributes)

    def end(self, operation: str = "", status: str = "") -> None:
        stages, attributes, began = tuple(self._stages), self._attributes, self._began
        omitted = self._omitted
        self._forget()
        if not attributes and not operation and all(one.name == Stage.ANSWER for one in stages):
            return  # a connection that ends, or a request to `/livez`, which has no event
        if operation:
            attributes.setdefault("verdictd.operation", operation)
        if status:
            attributes["verdictd.status"] = status
        if omitted:
            attributes["verdictd.omitted_stages"] = str(omitted)
        self._put(self._request(stages, attributes, began))

    def _request(self, stages: tuple[Span, ...], attributes: dict[str, str], began: int) -> Request:
        of = self._connection
        ended = time.time_ns()
        span, parent = int.from_bytes(os.urandom(8), "big") or 1, of.first
        of.first = of.first or span
        begins = [began or ended, *(one.began for one in stages)]
        name = attributes.get("verdictd.operation", "connection")
        outcome = {attributes.get(name, "") for name in _OUTCOME}
        return Request(
            of.trace,
            span,
            parent,
            Span(f"{of.listener} {name}", min(begins), ended),
            stages,
            {"verdictd.connection": of.id, "verdictd.listener": of.listener, **attributes},
            not outcome <= _SUCCEEDED,
        )

    def of_call(self) -> Trace:
        call = _ConnectionTrace(self._connection, self._put, self._inner)
        self._forget()  # stages of the connection belong to no call
        return call

    def _forget(self) -> None:
        self._stages: list[Span] = []
        self._attributes: dict[str, str] = {}
        self._omitted = 0
        self._began = 0


def _attributes_of(event: object, listener: str) -> dict[str, str]:
    """Return what an event says about its request; nothing for most of them."""
    kind = type(event)
    if kind in _ANSWERED:
        text = getattr(event, "command", None) or getattr(event, "doing", None) or ""
        return _given(
            {
                "verdictd.operation": _operation(text, listener),
                "verdictd.result": _ANSWERED[kind],
                "verdictd.code": getattr(event, "code", ""),
            }
        )
    if kind in _APPRAISED:
        return _given(
            {
                "verdictd.appraisal.id": getattr(event, "appraisal", ""),
                "verdictd.appraisal.result": _APPRAISED[kind],
                "verdictd.appraisal.code": getattr(event, "code", ""),
                "verdictd.tee": getattr(event, "tee", None) or "unknown",
            }
        )
    if kind in _ENDED:
        return {"verdictd.result": _ENDED[kind]}
    if isinstance(event, known.WarningBug):
        return {"verdictd.result": "failed", "verdictd.incident": event.incident}
    return {}


def _given(attributes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


def _operation(text: str, listener: str) -> str:
    """Return the name of a request; `other` for a text that a client may have chosen."""
    if listener == "listen":
        return text if text in GUEST_OPERATIONS else OTHER
    return OTHER if text.endswith(" unknown") else text  # after the method that the client sent
