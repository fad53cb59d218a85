"""A broker that fetches its collateral: failures of the service do not affect guests."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.support.broker import RunningBroker, running_broker
from tests.support.clock import until
from tests.support.events import RecordedEvents
from tests.support.pccs import Pccs, running_pccs
from verdictd_py import daemon as app
from verdictd_py.config import Settings, Unsafe
from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform, collateral_json
from verdictd_py.simulator.pcs import PcsAnswer


@pytest_asyncio.fixture
async def pccs() -> AsyncIterator[Pccs]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_pccs(platform) as running:
        yield running


async def admitted(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert await guest.version() == "v1"


async def test_guests_are_accepted_while_the_service_is_down(pccs: Pccs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        await asyncio.gather(*(admitted(broker) for _ in range(20)))
        assert set(pccs.asked.values()) == {1}
        pccs.change = lambda path, answer: PcsAnswer(500)
        await admitted(broker)
        assert (broker.data / "collateral" / "tdx-50806f000000-platform.json").exists()
    pccs.asked.clear()
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:  # from disk
        await admitted(broker)
    assert not pccs.asked


async def test_a_forged_platform_causes_no_request(pccs: Pccs, tmp_path: Path) -> None:
    """The PCK chain is verified before its FMSPC is requested."""
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


async def test_a_subscription_key_is_sent_and_never_logged(pccs: Pccs, tmp_path: Path) -> None:
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


async def test_a_service_with_a_certificate_of_a_private_ca(tmp_path: Path) -> None:
    """A PCCS often has one; without its CA, no answer is accepted."""
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


async def test_files_are_verified_when_they_are_read(tmp_path: Path) -> None:
    """Unsigned and expired files are reported at start and after a change, before a guest."""
    now = app.utc_now()
    platform = SimulatedPlatform.create(now=now)
    ended = platform.collateral(now - timedelta(days=60))
    good = platform.collateral(now)
    unsigned = dataclasses.replace(good, tcb_info=good.tcb_info.replace("UpToDate", "OutOfDate"))
    files = tmp_path / "files"
    files.mkdir()
    (files / "good.json").write_text(collateral_json(good))
    async with running_broker(tmp_path, platform, collateral=files) as broker:
        assert not broker.events.named("warning.collateral")
        (files / "a.json").write_text(collateral_json(ended))
        (files / "b.json").write_text(collateral_json(unsigned))
        await admitted(broker)  # with the good one
        found = broker.events.named("warning.collateral")
    assert [Path(str(event["file"])).name for event in found] == ["a.json", "b.json"]
    assert "outside its validity" in str(found[0]["problem"])
    assert "signature" in str(found[1]["problem"])


async def test_stored_collateral_is_renewed_before_the_first_guest(
    pccs: Pccs, tmp_path: Path
) -> None:
    """Collateral that is valid for 25 hours and a day old is due at once."""
    short = PlatformOptions(collateral_lifetime=timedelta(hours=1))
    pccs.platform = pccs.platform.with_options(short)
    settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        await admitted(broker)
    pccs.asked.clear()
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        await until(lambda: broker.events.named("collateral.renewed"))
        assert set(pccs.asked.values()) == {1}
        assert not broker.events.named("guest.accepted")


async def test_the_settings_apply_to_fetched_collateral(pccs: Pccs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "collateral": None,
        "collateral_url": (pccs.url,),
        "collateral_update": "early",
        "min_tcb_evaluation": 18,
    }
    async with running_broker(tmp_path, pccs.platform, **settings) as broker:
        with pytest.raises(BrokerRefused):
            await admitted(broker)
        (event,) = broker.events.named("collateral.not-renewed")
        assert "at least 18" in str(event["problem"])
    assert sum("update=early" in head for head in pccs.headers) == 2  # TCB info, QE identity


@pytest.mark.parametrize("grace", [0, 1])
async def test_the_grace_period_is_configurable(tmp_path: Path, grace: float) -> None:
    ended = PlatformOptions(collateral_lifetime=timedelta(hours=-1))
    platform = SimulatedPlatform.create(now=app.utc_now(), options=ended)
    async with running_broker(tmp_path, platform, collateral_grace=grace) as broker:
        if grace:
            await admitted(broker)
        else:
            with pytest.raises(BrokerRefused, match="not judged: collateral-unavailable"):
                await admitted(broker)


async def test_requests_go_through_the_proxy(pccs: Pccs, tmp_path: Path) -> None:
    """The name of the service need not resolve."""
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
def test_unusable_settings_are_reported_at_start(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "junk").write_text("junk")
    given = {
        name: value if name == "collateral_proxy" else tmp_path / value
        for name, value in settings.items()
    }
    with pytest.raises(ConfigError, match=said):
        app.build_daemon(
            Settings(data_dir=tmp_path / "data", **given),  # type: ignore[arg-type]  # a table
            Unsafe(),
            RecordedEvents(),
        )
