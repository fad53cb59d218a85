"""Renewal of the broker's certificate at a new connection."""

from __future__ import annotations

from tests.support.collateral import Monotonic
from tests.support.events import RecordedEvents
from verdictd_py import daemon as app
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.identity import KEY_SECONDS, RETRY_SECONDS, RenewedIdentity
from verdictd_py.simulator import SimulatedPlatform


def test_it_is_renewed_once_it_is_due_and_not_before() -> None:
    clock = Monotonic()
    identity = RenewedIdentity(require_certificate=True, events=RecordedEvents(), monotonic=clock)
    first = identity.context()
    clock.now += KEY_SECONDS - 1
    assert identity.context() is first
    clock.now += 1
    second = identity.context()
    assert second is not first
    assert identity.context() is second


def test_a_failed_renewal_leaves_the_certificate_in_use_and_is_repeated() -> None:
    platform, events, works = SimulatedPlatform.create(now=app.utc_now()), RecordedEvents(), True

    def quote(report_data: bytes) -> bytes:
        if not works:
            raise ConfigError("no TDX quote can be had")
        return platform.quote(report_data)

    clock = Monotonic()
    identity = RenewedIdentity(
        require_certificate=True, events=events, quote_for=quote, monotonic=clock
    )
    first, works = identity.context(), False
    clock.now += KEY_SECONDS
    for _ in range(3):  # attempted once, not at every connection
        assert identity.context() is first
    assert len(events.named("warning.identity")) == 1
    works = True
    clock.now += RETRY_SECONDS
    assert identity.context() is not first
