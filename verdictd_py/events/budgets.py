"""Budgets of the audit trail: what is recorded of events that callers with few rights can cause.

Each class of such events has its own budget, so that a flood of one does not keep the others from
the trail. Refusals have a number of records per minute; the trail counts those beyond it. Wraps and
releases have no such limit, because a record that is missing would prevent them. Instead, they are
refused while the disk has too little space, wraps before releases, so that changes by operators
can be recorded after all others have failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Final

from verdictd_py.domain.events import (
    AuditNotKept,
    CollateralUsed,
    GuestAccepted,
    GuestDisconnected,
    GuestNotJudged,
    GuestRefused,
    ImageKeyUnwrapped,
    ImageKeyWrapped,
    ReleaseRefused,
    SecretReleased,
)
from verdictd_py.domain.eventtypes import Audit, Event

MAX_LIMITED_PER_MINUTE: Final = 600
"""Maximum number of records in a minute for each class of refusals, some 700 bytes each."""

REFUSALS_BYTES: Final = 64 * 1024 * 1024
"""Free space of the disk below which refusals are only counted."""

WRAPS_BYTES: Final = 32 * 1024 * 1024
"""Free space below which nothing is wrapped."""

RELEASES_BYTES: Final = 8 * 1024 * 1024
"""Free space below which no guest is accepted and no secret is released. Operators can still make
changes."""

SPACE_SECONDS: Final = 1.0
"""Age at which the free space is measured again."""

_MINUTE: Final = 60.0


class Class(StrEnum):
    """Class of events with a budget of its own; its value names its count in `audit.not-kept`."""

    UNAUTHENTICATED = "unauthenticated"
    """Refusals of clients whose evidence was not verified."""
    REFUSALS = "refusals"
    """Refusals of guests with verified evidence."""
    DENIALS = "denials"
    """Secrets refused to accepted guests."""
    WRAPS = "wraps"
    RELEASES = "releases"
    """Guests that are accepted, and what they get."""
    OTHER = "other"
    """All other events: changes by operators, and the trail's own."""


LIMITED: Final = frozenset((Class.UNAUTHENTICATED, Class.REFUSALS, Class.DENIALS))
"""Classes with a limit per minute."""

_NEEDED: Final = {
    Class.UNAUTHENTICATED: (REFUSALS_BYTES, 4),
    Class.REFUSALS: (REFUSALS_BYTES, 4),
    Class.DENIALS: (REFUSALS_BYTES, 4),
    Class.WRAPS: (WRAPS_BYTES, 8),
    Class.RELEASES: (RELEASES_BYTES, 16),
    Class.OTHER: (0, 1),
}
"""Free space that a class needs: so many bytes, but at most one of so many parts of the disk."""

_CLASSES: Final[dict[type[Event], Class]] = {
    GuestNotJudged: Class.UNAUTHENTICATED,
    CollateralUsed: Class.REFUSALS,  # a guest may bring it, with good evidence
    GuestAccepted: Class.RELEASES,
    GuestDisconnected: Class.RELEASES,
    ReleaseRefused: Class.DENIALS,
    ImageKeyWrapped: Class.WRAPS,
    ImageKeyUnwrapped: Class.WRAPS,
    SecretReleased: Class.RELEASES,
}


def class_of(event: Event) -> Class:
    """Return the class of an event; a limited event of a plug-in counts as unauthenticated."""
    if isinstance(event, GuestRefused):
        return Class.UNAUTHENTICATED if event.evidence is None else Class.REFUSALS
    known = _CLASSES.get(type(event))
    if known is not None:
        return known
    return Class.UNAUTHENTICATED if event.spec.audit is Audit.LIMITED else Class.OTHER


class Budgets:
    """Counts of the events of each class in this minute, and of those that are not in the trail.

    Its methods may be called by several threads.

    Args:
        directory: on the disk of the trail.
        monotonic: clock, in seconds.

    Attributes:
        omitted: called with the class of each event that is not in the trail, for the metrics.
    """

    def __init__(self, directory: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._monotonic = monotonic
        self._minute = monotonic()
        self._recorded = dict.fromkeys(LIMITED, 0)
        self._omitted = dict.fromkeys(Class, 0)
        self._failed = 0
        self._counts: tuple[int, ...] = (0,) * 5
        self._free: int | None = None
        self._size = 0
        self._measured_at = 0.0
        self._lock = Lock()
        self.omitted: Callable[[str], None] = lambda of: None  # noqa: ARG005  # unused

    def admits(self, event: Event) -> bool:
        """Count an event; return whether the trail has a record for it.

        If not, an event that must be recorded must not happen.
        """
        of = class_of(event)
        with self._lock:
            is_within = self._has_space(of) and (of not in LIMITED or self._is_within_minute(of))
            if not is_within:
                self._omitted[of] += 1
                self._count()
        if not is_within:
            self.omitted(of)
        return is_within

    def _is_within_minute(self, of: Class) -> bool:
        now = self._monotonic()
        if now - self._minute >= _MINUTE:
            self._minute, self._recorded = now, dict.fromkeys(LIMITED, 0)
        if self._recorded[of] >= MAX_LIMITED_PER_MINUTE:
            return False
        self._recorded[of] += 1
        return True

    def _has_space(self, of: Class) -> bool:
        if self._free is None:
            return True
        needed, parts = _NEEDED[of]
        return self._free >= min(needed, self._size // parts)

    def measure(self) -> None:
        """Measure the free space, if that is due. The disk may make the caller wait."""
        now = self._monotonic()
        if self._free is not None and now - self._measured_at < SPACE_SECONDS:
            return
        self._measured_at = now
        try:
            space = os.statvfs(self._directory)
        except OSError:  # the write of the record reports it
            self._free = None
            return
        # Some file systems without a limit (overlays of memory) report a size of 0.
        self._size = space.f_blocks * space.f_frsize
        self._free = space.f_bavail * space.f_frsize if space.f_blocks else None

    @property
    def counts(self) -> tuple[int, ...]:
        """Counts of events that are not in the trail, in the order of `traildirectory.COUNTS`."""
        return self._counts

    def _count(self) -> None:
        """Compute `counts` again, which is read much more often than it changes."""
        omitted = self._omitted
        self._counts = (
            omitted[Class.UNAUTHENTICATED],
            omitted[Class.UNAUTHENTICATED] + omitted[Class.REFUSALS],
            omitted[Class.DENIALS],
            omitted[Class.WRAPS],
            self._failed + omitted[Class.RELEASES],
        )

    def take(self) -> AuditNotKept | None:
        """Return the counts since the last call; None if all events are in the trail."""
        with self._lock:
            unauthenticated, refusals, denials, wraps, failed = counts = self._counts
            self._omitted, self._failed = dict.fromkeys(Class, 0), 0
            self._count()
        if not any(counts):
            return None
        return AuditNotKept(
            refusals=refusals,
            failed=failed,
            unauthenticated=unauthenticated or None,
            denials=denials or None,
            wraps=wraps or None,
        )

    def put_back(self, event: AuditNotKept) -> None:
        """Count again what `take` has returned and what could not be recorded."""
        with self._lock:
            unauthenticated = event.unauthenticated or 0
            self._omitted[Class.UNAUTHENTICATED] += unauthenticated
            self._omitted[Class.REFUSALS] += event.refusals - unauthenticated
            self._omitted[Class.DENIALS] += event.denials or 0
            self._omitted[Class.WRAPS] += event.wraps or 0
            self._failed += event.failed
            self._count()

    def add_failed(self, events: int) -> None:
        """Count events whose records could not be written."""
        with self._lock:
            self._failed += events
            self._count()
