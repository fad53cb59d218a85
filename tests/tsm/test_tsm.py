"""Quotes from configfs-tsm, of a guest and of the broker itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tests.support.broker import running_broker
from tests.support.collateral import Monotonic
from tests.support.events import RecordedEvents
from tests.support.tees import TEES
from tests.tsm.kernel import FakeKernel
from verdictd_py import daemon as app
from verdictd_py.errors import ConfigError
from verdictd_py.guest.attesters import TsmAttester
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.listeners.identity import KEY_SECONDS, RenewedIdentity
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.tsm import TsmQuotes

DATA = bytes(range(64))


def test_a_quote_is_for_the_data_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = FakeKernel(tmp_path / "report", lambda data: b"quote of " + data)
    kernel.install(monkeypatch)
    quotes = TsmQuotes(kernel.root)
    for data in (DATA, DATA[::-1]):
        assert quotes.quote(data) == b"quote of " + data
    assert kernel.report_data == [DATA, DATA[::-1]]
    assert list(kernel.root.iterdir()) == []


@pytest.mark.parametrize(
    ("quote", "provider", "message"),
    [
        (b"", "tdx_guest", "0 bytes"),
        (bytes(70_000), "tdx_guest", "bytes"),
        (b"x", "sev_guest", "'sev_guest' are not supported"),
    ],
)
def test_anything_but_a_tdx_quote_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: bytes, provider: str, message: str
) -> None:
    kernel = FakeKernel(tmp_path / "report", lambda data: quote, provider=provider)
    kernel.install(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        TsmQuotes(kernel.root).quote(DATA)
    assert list(kernel.root.iterdir()) == []


def test_a_machine_that_is_not_a_tdx_guest_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a TDX guest"):
        TsmQuotes(tmp_path / "none").quote(DATA)


async def test_the_broker_presents_evidence_about_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's evidence, for clients that require it, has form 60000 and covers its key."""
    platform = SimulatedPlatform.create(now=app.utc_now())
    kernel = FakeKernel(tmp_path / "report", platform.quote)
    kernel.install(monkeypatch)
    monkeypatch.setattr("verdictd_py.tsm.REPORTS", kernel.root)
    async with running_broker(tmp_path, platform, attester="tdx") as broker:
        certificates: list[bytes] = []
        context = broker.context(broker.attester())

        def record(connection: SSL.Connection, peer: object, *arguments: object) -> bool:
            certificates.append(peer.to_cryptography().public_bytes(Encoding.DER))  # type: ignore[attr-defined]  # an X509
            return True

        context.set_verify(SSL.VERIFY_PEER, record)
        async with GuestConnection.open(*broker.address, context, timeout_seconds=60) as guest:
            assert await guest.version() == "v1"
    evidence = certificate.read(certificates[-1], TEES, now=broker.now, max_age=None)
    assert evidence.tee == "tdx"
    assert evidence.binding is not None
    assert kernel.report_data[-1].startswith(evidence.binding)
    assert "60000" in evidence.form


async def test_the_reference_guest_attests_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    kernel = FakeKernel(tmp_path / "report", platform.quote)
    kernel.install(monkeypatch)
    monkeypatch.setattr("verdictd_py.tsm.REPORTS", kernel.root)
    async with running_broker(tmp_path, platform) as broker:
        async with broker.guest(TsmAttester()) as guest:
            assert await guest.version() == "v1"
        assert broker.events.named("guest.accepted")
    assert len(kernel.report_data) == 1
    assert list(kernel.root.iterdir()) == []


def test_a_renewed_certificate_has_a_quote_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewed certificate has a new key, which the old quote does not cover."""
    now = app.utc_now()
    platform = SimulatedPlatform.create(now=now)
    kernel = FakeKernel(tmp_path / "report", platform.quote)
    kernel.install(monkeypatch)
    clock = Monotonic()
    identity = RenewedIdentity(
        require_certificate=True,
        events=RecordedEvents(),
        quote_for=TsmQuotes(kernel.root).quote,
        monotonic=clock,
    )
    identity.context()
    assert len(kernel.report_data) == 1
    clock.now += KEY_SECONDS
    identity.context()
    first, second = kernel.report_data
    assert first != second


async def test_a_broker_that_cannot_prove_itself_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verdictd_py.tsm.REPORTS", tmp_path / "none")
    platform = SimulatedPlatform.create(now=app.utc_now())
    with pytest.raises(ConfigError, match="cannot get a TDX quote"):
        async with running_broker(tmp_path, platform, attester="tdx"):
            pass
