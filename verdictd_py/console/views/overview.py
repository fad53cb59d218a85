"""The first page: guests over time, why guests were refused, what is open, what ends next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.comparing import short
from verdictd_py.console.language import Language
from verdictd_py.console.views import sentences
from verdictd_py.console.views.guests import digests, reasons_of
from verdictd_py.console.views.sentences import MEASUREMENT, State

PERIODS: Final = {"1h": (300, 12), "24h": (1800, 48), "7d": (10_800, 56)}
"""Length of an interval in seconds, and number of intervals, by period."""

MAX_CAUSES: Final = 6

_LEFT: Final = 4.0  # percent of the width for the scale

_UPPER: Final = (22.0, 152.0)  # pixels from the top: highest value, zero
_LOWER: Final = (188.0, 268.0)

_FILLS: Final = ("f-bad", "f-off", "f-warn")
"""Fills of the codes; all but the first are patterns, and further codes share the last."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle: x and width in percent, y and height in pixels.

    Attributes:
        fill: name of a class, or of a pattern.
    """

    x: float
    width: float
    y: float
    height: float
    fill: str
    pattern: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of a scale with its number."""

    y: float
    text: str
    base: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """Guests over time.

    Attributes:
        accepted, others: bars of the upper and lower part.
        times: positions and texts of the axis.
        codes: code, number, fill, and whether it is a pattern, of the lower part.
        rows: the same as a table: time, accepted, and the number of each code.
    """

    accepted: tuple[Bar, ...]
    others: tuple[Bar, ...]
    upper: tuple[Tick, ...]
    lower: tuple[Tick, ...]
    times: tuple[tuple[float, str], ...]
    codes: tuple[tuple[str, int, str, bool], ...]
    rows: tuple[tuple[str, int, tuple[int, ...]], ...]
    most_accepted: int
    most_others: int


