"""The wall clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time; the daemon uses no other clock for certificates and collateral."""
    return datetime.now(UTC)
