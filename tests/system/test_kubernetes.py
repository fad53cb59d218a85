"""Daemon and `verdict-py` in an environment made by Kubernetes (tests/support/pod.py)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import pod
from tests.support.command import environment

ROOT = os.geteuid() == 0
NAMESPACES = ("unshare", "--mount", "--net", *(() if ROOT else ("--user", "--map-root-user")))


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a broker and `verdict-py` did there."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("unshare and setpriv, which make the environment, are not installed")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not create namespaces")
    place: Path = tmp_path_factory.mktemp("pod")
    done = subprocess.run(
        [*NAMESPACES, sys.executable, "-m", "tests.support.pod", str(place)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_environment_is_what_kubernetes_makes(observed: dict[str, Any]) -> None:
    """Otherwise the other tests show nothing."""
    assert observed["root"] is False
    assert observed["user"] is ROOT


def test_the_daemon_starts_and_ends(observed: dict[str, Any]) -> None:
    started = json.loads(observed["log"][-1])
    assert started["event"] == "daemon.started"
    assert started["client_api"] == "127.0.0.1:60000"
    assert observed["status"] == 0


def test_verdict_finds_the_daemon_without_an_address(observed: dict[str, Any]) -> None:
    status, output, errors = observed["list"]
    assert (status, errors) == (0, ""), observed["log"]
    assert "team/signing/mykey" in output
    assert "..2026" not in output


def test_keys_of_a_secret_volume_are_served_and_replaced(observed: dict[str, Any]) -> None:
    for name, key in (("old", pod.OLD), ("new", pod.NEW)):
        status, output, errors = observed[name]
        assert status == 0, errors
        assert base64.b64encode(key).decode() in output
