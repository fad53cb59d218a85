"""Our own certificate is renewed at a connection, never in the middle of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from verdictd_py.listeners.identity import RenewedIdentity


def test_it_is_renewed_once_it_is_due_and_not_before() -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    identity = RenewedIdentity(lambda: now, require_certificate=True)
    first = identity.context()
    assert identity.context() is first
    now += timedelta(days=200)
    assert identity.context() is first
    now += timedelta(days=60)
    second = identity.context()
    assert second is not first
    assert identity.context() is second
