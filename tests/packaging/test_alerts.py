"""Alert rules and dashboards: valid, about metrics that exist, each alert with its runbook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import verdictd_py
from verdictd_py.metrics import families
from verdictd_py.metrics.families import Kind

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = Path(verdictd_py.__file__).parent / "deploy"
RULES: Final = DEPLOY / "prometheus" / "verdictd-py.rules.yaml"
DASHBOARDS: Final = sorted((DEPLOY / "grafana").glob("*.json"))
UNIT_TESTS: Final = ROOT / "tools" / "promtool" / "rules_test.yaml"
RUNBOOK: Final = ROOT / "docs" / "runbook.md"
SUFFIXES: Final = {
    Kind.COUNTER: ("_total",),
    Kind.GAUGE: ("",),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
}
SELECTOR: Final = re.compile(r"(verdictd_\w+)(?:\{([^}]*)\})?")
MATCHER: Final = re.compile(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"')


def exposed() -> dict[str, dict[str, set[str]]]:
    """Return the labels with their values by name of the sample; from the reference for gauges."""
    known: dict[str, dict[str, set[str]]] = {}
    for family in families.families(("tdx", "sgx", "sample")):
        labels: dict[str, set[str]] = {}
        for axis in family.axes:
            for at, label in enumerate(axis.labels):
                labels[label] = {value[at] for value in axis.values}
        for suffix in SUFFIXES[family.kind]:
            known[family.name + suffix] = labels
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for name, labels_text in re.findall(r"^\| `(\w+)` \| gauge \| ([^|]*) \|", reference, re.M):
        known.setdefault(name, {label: set() for label in re.findall(r"`(\w+)`", labels_text)})
    return known


def expressions(value: Any) -> Iterator[str]:
    """Return all expressions in a dashboard."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key in ("expr", "query") and isinstance(member, str):
                yield member
            yield from expressions(member)
    elif isinstance(value, list):
        for member in value:
            yield from expressions(member)


def texts() -> dict[str, str]:
    found = {RULES.name: RULES.read_text()}
    for path in DASHBOARDS:
        found[path.name] = "\n".join(expressions(json.loads(path.read_text())))
    return found


@pytest.mark.parametrize("name", [RULES.name, *(path.name for path in DASHBOARDS)])
def test_every_metric_exists_with_these_labels(name: str) -> None:
    known, used = exposed(), 0
    for metric, matchers in SELECTOR.findall(texts()[name]):
        assert metric in known, metric
        used += 1
        for label, operator, value in MATCHER.findall(matchers):
            if label in ("instance", "job"):
                continue
            assert label in known[metric], (metric, label)
            if operator != "=~" and known[metric][label]:
                assert value in known[metric][label], (metric, label, value)
    assert used > 10


def test_every_metric_has_a_place_in_the_dashboard() -> None:
    """What no panel displays is rarely looked at."""
    displayed = "\n".join(text for name, text in texts().items() if name != RULES.name)
    missing = [
        family.name for family in families.families(("tdx",)) if family.name not in displayed
    ]
    assert missing == [
        "verdictd_accepted_connections",
        "verdictd_challenges",
        "verdictd_attested_sessions",
    ]


def test_every_alert_has_its_section_and_its_unit_test() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert len(alerts) == len(set(alerts)) > 10
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.M) == alerts
    urls = re.findall(
        r"runbook_url: file:///usr/share/doc/verdictd-py/runbook.md#(\w+)", RULES.read_text()
    )
    assert urls == [alert.lower() for alert in alerts]
    healthy, _, trouble = UNIT_TESTS.read_text().partition("in trouble")
    assert re.findall(r"alertname: (\w+)", healthy) == alerts
    assert re.findall(r'alertname="(\w+)"', trouble) == alerts


def test_a_dashboard_can_be_imported() -> None:
    assert DASHBOARDS
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        panels = dashboard["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        assert dashboard["uid"] == path.stem
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.parametrize("arguments", [("check", str(RULES)), ("test", str(UNIT_TESTS))])
def test_promtool_accepts_the_rules(arguments: tuple[str, str]) -> None:
    """CI builds promtool from tools/promtool."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("REQUIRE_PROMTOOL"):
            pytest.fail("promtool is missing")
        pytest.skip("promtool is missing")
    action, path = arguments
    ended = subprocess.run(
        [promtool, action, "rules", path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
