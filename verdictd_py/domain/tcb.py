"""Security versions of a platform next to those that the vendor's TCB levels need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TcbComponent:
    """One component of a platform. Versions are security version numbers (SVN).

    Attributes:
        name: what it is, as the vendor calls it.
        has: version of the platform.
        level: version that the platform's TCB level needs; None if no level is met.
        newest: version that the newest TCB needs.
        elsewhere: whether a TCB level does not decide about it, but an entry of its own.
    """

    name: str
    has: int
    level: int | None
    newest: int
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class TcbComparison:
    """All components of a platform at the time of an appraisal.

    Attributes:
        status, date: of the TCB level that the platform meets; empty if it meets none.
        newest_status, newest_date: of the newest TCB level that is neither out of date nor revoked.
    """

    status: str
    date: str
    newest_status: str
    newest_date: str
    components: tuple[TcbComponent, ...]
