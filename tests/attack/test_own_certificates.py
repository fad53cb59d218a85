"""The broker's own certificates when this host's clock was wrong and is set right."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import crypto

from tests.support.collateral import Monotonic
from tests.support.kbs import running_kbs
from verdictd_py.listeners.kbs.tls import KbsTls
from verdictd_py.protocols.ratstls.identity import ServerIdentity

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SELF_SIGNED = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT: the only error that clients tolerate


@dataclass
class Clock:
    """Wall clock that only the test moves."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Let no file be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "at", [datetime(1980, 1, 1, tzinfo=UTC), NOW - 8 * HOUR, NOW, datetime(2049, 1, 1, tzinfo=UTC)]
)
def test_rats_tls_clients_accept_the_certificate_at_any_time(at: datetime) -> None:
    """Neither the clock with which the broker started nor that of a client matters."""
    der = ServerIdentity.create().certificate
    certificate = crypto.X509.from_cryptography(x509.load_der_x509_certificate(der))
    certificates = crypto.X509Store()
    certificates.set_time(at.replace(tzinfo=None))
    with pytest.raises(crypto.X509StoreContextError) as caught:
        crypto.X509StoreContext(certificates, certificate).verify_certificate()
    assert caught.value.errors[0] == SELF_SIGNED
    certificates.add_cert(certificate)  # as if the client tolerates that
    crypto.X509StoreContext(certificates, certificate).verify_certificate()


def written(tls: KbsTls) -> x509.Certificate:
    return x509.load_pem_x509_certificate(tls.self_signed)


def test_the_certificate_of_https_is_renewed_if_the_clock_is_set_back() -> None:
    """After a start eight hours ahead, guests refused the broker for seven hours."""
    clock = Clock(NOW + 8 * HOUR)
    tls = KbsTls.create("127.0.0.1", clock=clock)
    first, context = written(tls), tls.context
    assert not tls.renew()
    clock.now = NOW
    assert tls.renew()
    second = written(tls)
    assert tls.context is not context
    assert second.not_valid_before_utc <= NOW <= second.not_valid_after_utc
    assert not tls.renew()
    # Guests that trust the first certificate trust its name and key.
    assert (second.public_key(), second.subject) == (first.public_key(), first.subject)
    assert second.serial_number != first.serial_number


def test_it_is_renewed_before_it_expires() -> None:
    clock = Clock()
    tls = KbsTls.create("127.0.0.1", clock=clock)
    clock.now += timedelta(days=239)
    assert not tls.renew()
    clock.now += timedelta(days=2)
    assert tls.renew()
    assert written(tls).not_valid_after_utc > clock.now + timedelta(days=300)


def test_a_failed_renewal_is_repeated_by_the_monotonic_clock() -> None:
    """However the wall clock moves meanwhile."""
    clock, monotonic = Clock(NOW + 8 * HOUR), Monotonic()
    tls = KbsTls.create("127.0.0.1", clock=clock, monotonic=monotonic)
    context: ssl.SSLContext = tls.context
    clock.now = NOW
    with no_descriptor(), pytest.raises(OSError, match="open files"):
        tls.renew()
    assert not tls.renew()  # not attempted at every connection
    assert tls.context is context
    clock.now -= 24 * HOUR
    monotonic.now += 60
    assert tls.renew()
    assert written(tls).not_valid_before_utc <= clock.now


async def test_the_next_connection_gets_the_renewed_certificate(tmp_path: Path) -> None:
    """No restart and no reload is needed, and the new fingerprint is recorded."""
    async with running_kbs(tmp_path, kbs_http="0.0.0.0:0") as broker:
        tls = broker.kbs._tls
        assert tls is not None
        assert tls._own is not None
        where = "127.0.0.1", broker.kbs.address.port
        first = await asyncio.to_thread(ssl.get_server_certificate, where)
        tls._own.clock = Clock(broker.now - 8 * HOUR)
        second = await asyncio.to_thread(ssl.get_server_certificate, where)
        renewed = x509.load_pem_x509_certificate(second.encode())
        assert renewed.not_valid_before_utc < broker.now - 8 * HOUR
        assert await asyncio.to_thread(ssl.get_server_certificate, where) == second != first
        assert len(broker.events.named("kbs.self-signed")) == 2


def test_another_process_of_the_broker_presents_the_same_certificate() -> None:
    clock = Clock()
    tls = KbsTls.create("127.0.0.1", clock=clock)
    other = KbsTls.imported(tls.exported, "127.0.0.1", clock=clock)
    assert other.self_signed == tls.self_signed
    assert not other.renew()
    clock.now += timedelta(days=241)
    assert other.renew()
    assert other.exported != tls.exported
    before, after = (x509.load_pem_x509_certificate(one.self_signed) for one in (tls, other))
    assert before.public_key() == after.public_key()
    assert b"PRIVATE" not in other.self_signed
    assert "PRIVATE" not in repr(other)
