"""Numbers of appraised guests over time, by verdict and code: the data of plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from verdictd_py.errors import RequestError

BUCKET_SECONDS: Final = 300
"""Length of the intervals in which guests are counted."""

MAX_BUCKETS: Final = 8 * 24 * 3600 // BUCKET_SECONDS
"""Number of intervals that are stored: eight days, so that a plot of a week is complete."""

MAX_STEPS: Final = 200

MAX_CODES: Final = 64
"""Maximum number of codes in an interval; the broker has about 30, and guests choose none."""

OTHER: Final = "other"
"""Code of guests whose own code is not known."""

Key = tuple[int, str, str]
"""Number of the interval since 1970, verdict, code."""


class Tallies:
    """Counts of guests in intervals of `BUCKET_SECONDS`, for the last eight days."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()

    def add(self, at: datetime, verdict: str, code: str, number: int = 1) -> Key:
        """Count guests; return the key whose count has changed."""
        bucket = int(at.timestamp()) // BUCKET_SECONDS
        key = (bucket, verdict, code)
        if key not in self._counts:
            self._discard_before(bucket - MAX_BUCKETS)
            if sum(known == bucket for known, _, _ in self._counts) >= MAX_CODES:
                key = (bucket, verdict, OTHER)
        self._counts[key] += number
        return key

    def restore(self, key: Key, number: int) -> None:
        """Add the count of an earlier run."""
        self._counts[key] += number

    def everything(self) -> tuple[tuple[Key, int], ...]:
        """Return all counts."""
        return tuple(self._counts.items())

    def number(self, key: Key) -> int:
        """Return the count of a key."""
        return self._counts[key]

    def between(
        self, now: datetime, step_seconds: int, steps: int
    ) -> tuple[datetime, Iterator[tuple[int, str, str, int]]]:
        """Return the end of the last interval, and counts: interval, verdict, code, number.

        Args:
            now: a time in the last interval.

        Raises:
            RequestError: the intervals are not multiples of `BUCKET_SECONDS`, or too many.
        """
        if step_seconds <= 0 or step_seconds % BUCKET_SECONDS or not 0 < steps <= MAX_STEPS:
            raise RequestError(
                f"intervals have a multiple of {BUCKET_SECONDS} seconds, and there are at most "
                f"{MAX_STEPS} of them"
            )
        length = step_seconds // BUCKET_SECONDS
        last = int(now.timestamp()) // BUCKET_SECONDS // length
        sums: Counter[tuple[int, str, str]] = Counter()
        for (bucket, verdict, code), number in self._counts.items():
            step = bucket // length - (last - steps + 1)
            if 0 <= step < steps:
                sums[step, verdict, code] += number
        until = datetime.fromtimestamp(0, UTC) + timedelta(seconds=(last + 1) * step_seconds)
        return until, ((*key, number) for key, number in sorted(sums.items()))

    def _discard_before(self, bucket: int) -> None:
        for key in [key for key in self._counts if key[0] < bucket]:
            del self._counts[key]
