"""Proxies of the environment: every value that container engines set, as curl and Go read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.events import RecordedEvents
from tests.support.vectors import input_file
from tests.support.verdict import verdict
from verdictd_py import daemon as app
from verdictd_py.config import INTEL_PCS, Settings, Unsafe
from verdictd_py.daemon.http import site_proxies
from verdictd_py.daemon.siteproxy import SiteProxies

PROXY = {"HTTPS_PROXY": "http://proxy.example:3128", "HTTP_PROXY": "http://proxy.example:3128"}
REPORTED = input_file("reports/proxy-environments.json")
ENTRIES: list[dict[str, Any]] = json.loads(REPORTED.read_text())
CLIENTS = [entry for entry in ENTRIES if "client_api" in entry]


def named(entry: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in entry["environment"].items())


def set_only(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Set these proxy variables and no others."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def through_proxy(url: str, no_proxy: str) -> bool:
    return SiteProxies.of_environment({**PROXY, "NO_PROXY": no_proxy}).of(url) is not None


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_the_daemon_starts_in_every_reported_environment(
    entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_only(monkeypatch, entry["environment"])
    url = entry.get("collateral_url", INTEL_PCS)
    settings = Settings(data_dir=tmp_path, collateral_url=(url,))
    events = RecordedEvents()
    app.build_daemon(settings, Unsafe(), events)
    assert not events.named("warning.environment")
    if "through_proxy" in entry:
        found = site_proxies(settings).of(url)
        assert (found is not None) is entry["through_proxy"]


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("10.0.0.0/8", "https://10.1.2.3", False),
        ("10.0.0.0/8", "https://11.1.2.3", True),
        ("10.0.0.0/8", "https://10.example", True),
        ("10.1.2.3", "https://10.1.2.3:8081", False),
        ("10.1.2.3:8081", "https://10.1.2.3:8081", False),
        ("10.1.2.3:8081", "https://10.1.2.3", True),
        ("fd00::/8", "https://[fd00::1]", False),
        ("fd00::/8", "https://[fe00::1]", True),
        ("fd00::/8", "https://10.1.2.3", True),
        ("[fd00::1]:8081", "https://[fd00::1]:8081", False),
        ("[fd00::1]", "https://[fd00::1]:8081", False),
        ("10.0.0.0/8", "https://[::ffff:10.1.2.3]", False),
        ("pccs.example", "https://PCCS.example", False),
        ("PCCS.Example.", "https://pccs.example", False),
        ("pccs.example", "https://a.pccs.example", False),
        ("pccs.example", "https://notpccs.example", True),
        (".example", "https://pccs.example", False),
        (".pccs.example", "https://pccs.example", True),
        ("*.example", "https://pccs.example", False),
        ("pccs.example:443", "https://pccs.example", False),
        ("pccs.example:8081", "https://pccs.example", True),
        ("a,b pccs.example", "https://pccs.example", False),
        ("*", "https://pccs.example", False),
        ("", "https://localhost:8081", False),
        ("", "https://[::1]:8081", False),
        ("", "https://127.1.2.3:8081", False),
        ("", "https://pccs.example", True),
    ],
)
def test_no_proxy_is_read_as_curl_and_go_do(no_proxy: str, url: str, proxied: bool) -> None:
    assert through_proxy(url, no_proxy) is proxied


@pytest.mark.parametrize("value", ["a/b", "10.0.0.0/99", "a:b:c", "[::1", "a*b", "x@y"])
def test_an_entry_that_cannot_be_read_is_ignored_with_one_warning(value: str) -> None:
    found = SiteProxies.of_environment({**PROXY, "NO_PROXY": f"{value},{value},good.example"})
    assert found.of("https://good.example") is None
    assert found.of("https://other.example") is not None
    assert found.warning == (
        "ignored: NO_PROXY has entries that are not a host, network or domain; correct or unset it"
    )


@pytest.mark.parametrize("value", ["http://[::1", "ftp://proxy.example", "http://", "http://h:x"])
def test_a_proxy_that_cannot_be_read_is_ignored_without_its_value(value: str) -> None:
    found = SiteProxies.of_environment({"HTTPS_PROXY": value, "all_proxy": value})
    assert found.of("https://pccs.example") is None
    assert "HTTPS_PROXY is not the URL of a proxy" in found.warning
    assert "all_proxy is not the URL of a proxy" in found.warning
    assert value not in found.warning


def test_the_variable_of_a_proxy_is_known_and_its_password_is_not_in_its_repr() -> None:
    environment = {"https_proxy": "name:secret@proxy.example:3128", "ALL_PROXY": "http://other"}
    found = SiteProxies.of_environment({**environment, "HTTPS_PROXY": "http://unused"})
    proxy = found.of("https://pccs.example")
    assert proxy is not None
    assert (proxy.url, proxy.variable) == ("http://name:secret@proxy.example:3128", "https_proxy")
    assert "secret" not in repr(found)
    other = found.of("http://pccs.example")
    assert other is not None
    assert other.variable == "ALL_PROXY"


def test_a_proxy_of_the_operator_is_used_for_every_url() -> None:
    found = SiteProxies.of_option("http://127.0.0.1:3128")
    assert found.of("http://127.0.0.1:8081") is not None
    for url in ("nowhere", "socks5://proxy.example", "http://", "http://proxy.example:99999"):
        with pytest.raises(ValueError, match="not an http"):
            SiteProxies.of_option(url)


def test_a_warning_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, {**PROXY, "NO_PROXY": "a/b,c/d"})
    events = RecordedEvents()
    app.build_daemon(Settings(data_dir=tmp_path), Unsafe(), events)
    (event,) = events.named("warning.environment")
    assert "NO_PROXY" in str(event["reason"])


@pytest.mark.parametrize("entry", CLIENTS, ids=named)
async def test_verdict_py_reaches_a_loopback_broker_in_every_reported_environment(
    entry: dict[str, Any], broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy's name does not resolve, so that a request through it would fail."""
    set_only(monkeypatch, entry["environment"])
    host = entry["client_api"].rpartition(":")[0]
    assert host in {"127.0.0.1", "localhost", "[::1]"}
    port = broker.client_api.rpartition(":")[2]
    ended = await verdict(f"{'127.0.0.1' if host == '[::1]' else host}:{port}", "status")
    assert ended.status == 0, ended
