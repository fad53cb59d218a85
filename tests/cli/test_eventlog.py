"""`verdictd-py eventlog` on a real log and its quote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Ended, run_here
from tests.support.documents import follows
from tests.support.vectors import vector

PROGRAM = "verdictd-py eventlog"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    log, quote = vector("eventlog/ccel.bin"), vector("eventlog/quote.bin")
    changed = bytearray(quote.read_bytes())
    changed[520] ^= 1  # RTMR3
    (tmp_path / "changed").write_bytes(changed)
    (tmp_path / "junk").write_bytes(b"junk")
    return {
        "log": str(log),
        "quote": str(quote),
        "changed": str(tmp_path / "changed"),
        "junk": str(tmp_path / "junk"),
    }


def run(capfdbinary: pytest.CaptureFixture[bytes], *words: str) -> Ended:
    return run_here(("eventlog", *words), capfdbinary)


def test_verify_reports_whether_the_log_matches_the_quote(
    files: dict[str, str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "verify", files["log"], "--quote", files["quote"])
    assert (ended.status, ended.stdout) == (0, b"43 events match the registers of the quote\n")
    ended = run(capfdbinary, "verify", files["log"], "--quote", files["changed"])
    assert ended.status == 1
    assert ended.stdout.startswith(b"rtmr3: the event log replays to ")
    words = ("verify", files["log"], "--quote", files["changed"], "--allow-rtmr3-mismatch")
    assert run(capfdbinary, *words).status == 0


def test_show_reports_which_events_are_proved(
    files: dict[str, str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "show", files["log"])
    assert ended.status == 0
    assert ended.stdout.count(b"\n") == 2 * 43
    assert b"rtmr2 EV_IPL kernel_cmdline: " in ended.stdout
    assert b"not provable" in ended.stdout
    found = run(capfdbinary, "show", "--json", files["log"], "--quote", files["quote"]).json
    follows(found, "event-log")
    assert found["mismatches"] == []
    assert found["claims"]["secureBoot"] is False
    assert len(json.dumps(found)) > 1000


def test_show_names_event_types_and_uefi_variables(
    files: dict[str, str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    shown = run(capfdbinary, "show", files["log"]).stdout.decode()
    variable = "EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot (EFI_GLOBAL_VARIABLE): 0 (off)"
    assert f"rtmr0 {variable}\n" in shown
    assert "dbx (EFI_IMAGE_SECURITY_DATABASE): " in shown
    assert "rtmr1 EV_EFI_BOOT_SERVICES_APPLICATION \\" in shown
    events = run(capfdbinary, "show", "--json", files["log"]).json["events"]
    (secure_boot,) = [e for e in events if e.get("variable", {}).get("name") == "SecureBoot"]
    assert secure_boot["variable"]["value"] == "00"
    assert secure_boot["typeName"] == "EV_EFI_VARIABLE_DRIVER_CONFIG"
    assert secure_boot["register"] == "rtmr0"
    assert secure_boot["proved"] is True


@pytest.mark.parametrize(
    ("log", "quote", "said"),
    [("junk", "quote", "is not an event log"), ("log", "junk", "is not a quote")],
)
def test_an_unreadable_file_is_reported_in_one_line(
    files: dict[str, str],
    capfdbinary: pytest.CaptureFixture[bytes],
    log: str,
    quote: str,
    said: str,
) -> None:
    ended = run(capfdbinary, "verify", files[log], "--quote", files[quote])
    assert said in ended.complaint(2, PROGRAM)
    ended = run(capfdbinary, "verify", "/nonexistent", "--quote", files["quote"])
    assert "cannot read /nonexistent" in ended.complaint(2, PROGRAM)


def test_a_reader_that_closes_the_pipe_causes_no_error(files: dict[str, str]) -> None:
    """`eventlog show | head` ends without a message, with the status of SIGPIPE."""
    program = [sys.executable, "-m", "verdictd_py.cli.main", "eventlog", "show", files["log"]]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")
