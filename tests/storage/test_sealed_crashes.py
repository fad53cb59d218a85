"""Kills while objects are sealed: every object is readable at every moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(root: Path, *arguments: str) -> object:
    command = [sys.executable, "-m", "tests.storage.resealed", str(root), *arguments]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    return json.loads(ended.stdout)


def test_a_kill_before_any_system_call_leaves_the_old_or_the_new_object(tmp_path: Path) -> None:
    found = run(tmp_path, "sweep")
    assert isinstance(found, list)
    read = [state["read"] for state in found]
    assert [state["killed"] for state in found] == [True] * (len(found) - 1) + [False]
    assert read == sorted(read, key=["old", "new"].index)
    assert set(read) == {"old", "new"}
    assert {state["next"] for state in found} == {"next"}


@pytest.mark.parametrize(("action", "number"), [("rotate", 50), ("seal", 20), ("unseal", 20)])
def test_a_kill_at_any_moment_loses_no_object(tmp_path: Path, action: str, number: int) -> None:
    result = run(tmp_path, "kills", action, str(number), "19")
    assert isinstance(result, dict)
    assert result["killed"] >= number
