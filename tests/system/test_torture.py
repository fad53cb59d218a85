"""`./dev torture --smoke`: each scenario runs against real daemons and prints its table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SCENARIOS = ("floods", "kills", "shared", "faults", "clocks", "memory")


def torture(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.torture", *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_smallest_form_of_a_scenario_passes(scenario: str) -> None:
    done = torture(scenario, "--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(rf"^\| {scenario} \| .+ \| (passed|skipped) \|$", done.stdout, re.MULTILINE)
    assert rows, done.stdout
    assert done.stderr == ""


def test_an_unknown_scenario_is_refused() -> None:
    done = torture("no-such-scenario")
    assert done.returncode == 2
    assert f"choose from {', '.join(SCENARIOS)}" in done.stderr
