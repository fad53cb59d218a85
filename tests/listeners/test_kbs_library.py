"""aiohttp is imported without the CA certificates of the host; its client gets them later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

PROGRAM = """
import json, os, sys
if sys.argv[1] == "first":
    import aiohttp
from verdictd_py.listeners import kbs
from aiohttp import connector
context = connector._SSL_CONTEXT_VERIFIED
before = len(context.get_ca_certs())
kbs.load_cas()
print(json.dumps({
    "before": before,
    "after": len(context.get_ca_certs()),
    "file": os.environ.get("SSL_CERT_FILE"),
    "directory": os.environ.get("SSL_CERT_DIR"),
    "verifies": context.check_hostname and context.verify_mode.name,
}))
"""


def _run(cas: Path, *, order: str) -> dict[str, Any]:
    environment = {**os.environ, "SSL_CERT_FILE": str(cas)}
    environment.pop("SSL_CERT_DIR", None)
    command = [sys.executable, "-c", PROGRAM, order]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def cas(tmp_path: Path) -> Path:
    path = tmp_path / "cas.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def test_cas_are_read_later_and_the_environment_stays(cas: Path) -> None:
    found = _run(cas, order="later")
    assert (found["before"], found["after"]) == (0, 1)
    assert (found["file"], found["directory"]) == (str(cas), None)
    assert found["verifies"] == "CERT_REQUIRED"


def test_a_library_that_was_imported_before_is_left_alone(cas: Path) -> None:
    found = _run(cas, order="first")
    assert (found["before"], found["after"]) == (1, 1)
