"""Findings of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from verdictd_py.errors import ConfigError

SOON: Final = timedelta(days=30)
"""Time before the end of a certificate or of collateral from which it is a warning."""


class Result(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARNING = "warning"
    """The broker starts, and something is unsafe, limited, or will fail soon."""
    FAILURE = "failure"
    """The broker does not start, or refuses guests that it should serve."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found about one subject.

    Attributes:
        check: stable name of the check, such as `tls` or `ports`.
        subject: the option, file or address; empty if there is only one.
        message: for `ok` what was found, else cause and remedy, in one line.
    """

    check: str
    subject: str
    result: Result
    message: str


def refusal(check: str, subject: str, function: Callable[[], object]) -> Iterator[Finding]:
    """Yield a failure if a function of the daemon refuses a setting."""
    try:
        function()
    except ConfigError as error:
        yield Finding(check, subject, Result.FAILURE, str(error))


def validity(
    check: str, subject: str, start: datetime, end: datetime, now: datetime, remedy: str
) -> Iterator[Finding]:
    """Yield a finding about a time of validity, if it does not include now and the near future."""
    if now < start:
        text = f"it is not valid before {day(start)}; compare the clock of this host, or {remedy}"
        yield Finding(check, subject, Result.FAILURE, text)
    elif now >= end:
        yield Finding(check, subject, Result.FAILURE, f"it expired on {day(end)}; {remedy}")
    elif end - now <= SOON:
        days = (end - now).days
        text = f"it expires on {day(end)}, in {days} days; {remedy}"
        yield Finding(check, subject, Result.WARNING, text)


def summary(check: str, subject: str, found: Iterable[Finding], text: str) -> Iterator[Finding]:
    """Yield findings, or that the subject is in order if there are none."""
    number = 0
    for number, finding in enumerate(found, start=1):  # noqa: B007  # counted
        yield finding
    if number == 0:
        yield Finding(check, subject, Result.OK, text)


def day(moment: datetime) -> str:
    """Return a time for people."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
