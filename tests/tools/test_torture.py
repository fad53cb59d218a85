"""The judgements of `./dev torture`: what counts as lost, as torn, as served, as growth."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.torture import __main__ as command
from tools.torture.changes import (
    ABSENT,
    KEY,
    PRESENT,
    RESOURCE,
    TORN,
    Ledger,
    _number_in,
    _numbered,
)
from tools.torture.clients import Latencies
from tools.torture.memory import judged_growth, slope_of
from tools.torture.policies import Policies, decisions, policy, resource_of
from tools.torture.scenario import FAILED, Budget, Row, Scenario

THING = (RESOURCE, "a/b/c")


def test_an_acknowledged_change_must_be_there() -> None:
    ledger = Ledger()
    ledger.begin(THING, "1")
    ledger.acknowledge(THING, "1")
    assert ledger.differences({THING: "1"}) == []
    assert ledger.differences({}) == ["resource a/b/c is absent, not 1"]


def test_a_change_whose_answer_was_lost_may_be_there_or_not() -> None:
    ledger = Ledger()
    ledger.begin(THING, "1")
    ledger.acknowledge(THING, "1")
    ledger.begin(THING, "2")
    assert ledger.differences({THING: "1"}) == ledger.differences({THING: "2"}) == []
    assert ledger.differences({THING: TORN}) == ["resource a/b/c is torn, not 1 or 2"]


def test_a_refused_change_must_not_be_there() -> None:
    ledger = Ledger()
    ledger.begin((KEY, "k"), PRESENT)
    ledger.refuse((KEY, "k"), PRESENT)
    assert ledger.differences({(KEY, "k"): ABSENT}) == []
    assert len(ledger.differences({(KEY, "k"): PRESENT})) == 1


@pytest.mark.parametrize("padding", [0, 1, 31, 32, 1000])
def test_content_is_whole_or_torn(padding: int) -> None:
    content = _numbered(7, padding)
    assert _number_in(content) == "7"
    other = _numbered(8, padding)
    assert _number_in(content + b"x") == TORN
    assert _number_in(content[: len(content) // 2]) == TORN
    if padding > 1:
        assert _number_in(content[:-1]) == TORN
        assert _number_in(content[: len(content) // 2] + other[len(content) // 2 :]) == TORN


def test_the_slope_is_that_of_the_line_through_the_samples() -> None:
    assert slope_of([(0, 1000), (10, 3000), (20, 5000)]) == 200
    assert slope_of([(5, 1000), (5, 2000)]) == 0


@pytest.mark.parametrize(
    ("last", "failures", "passed"), [(105, 0, True), (106, 0, False), (105, 1, False)]
)
def test_memory_may_grow_by_a_twentieth_after_the_first_ten_thousand(
    last: int, failures: int, passed: bool
) -> None:
    samples = [(0, 50), (9_999, 90), (10_001, 100), (100_000, 120), (220_000, last)]
    assert (judged_growth(samples, failures).result != FAILED) is passed


def test_a_quantile_is_a_latency_of_a_served_client() -> None:
    latencies = Latencies([float(number) for number in range(1, 101)])
    assert (latencies.quantile(0.5), latencies.quantile(0.99)) == (50, 99)
    assert Latencies().quantile(0.99) == math.inf


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_the_status_and_the_logs_depend_on_the_rows(
    passed: bool,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run(budget: Budget) -> AsyncIterator[Row]:
        (budget.directory / "daemon-0.log").touch()
        yield Row.judged("a case", "1 | 2", passed=passed)

    monkeypatch.setattr(command, "SCENARIOS", (Scenario("one", "about it", 1, run),))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    assert command.main(["one", "--smoke"]) == status
    row = f"| one | a case | 1 / 2 | {'passed' if passed else 'FAILED'} |"
    assert row in capsys.readouterr().out
    assert (tmp_path / "kept" / "one" / "daemon-0.log").exists() == (not passed)


def test_a_scenario_that_breaks_fails_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(budget: Budget) -> AsyncIterator[Row]:
        raise OSError("no such luck")
        yield Row.skipped("never", "never")

    async def fine(budget: Budget) -> AsyncIterator[Row]:
        yield Row.judged("a case", "fine", passed=True)

    scenarios = (Scenario("broken", "", 1, broken), Scenario("fine", "", 1, fine))
    monkeypatch.setattr(command, "SCENARIOS", scenarios)
    assert command.main(["--smoke"]) == 1
    output = capsys.readouterr().out
    assert "| broken | ended by OSError | no such luck | FAILED |" in output
    assert "| fine | a case | fine | passed |" in output


def test_a_policy_is_stale_from_the_acknowledgement_of_the_next_one() -> None:
    policies = Policies([(0.0, 1.0), (10.0, 11.0), (20.0, math.inf)])
    assert policies.newest == 1
    assert policies.stale_seconds(0, 2.0, 9.0) == 0
    assert policies.stale_seconds(1, 2.0, 9.0) == math.inf  # it had not been sent
    assert policies.stale_seconds(1, 2.0, 10.0) == 0  # sent while the request was answered
    assert policies.stale_seconds(0, 10.5, 10.6) == 0  # its successor is not acknowledged yet
    assert policies.stale_seconds(0, 12.0, 13.0) == 1.0
    assert policies.stale_seconds(1, 30.0, 31.0) == policies.stale_seconds(2, 30.0, 31.0) == 0
    assert policies.stale_seconds(3, 30.0, 31.0) == math.inf


def test_a_secret_is_explained_by_the_last_policy_that_allows_it() -> None:
    times = [(float(number), number + 0.5) for number in range(20)]
    policies = Policies(times)
    assert policies.stale_release(resource_of(19), 30.0, 31.0) == 0
    assert policies.stale_release(resource_of(3), 30.0, 31.0) == 0  # number 19 allows it, too
    assert policies.stale_release(resource_of(17), 30.0, 31.0) == 30 - 18.5
    assert Policies(times[:2]).stale_release(resource_of(5), 0.0, 9.0) == 0  # no policy before
    assert Policies(times[:2]).stale_release(resource_of(5), 7.0, 9.0) == 7 - 0.5


def test_a_policy_and_the_next_fifteen_allow_different_resources() -> None:
    assert b"default/brokers/r4" in policy(4)
    assert b"default/brokers/r4" in policy(20)
    assert len({resource_of(number) for number in range(16)}) == 16


@pytest.mark.parametrize(
    ("event", "path", "number", "after", "late", "wrong"),
    [
        ("secret.released", "resources/default/brokers/r0", 0, 0.0, 0, 0),
        ("secret.released", "resources/default/brokers/r0", 0, 5.0, 1, 0),
        ("secret.released", "resources/default/brokers/r1", 0, 0.0, 0, 1),
        ("release.refused", "default/brokers/r1", 0, 0.0, 0, 0),
        ("release.refused", "default/brokers/r0", 0, 0.0, 0, 1),
        ("secret.released", "resources/default/brokers/r0", None, 0.0, 0, 1),
    ],
)
def test_the_audit_trail_says_which_policy_decided(
    event: str, path: str, number: int | None, after: float, late: int, wrong: int, tmp_path: Path
) -> None:
    now = time.monotonic()  # window: all times are computed from it, and nothing is waited for
    wall = now + time.time() - time.monotonic()  # window: as above
    policies = Policies([(now - 9, now - 8), (now - 2, now - 1)])
    digest = "0" * 64 if number is None else hashlib.sha256(policy(number)).hexdigest()
    at = datetime.fromtimestamp(wall - 3 + after, UTC)
    record = {"event": event, "time": at.isoformat(), "fields": {"path": path, "policy": digest}}
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "1.jsonl").write_text(f"{json.dumps(record)}\n{{cut off")
    found = decisions([tmp_path], policies)
    assert (len(found.late), len(found.wrong)) == (late, wrong)
    assert found.releases + found.refusals == 1
    assert found.longest == pytest.approx(3 * late, abs=0.5)
