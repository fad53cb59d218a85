"""Timers for the stages of a request, which the metrics report as histograms.

A stage within another one counts for itself: the time that a verification waits for collateral
belongs to `collateral`, and not to `verification`. Nothing is measured for work without a
connection, such as the repeated appraisal of connected guests.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from time import monotonic_ns
from types import TracebackType
from typing import Protocol

from verdictd_py.domain import correlation
from verdictd_py.domain.correlation import ID_DIGITS, Correlation


class Stage(StrEnum):
    """A stage of a request."""

    HANDSHAKE = "handshake"
    """The TLS handshake, from the peer's first byte."""
    EVIDENCE = "evidence"
    """Reading of evidence, event log and init-data."""
    COLLATERAL = "collateral"
    """Wait for collateral, which is usually cached."""
    VERIFICATION = "verification"
    """Verification of the evidence, with the collateral that is there."""
    POLICY = "policy"
    """Evaluation of appraisal policies and release policies."""
    AUDIT = "audit"
    """Wait until the records are on disk."""
    ANSWER = "answer"
    """Sending of the answer."""


class Meter(Protocol):
    """What listeners report to the metrics, in addition to events."""

    def connected(self, listener: str) -> None:
        """Count an accepted connection."""
        ...

    def called(self, listener: str, status: str) -> None:
        """Count a finished call of gRPC, by the name of its status."""
        ...

    def observer(self, listener: str, connection: str) -> Callable[[str, int, int], None]:
        """Return what receives the stages of one connection (`Correlation.observe`)."""
        ...


class Trace(ABC):
    """Observer of the stages of a connection that traces each of its requests."""

    @abstractmethod
    def __call__(self, stage: str, nanoseconds: int, total: int, /) -> None:
        """Note a stage that ends now (`Correlation.observe`)."""

    @abstractmethod
    def note(self, event: object) -> None:
        """Note an event of the connection."""

    @abstractmethod
    def end(self, operation: str = "", status: str = "") -> None:
        """End the request whose stages and events were noted since the last call, if any.

        Args:
            operation: name of the request, unless an event has it.
            status: status of gRPC.
        """

    @abstractmethod
    def of_call(self) -> Trace:
        """Return the trace of one call, of several at the same time on the connection."""


def begin(listener: str, meter: Meter | None) -> Correlation:
    """Begin the correlation of a new connection in the current task, and return it.

    Args:
        listener: name of the listener.
        meter: measures its stages; None if nothing is measured.
    """
    connection = os.urandom(ID_DIGITS // 2).hex()
    observe = None
    if meter is not None:
        meter.connected(listener)
        observe = meter.observer(listener, connection)
    begun = Correlation(connection, listener, observe)
    correlation.enter(begun)
    return begun


def ended(operation: str = "", status: str = "") -> None:
    """Note that the request of the current task, or its connection, has ended (`Trace.end`)."""
    end(correlation.current(), operation, status)


def end(of: Correlation, operation: str = "", status: str = "") -> None:
    """Do as `ended`, for the connection or the call with this correlation."""
    if isinstance(of.observe, Trace):
        of.observe.end(operation, status)


def of_call(connection: Correlation) -> Correlation:
    """Return the correlation of one call, of several at the same time on a connection."""
    observe = connection.observe
    return replace(
        connection, nested=0, observe=observe.of_call() if isinstance(observe, Trace) else observe
    )


class measured:  # noqa: N801  # used as a function
    """Context manager that measures a stage of the current connection.

    It is a class because a generator costs three times as much. The stages of one connection
    follow each other; two that overlap would be subtracted from each other.
    """

    __slots__ = ("_began", "_correlation", "_outer", "_stage")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._correlation = now = correlation.current()
        if now.observe is not None:
            self._outer, now.nested = now.nested, 0
            self._began = monotonic_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = self._correlation
        observe = now.observe
        if observe is not None:
            took = monotonic_ns() - self._began
            own = took - now.nested
            observe(self._stage, own if own > 0 else 0, took)  # `max` is a call more
            now.nested = self._outer + took
