"""`./dev torture --smoke`: each scenario runs against real daemons and prints its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SCENARIOS = (
    *("floods", "kills", "shared", "brokers", "brokers-directory", "brokers-postgresql"),
    *("faults", "clocks", "memory"),
)
LONG_ONLY = ("brokers-postgresql",)
"""What is not run here, because its parts are: `brokers`, and sessions in the database."""

ENGINES_REQUIRED = bool(os.environ.get("REQUIRE_ENGINES"))


def torture(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.torture", *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in LONG_ONLY])
def test_the_smallest_form_of_a_scenario_passes(scenario: str) -> None:
    done = torture(scenario, "--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(rf"^\| {scenario} \| .+ \| (passed|skipped) \|$", done.stdout, re.MULTILINE)
    assert rows, done.stdout
    if ENGINES_REQUIRED and scenario.startswith("brokers"):
        assert set(rows) == {"passed"}, done.stdout
    assert done.stderr == ""


def test_an_unknown_scenario_is_refused() -> None:
    done = torture("no-such-scenario")
    assert done.returncode == 2
    assert f"choose from {', '.join(SCENARIOS)}" in done.stderr


def test_no_daemon_is_left_after_sigterm() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.torture", "kills"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        while not (daemons := children(process.pid)):
            assert process.poll() is None
            time.sleep(0.2)
        process.terminate()
        assert "interrupted" in process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert not [pid for pid in daemons if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[str]:
    """Return the process numbers of the children of every thread of a process (proc(5))."""
    found: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that ended meanwhile
            found += path.read_text().split()
    return found
