"""Pauses between the fetches of one platform type, after failures and after successes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from verdictd_py.tees.intel.collateral.port import CollateralRequest

FIRST_BACK_OFF: Final = timedelta(seconds=5)
LONGEST_BACK_OFF: Final = timedelta(minutes=5)
"""Pause after a failed fetch, for all guests; doubled at each failure."""

RENEWAL_PAUSE: Final = timedelta(hours=1)
"""Pause after a successful fetch. A PCCS renews its own cache in its own time, and until then
returns the same collateral, which can already be due for renewal."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """Pause after a fetch; `failure` is why the fetch failed, None if it succeeded."""

    until: float
    length: timedelta
    failure: str | None


class FetchPauses:
    """Pauses by platform type.

    Args:
        monotonic: monotonic clock in seconds. The time of day can be wrong for a moment, and a
            pause until next month would follow.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._pauses: dict[CollateralRequest, _Pause] = {}

    def is_active(self, request: CollateralRequest) -> bool:
        """Return whether no renewal may start now."""
        return self._active(request) is not None

    def failure(self, request: CollateralRequest) -> str | None:
        """Return why the last fetch failed, if the pause after it is not over; else None."""
        pause = self._active(request)
        return None if pause is None else pause.failure

    def failed(
        self, request: CollateralRequest, text: str, *, at_least: timedelta = timedelta(0)
    ) -> timedelta:
        """Start the pause after a failure, and return its length.

        Args:
            at_least: pause that the service requested.
        """
        before = self._pauses.get(request)
        if before is None or before.failure is None:
            length = FIRST_BACK_OFF
        else:
            length = min(before.length * 2, LONGEST_BACK_OFF)
        length = max(length, at_least)
        self._start(request, length, text)
        return length

    def succeeded(self, request: CollateralRequest, remaining: timedelta) -> None:
        """Start the pause after a success.

        Args:
            remaining: time until the fetched collateral expires; at most half of it is paused.
        """
        self._start(request, max(FIRST_BACK_OFF, min(RENEWAL_PAUSE, remaining / 2)), None)

    def _active(self, request: CollateralRequest) -> _Pause | None:
        pause = self._pauses.get(request)
        return pause if pause is not None and self._monotonic() < pause.until else None

    def _start(self, request: CollateralRequest, length: timedelta, failure: str | None) -> None:
        until = self._monotonic() + length.total_seconds()
        self._pauses[request] = _Pause(until, length, failure)
