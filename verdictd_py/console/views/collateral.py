"""Bars of the validity of collateral on one scale of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

BEFORE: Final = timedelta(days=30)
AFTER: Final = timedelta(days=60)

_SOON_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Span:
    """A rectangle: x and width in percent, and the class of its fill."""

    x: float
    width: float
    fill: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of collateral.

    Attributes:
        kind: class of the state's pill.
        state: name of the state, a key of the translations.
        days: days until its end; negative once it has expired.
    """

    part: str
    spans: tuple[Span, ...]
    since: datetime
    until: datetime
    kind: str
    state: str
    days: int


@dataclass(frozen=True, slots=True)
class Platform:
    """A type of platform with the bars of its collateral."""

    name: str
    number: int | None
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Validity:
    """All bars.

    Attributes:
        now: position of the present in percent.
        times: positions and texts of the axis.
        expired: number of parts that have expired.
        next_end: first end that is still to come; None without one.
    """

    platforms: tuple[Platform, ...]
    now: float
    times: tuple[tuple[float, str], ...]
    expired: int
    next_end: datetime | None


def validity(
    parts: Sequence[tuple[str, str, datetime, datetime, int | None]],
    now: datetime,
    grace_days: float,
) -> Validity:
    """Return the bars.

    Args:
        parts: platform, name, issue, next update, evaluation number.
        grace_days: for so long the broker uses collateral after it expired.
    """
    begin, length = now - BEFORE, BEFORE + AFTER
    grace = timedelta(days=grace_days)
    platforms: dict[str, list[Bar]] = {}
    numbers: dict[str, int] = {}
    for platform, name, since, until, number in parts:
        bar = _bar(name, since, until, begin, length, now, grace)
        platforms.setdefault(platform, []).append(bar)
        if number is not None:
            numbers[platform] = min(number, numbers.get(platform, number))
    ends = [bar.until for bars in platforms.values() for bar in bars]
    thirds = [begin + length * step / 3 for step in range(4)]
    return Validity(
        tuple(Platform(name, numbers.get(name), tuple(bars)) for name, bars in platforms.items()),
        _percent(now, begin, length),
        tuple((round(100 * i / 3, 1), time.strftime("%m-%d")) for i, time in enumerate(thirds)),
        sum(end < now for end in ends),
        min((end for end in ends if end >= now), default=None),
    )


def _bar(
    name: str,
    since: datetime,
    until: datetime,
    begin: datetime,
    length: timedelta,
    now: datetime,
    grace: timedelta,
) -> Bar:
    expired = until < now
    spans = [_span(since, until, begin, length, "f-warn" if expired else "f-ok")]
    if expired and grace:
        spans.append(_span(until, until + grace, begin, length, "f-grace"))
    days = (until - now).days
    if not expired:
        kind, state = ("warn", "expires soon") if days < _SOON_DAYS else ("ok", "valid")
    elif now <= until + grace:
        kind, state = "care", "in grace"
    else:
        kind, state = "bad", "expired"
    return Bar(name, tuple(spans), since, until, kind, state, days)


def _span(since: datetime, until: datetime, begin: datetime, length: timedelta, fill: str) -> Span:
    x, end = (_percent(time, begin, length) for time in (since, until))
    return Span(x, round(max(0.0, end - x), 1), fill)


def _percent(time: datetime, begin: datetime, length: timedelta) -> float:
    return round(min(100.0, max(0.0, 100 * ((time - begin) / length))), 1)
