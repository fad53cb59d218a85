"""Renewal of the broker's certificate at a new connection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.support.events import RecordedEvents
from verdictd_py import daemon as app
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.identity import RETRY, RenewedIdentity
from verdictd_py.simulator import SimulatedPlatform


def test_it_is_renewed_once_it_is_due_and_not_before() -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    identity = RenewedIdentity(lambda: now, require_certificate=True, events=RecordedEvents())
    first = identity.context()
    assert identity.context() is first
    now += timedelta(days=200)
    assert identity.context() is first
    now += timedelta(days=60)
    second = identity.context()
    assert second is not first
    assert identity.context() is second


def test_a_failed_renewal_leaves_the_certificate_in_use_and_is_repeated() -> None:
    now = app.utc_now()
    platform, events, works = SimulatedPlatform.create(now=now), RecordedEvents(), True

    def quote(report_data: bytes) -> bytes:
        if not works:
            raise ConfigError("no TDX quote can be had")
        return platform.quote(report_data)

    identity = RenewedIdentity(
        lambda: now, require_certificate=True, events=events, quote_for=quote
    )
    first, works = identity.context(), False
    now += timedelta(days=300)
    for _ in range(3):  # asked once, not at every connection
        assert identity.context() is first
    assert len(events.named("warning.identity")) == 1
    works = True
    now += RETRY
    assert identity.context() is not first
