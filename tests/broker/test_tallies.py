"""Numbers of guests over time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from verdictd_py.broker import tallies
from verdictd_py.broker.tallies import BUCKET_SECONDS, OTHER, Tallies
from verdictd_py.errors import RequestError

NOW = datetime(2026, 11, 27, 14, 32, tzinfo=UTC)


def test_guests_are_counted_in_intervals() -> None:
    counts = Tallies()
    for minutes in (0, 1, 31, 40, 600):
        counts.add(NOW - timedelta(minutes=minutes), "accepted", "ok")
    counts.add(NOW, "refused", "policy-refused", 3)
    until, found = counts.between(NOW, 1800, 2)
    assert until == datetime(2026, 11, 27, 15, tzinfo=UTC)
    assert list(found) == [
        (0, "accepted", "ok", 1),
        (1, "accepted", "ok", 2),
        (1, "refused", "policy-refused", 3),
    ]


def test_old_intervals_are_discarded_and_codes_are_bounded() -> None:
    counts = Tallies()
    counts.add(NOW - timedelta(days=9), "accepted", "ok")
    for number in range(tallies.MAX_CODES + 5):
        counts.add(NOW, "refused", f"code{number}")
    codes = [code for (_, _, code), _ in counts.everything()]
    assert "ok" not in codes
    assert len(codes) == tallies.MAX_CODES + 1
    assert OTHER in codes


@pytest.mark.parametrize(("seconds", "steps"), [(0, 1), (1, 1), (301, 1), (300, 0), (300, 201)])
def test_other_intervals_are_refused(seconds: int, steps: int) -> None:
    with pytest.raises(RequestError):
        Tallies().between(NOW, seconds, steps)


def test_the_counts_of_an_earlier_run_are_added() -> None:
    counts = Tallies()
    key = counts.add(NOW, "accepted", "ok")
    counts.restore(key, 4)
    assert counts.number(key) == 5
    assert int(NOW.timestamp()) // BUCKET_SECONDS == key[0]
