"""A broker that fetches its collateral: guests do not notice what the service does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.system.broker import RunningBroker, running_broker
from tests.verifiers.pccs import Pccs, running_pccs
from verdictd_py import app
from verdictd_py.config import Settings, Unsafe
from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.simulator.pcs import PcsAnswer


@pytest_asyncio.fixture
async def pccs() -> AsyncIterator[Pccs]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_pccs(platform) as running:
        yield running


async def admitted(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert await guest.version() == "v1"


async def test_guests_are_admitted_while_the_service_is_dead(pccs: Pccs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        await asyncio.gather(*(admitted(broker) for _ in range(20)))
        assert set(pccs.asked.values()) == {1}
        pccs.change = lambda path, answer: PcsAnswer(500)
        await admitted(broker)
        assert [path.name for path in (broker.data / "collateral").iterdir()] == [
            "tdx-50806f000000-platform.json"
        ]
    pccs.asked.clear()
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:  # from disk
        await admitted(broker)
    assert not pccs.asked


async def test_a_forged_platform_causes_no_request(pccs: Pccs, tmp_path: Path) -> None:
    """The PCK chain leads to the root before its FMSPC is asked for."""
    settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
    stranger = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        attester = RunningBroker(
            broker.daemon, stranger, broker.data, broker.events, broker.now
        ).attester()
        with pytest.raises(BrokerRefused):
            async with broker.guest(attester) as guest:
                await guest.version()
        assert broker.events.named("guest.refused")
    assert not pccs.asked


async def test_a_subscription_key_is_sent_and_never_shown(pccs: Pccs, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    settings: dict[str, Any] = {
        "collateral": None,
        "collateral_url": (pccs.url,),
        "collateral_api_key_file": tmp_path / "key",
    }
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        await admitted(broker)
        assert "0123456789abcdef" not in broker.events.text
    sent = [
        head
        for head in pccs.headers
        if "ocp-apim-subscription-key: 0123456789abcdef" in head.lower()
    ]
    assert len(sent) == len(pccs.headers)


async def test_a_service_with_a_certificate_of_its_own_ca(tmp_path: Path) -> None:
    """A PCCS often has one; without its CA it is not believed, whatever it answers."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    platform = SimulatedPlatform.create(now=app.utc_now())
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
    async with running_pccs(platform, tls) as pccs:
        settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
        async with running_broker(tmp_path / "without", platform, **settings) as broker:
            with pytest.raises(BrokerRefused):
                await admitted(broker)
            assert broker.events.named("guest.not-judged")
        assert not pccs.asked
        settings["collateral_ca"] = tmp_path / "ca.pem"
        async with running_broker(tmp_path / "with", platform, **settings) as broker:
            await admitted(broker)
        assert set(pccs.asked.values()) == {1}


async def test_a_proxy_is_asked_instead(pccs: Pccs, tmp_path: Path) -> None:
    """The service's own name need not resolve here."""
    settings: dict[str, Any] = {
        "collateral": None,
        "collateral_url": ("http://pccs.invalid:8081",),
        "collateral_proxy": pccs.url,
    }
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        await admitted(broker)
    assert len(pccs.headers) == 4
    assert all(head.startswith("GET http://pccs.invalid:8081/") for head in pccs.headers)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"collateral_ca": "nonexistent"}, "--collateral-ca"),
        ({"collateral_ca": "junk"}, "--collateral-ca"),
        ({"collateral_proxy": "nowhere"}, "--collateral-proxy"),
        ({"collateral_api_key_file": "nonexistent"}, "--collateral-api-key-file"),
    ],
)
def test_what_cannot_be_used_is_said_at_start(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "junk").write_text("junk")
    given = {
        name: value if name == "collateral_proxy" else tmp_path / value
        for name, value in settings.items()
    }
    with pytest.raises(ConfigError, match=said):
        app.Daemon(
            Settings(data_dir=tmp_path / "data", **given),  # type: ignore[arg-type]  # a table
            Unsafe(),
            _Silent(),
        )


class _Silent:
    def record(self, event: str, /, **fields: object) -> None:
        del event, fields