@dataclass(frozen=True, slots=True)
class Cause:
    """Guests that were refused for the same reasons.

    Attributes:
        number: number of appraisals.
        newest: the newest guest.
        what: the refused measurements, if another cause has the same sentence.
    """

    number: int
    newest: v1.Guest
    state: State
    why: str
    what: str
    first_at: str
    pinnable: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The overview of one period."""

    totals: dict[str, int]
    plot: Plot
    causes: tuple[Cause, ...]
    title: str
    sub: str


def overview(
    counts: v1.CountGuestsResponse, guests: Sequence[v1.Guest], period: str, say: Language
) -> Overview:
    """Return the overview.

    Args:
        counts: numbers of the period's intervals.
        guests: all guests that the broker remembers.
    """
    seconds, steps = PERIODS[period]
    until = datetime.fromisoformat(counts.until)
    since = until - timedelta(seconds=seconds * steps)
    totals = _totals(counts)
    causes = _causes([g for g in guests if datetime.fromisoformat(g.at) >= since], say)
    return Overview(
        totals=totals,
        plot=_plot(counts, seconds, steps, until),
        causes=tuple(causes[:MAX_CAUSES]),
        title=_title(totals, say),
        sub=_sub(causes, totals, say),
    )


def _totals(counts: v1.CountGuestsResponse) -> dict[str, int]:
    totals = Counter({"accepted": 0, "refused": 0, "unverified": 0})
    for count in counts.counts:
        totals[_NAMES.get(count.verdict, "unverified")] += count.guests
    return dict(totals)


_NAMES: Final[dict[int, str]] = {v1.VERDICT_ACCEPTED: "accepted", v1.VERDICT_REFUSED: "refused"}


def _title(totals: dict[str, int], say: Language) -> str:
    refused = totals["refused"] + totals["unverified"]
    if not totals["accepted"] and not refused:
        return say("No guest was appraised in this period")
    return say(
        "%(accepted)s guests accepted, %(refused)s not accepted",
        accepted=f"{totals['accepted']:,}",
        refused=f"{refused:,}",
    )


def _sub(causes: Sequence[Cause], totals: dict[str, int], say: Language) -> str:
    refused = totals["refused"] + totals["unverified"]
    if not refused:
        return say("Nothing to do: no guest was refused.")
    if not causes:
        return say("The refused guests of this period are not recorded any more.")
    first = causes[0]
    return say(
        "The most frequent cause, %(number)d times: %(why)s", number=first.number, why=first.why
    )


def _causes(guests: Sequence[v1.Guest], say: Language) -> list[Cause]:
    groups: dict[tuple[object, ...], list[v1.Guest]] = {}
    for guest in guests:
        if guest.verdict != v1.VERDICT_ACCEPTED:
            groups.setdefault(_cause(guest), []).append(guest)
    causes = []
    for group in groups.values():
        newest = max(group, key=lambda guest: guest.at)
        number = sum(max(1, guest.times) for guest in group)
        first = min(guest.first_at or guest.at for guest in group)
        why = sentences.headline(newest, say)
        state = sentences.state(newest)
        causes.append(
            Cause(number, newest, state, why, _measured(newest), first, not newest.not_pinnable)
        )
    sentence = Counter(cause.why for cause in causes)
    named = [c if sentence[c.why] > 1 else replace(c, what="") for c in causes]
    return sorted(named, key=lambda cause: cause.number, reverse=True)


def _measured(guest: v1.Guest) -> str:
    """Return the refused measurements of a guest, which distinguish it from others."""
    measured = digests(guest)
    refused = [r.rule for r in guest.reasons if r.kind == MEASUREMENT and r.rule in measured]
    return ", ".join(f"{name} {short(measured[name])}" for name in refused)


def _cause(guest: v1.Guest) -> tuple[object, ...]:
    """Return what guests have in common that were refused for the same cause."""
    if any(reason.kind == MEASUREMENT for reason in guest.reasons):
        return reasons_of(guest)
    return guest.verdict, guest.judged, guest.code, tuple(r.rule for r in guest.reasons)


def kernel(guest: v1.Guest) -> str:
    """Return the first refused measurement of a guest, for one line."""
    measured = digests(guest)
    refused = [r.rule for r in guest.reasons if r.kind == MEASUREMENT and r.rule in measured]
    return f"{refused[0]} {measured[refused[0]][:8]}…" if refused else ""


def _plot(counts: v1.CountGuestsResponse, seconds: int, steps: int, until: datetime) -> Plot:
    accepted: Counter[int] = Counter()
    others: dict[str, Counter[int]] = {}
    for count in counts.counts:
        if count.verdict == v1.VERDICT_ACCEPTED:
            accepted[count.step] += count.guests
        else:
            others.setdefault(count.code, Counter())[count.step] += count.guests
    codes = sorted(others, key=lambda code: -others[code].total())
    highest = _round(max(accepted.values(), default=0))
    most = max((sum(c[step] for c in others.values()) for step in range(steps)), default=0)
    width = (100 - _LEFT) / steps
    lower: list[Bar] = []
    for step in range(steps):
        top = _LOWER[1]
        for index, code in enumerate(codes):
            height = _height(others[code][step], _round(most), _LOWER)
            top -= height
            if height:
                fill, pattern = _fill(index)
                lower.append(_bar(step, width, top, height, fill, pattern=pattern))
    upper = [
        _bar(step, width, _UPPER[1] - height, height, "f-ok")
        for step in range(steps)
        if (height := _height(accepted[step], highest, _UPPER))
    ]
    begin = until - timedelta(seconds=seconds * steps)
    starts = [begin + timedelta(seconds=seconds * step) for step in range(steps)]
    return Plot(
        accepted=tuple(upper),
        others=tuple(lower),
        upper=_ticks(highest, _UPPER),
        lower=_ticks(_round(most), _LOWER),
        times=tuple(_times(starts, width, seconds)),
        codes=tuple(
            (code, others[code].total(), *_fill(index)) for index, code in enumerate(codes)
        ),
        rows=tuple(
            (start.strftime("%m-%d %H:%M"), accepted[n], tuple(others[c][n] for c in codes))
            for n, start in enumerate(starts)
            if accepted[n] or any(others[c][n] for c in codes)
        ),
        most_accepted=max(accepted.values(), default=0),
        most_others=most,
    )


def _bar(
    step: int, width: float, y: float, height: float, fill: str, *, pattern: bool = False
) -> Bar:
    x = _LEFT + step * width + width * 0.1
    return Bar(round(x, 2), round(width * 0.8, 2), round(y, 1), round(height, 1), fill, pattern)


def _fill(index: int) -> tuple[str, bool]:
    """Return class and kind of the fill of a code, so that colour never stands alone."""
    return _FILLS[min(index, len(_FILLS) - 1)], index > 0


def _height(number: int, highest: int, area: tuple[float, float]) -> float:
    top, bottom = area
    return max(2.0, (bottom - top) * number / highest) if number and highest else 0.0


def _round(number: int) -> int:
    """Return a number of at least `number` for the end of a scale, with two equal halves."""
    if number <= 2:
        return 2
    power = 1
    while power * 10 < number:
        power *= 10
    return next(power * m for m in (1, 2, 4, 6, 8, 10, 20) if power * m >= number and power * m > 1)


def _ticks(highest: int, area: tuple[float, float]) -> tuple[Tick, ...]:
    top, bottom = area
    middle = (top + bottom) / 2
    half = f"{highest // 2:,}"
    return (
        Tick(top, f"{highest:,}", base=False),
        Tick(middle, half, base=False),
        Tick(bottom, "0", base=True),
    )


def _times(starts: Sequence[datetime], width: float, seconds: int) -> list[tuple[float, str]]:
    every = {300: 3, 1800: 8, 10_800: 8}.get(seconds, 8)
    form = "%m-%d" if seconds > 3600 else "%H:%M"
    return [
        (round(_LEFT + step * width, 2), start.astimezone(UTC).strftime(form))
        for step, start in enumerate(starts)
        if step % every == every // 2
    ]
