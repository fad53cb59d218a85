"""The benchmarks: every row of the target table has a case, and a missed target is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import performance_page, report
from benchmarks.__main__ import main, status
from benchmarks.bench import NotAvailable
from benchmarks.cases import CASES, Case
from benchmarks.datasets import audit_lines, make_data
from benchmarks.observed import interval
from benchmarks.processes import CHECKOUT, BenchmarkFailed, cpu_seconds
from benchmarks.rounds import Measurement, Result, Sample, alternate
from verdictd_py.events import chain

TARGETS = {
    "attested session, unseen guest": 2.0,
    "attested session, guest seen before": 1.5,
    "HTTP session, TDX guest: auth, attest, resource": 2.5,
    "request on a kept attested channel": 0.20,
    "resource on a kept HTTP connection": 6,
    "HTTP session, sample TEE": 8,
    "WrapKey on a new connection": 1.5,
    "WrapKey on a kept connection": 2,
    "2 workers against 1, sessions per second": 1.1,
    "held attested connection": 60,
    "10,000 reference values against 1, unseen claims": 1.15,
    "1,000,000 keys against 10; audit trail of 1,000,000 lines against 10": 1.1,
    "session with all observability on against off": 1.05,
    "slowest scrape of metrics during a flood": 100,
    "start to listening": 2,
    "boot storm: 5,000 guests at once, with 2 workers": 1.3,
}
MEMBERS = ["name", "unit", "median", "spread", "limit", "ratio", "target", "direction", "met"]
CHEAP = ["request on a kept attested channel", "WrapKey on a kept connection"]


def result(*values: float, limits: tuple[float, ...] = (), **more: Any) -> Result:
    return Result.of("a case", "ms", 2.0, Measurement(values, limits, **more))


def unable(error: Exception) -> Result:
    def run(bench: object) -> Measurement:
        raise error

    return Case("a case", "ms", 2.0, "", run).result(None)  # type: ignore[arg-type]


def test_every_row_of_the_target_table_has_a_case() -> None:
    assert {case.name: case.target for case in CASES} == TARGETS


def test_cheap_cases_run_and_write_json(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(file)]
    for name in CHEAP:
        command += ["--case", name]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(len(line) <= report.WIDTH for line in done.stdout.splitlines())
    document = json.loads(file.read_text())
    assert [case["name"] for case in document["cases"]] == CHEAP
    assert {"cpu", "cores", "python", "quick"} <= set(document["machine"])
    for case in document["cases"]:
        assert list(case) == MEMBERS
        assert case["median"] > 0, document["details"]
        assert case["limit"] > 0
        assert case["ratio"] == pytest.approx(case["median"] / case["limit"], rel=0.01)
        assert (case["direction"], case["unit"]) == ("max", "ms")
        assert case["met"] == (case["ratio"] <= case["target"])


def test_the_target_is_the_maximum_of_the_ratio_of_the_medians() -> None:
    within = result(1.0, 2.0, 99.0, limits=(1.0, 1.0, 50.0))
    assert (within.median, within.limit, within.ratio, within.met) == (2.0, 1.0, 2.0, True)
    assert within.spread == 98.0
    assert not result(2.1, limits=(1.0,)).met
    assert result(3.0, limits=(2.0,)).met


def test_without_a_limit_the_target_is_the_maximum_of_the_median() -> None:
    assert result(1.9).met
    missed = result(2.1)
    assert (missed.ratio, missed.met) == (None, False)


def test_a_condition_that_is_not_satisfied_is_a_missed_target() -> None:
    assert not result(1.0, limits=(1.0,), satisfied=False).met


@pytest.mark.parametrize(
    "error", [NotAvailable("not available: --workers"), BenchmarkFailed("refused")]
)
def test_a_case_that_cannot_be_measured_is_a_missed_target(error: Exception) -> None:
    missing = unable(error)
    assert str(error) in missing.notes[0]
    assert missing.as_json()["met"] is False
    assert missing.as_json()["median"] is None


def test_a_missed_target_is_the_exit_status_only_with_check() -> None:
    met, missed = result(1.0), result(3.0)
    assert status([met, missed], check=True) == 1
    assert status([met, missed], check=False) == 0
    assert status([met], check=True) == 0
    assert missed.as_json()["met"] is False


def test_an_unknown_case_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", "no such case"]) == 2
    assert "no such case" in capsys.readouterr().err


def test_the_table_has_80_columns() -> None:
    for case in CASES:
        measured = Measurement([12345.678], [0.0001], wall=12345.6, notes=("word " * 60,))
        wide = Result.of(case.name, case.unit, case.target, measured)
        for each in (wide, replace(wide, median=None, ratio=None)):
            assert max(map(len, report.row(each).splitlines())) <= report.WIDTH
    assert len(report.HEADER) <= report.WIDTH


def test_rounds_alternate_after_one_that_is_not_counted() -> None:
    order: list[str] = []

    def side(name: str) -> Sample:
        order.append(name)
        return Sample(len(order), 0.0)

    first, second = alternate([lambda: side("a"), lambda: side("b")], 3)
    assert "".join(order) == "abababab"
    assert [sample.cpu for sample in first] == [3, 5, 7]
    assert [sample.cpu for sample in second] == [4, 6, 8]


def test_cpu_time_is_that_of_the_process() -> None:
    before = time.process_time()  # window: the clock itself is tested
    read = cpu_seconds(os.getpid())
    assert before <= read <= time.process_time()  # window: as above


def test_the_audit_file_has_a_valid_chain() -> None:
    assert chain.verify(iter(audit_lines(50)))[0] == 50


def test_large_data_has_the_requested_sizes(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", keys=7, audit_lines=5, reference_values=3)
    assert len(list((data / "keys").iterdir())) == 7
    (audit,) = (data / "audit").glob("*.jsonl")
    assert len(audit.read_bytes().splitlines()) == 5
    assert len(json.loads((data / "opa" / "tdxData").read_text())["mrTd"]) == 3


def test_only_run_time_dependencies_are_used() -> None:
    program = (
        "import sys, benchmarks.__main__, benchmarks.clients, benchmarks.raw\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    developers = {"tests", "tools", "pytest", "trustme", "hypothesis", "jwcrypto", "asn1crypto"}
    assert not developers & set(done.stdout.split())


def test_the_page_is_what_its_runs_give() -> None:
    stored = performance_page.documents()
    assert [case["name"] for case in stored[performance_page.RUN]["cases"]] == list(TARGETS)
    for name, text in performance_page.files(stored).items():
        assert (performance_page.DOCS / name).read_text() == text, "./dev bench --docs run.json"


def run_of(*names: str, load: float) -> dict[str, Any]:
    """Return a run of some cases, as `--json` writes it."""
    machine = {**report.machine(quick=False), "load": [load, 0.0, 0.0]}
    results = [replace(result(load, limits=(1.0,)), name=name, notes=("a note",)) for name in names]
    return report.document(results, machine)


def test_a_run_of_some_cases_replaces_them_and_says_so() -> None:
    names = list(TARGETS)
    old, new = run_of(*names[:5], *names[6:], load=0.5), run_of(names[1], names[5], load=2.5)
    merged = performance_page.merged(new, old)
    assert [case["name"] for case in merged["cases"]] == list(merged["details"]) == names
    medians = {case["name"]: case["median"] for case in merged["cases"]}
    assert {name for name in names if medians[name] == 2.5} == {names[1], names[5]}
    for name, detail in merged["details"].items():
        apart = [note for note in detail["notes"] if "a run of its own" in note]
        assert bool(apart) == (name in (names[1], names[5]))
        assert "load 2.5" in "".join(apart) or not apart
        assert detail["notes"][-1] == "a note"
    assert merged["machine"] == old["machine"]
    whole = run_of(*names, load=1.5)
    assert performance_page.merged(whole, old) == whole


def test_stores_without_their_engine_are_left_out_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "releases.json"
    command = [sys.executable, "-m", "benchmarks.releases", "--rounds", "1", "--count", "2"]
    names = ("VERDICTD_", "ENGINES_")
    own = {name: text for name, text in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [*command, "--json", str(file)],
        cwd=CHECKOUT,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(file.read_text())
    assert list(document["rows"]) == ["directory, plain", "directory, file"]
    for row in document["rows"].values():
        for figures in row.values():
            assert min(figures["latency"], figures["cpu"], figures["ratio"]) > 0
            assert figures["latency"] <= figures["p99"]
    assert len(document["skipped"]) == 8
    assert all("./dev engines up" in reason for reason in document["skipped"].values())
    assert "ENGINES_POSTGRES is not set" in done.stdout


def test_the_interval_of_a_median_grows_with_the_noise() -> None:
    assert interval([1.0] * 31) == (1.0, 1.0, 1.0)
    low, middle, high = interval([1.0 + each / 100 for each in range(-15, 16)])
    assert (round(low, 2), round(middle, 2), round(high, 2)) == (0.95, 1.0, 1.05)
    assert interval([0.5, 1.0, 3.0]) == (0.5, 1.0, 3.0)
