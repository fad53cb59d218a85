"""`verdictd-py audit search|tail|show|export`: what is found, and that no value does harm."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.command import COMMAND, Ended, environment, run_here
from tests.support.documents import follows
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import (
    GuestDisconnected,
    GuestRefused,
    KeyCreated,
    KeyDeleted,
    SecretReleased,
)
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.export import as_text
from verdictd_py.events.reading import read_line
from verdictd_py.events.retention import Rotation
from verdictd_py.events.traildirectory import tail_of

PROGRAM = "verdictd-py audit"
HOSTILE = '=HYPERLINK("http://x")\r\n\x1b[2J\u202e|evil=1\\'


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """Two files of one broker, whose records overlap in time."""
    directory = tmp_path / "audit"
    directory.mkdir()
    trails = [AuditTrail(directory, RecordedEvents(), writer=writer) for writer in ("", "-worker1")]
    for trail in trails:
        trail.open()
    operator, worker = trails
    operator.record(KeyCreated(caller="uid 0", kid="default/key/1"))
    worker.record(
        SecretReleased(
            peer="192.0.2.1:5",
            appraisal="a" * 32,
            tee="tdx",
            what="key",
            path="keys/default/key/1",
            paths=("keys/default/key/1", "keys/default/key/2"),
        )
    )
    operator.record(KeyDeleted(caller=HOSTILE, kid="other"))
    worker.record(
        GuestRefused(
            peer="192.0.2.1:5",
            appraisal="b" * 32,
            code="policy-refused",
            tee="tdx",
            form="test",
            tcb_status=None,
            evidence=None,
            reasons=(HOSTILE, "second"),
        )
    )
    for trail in trails:
        trail.close()
    return directory


def run(capfdbinary: pytest.CaptureFixture[bytes], *words: str | Path) -> Ended:
    return run_here(("audit", *map(str, words)), capfdbinary)


def found(ended: Ended) -> list[str]:
    follows(ended.json, "audit-record-list")
    return [item["record"]["event"] for item in ended.json["items"]]


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (("--event", "key.*"), ["key.created", "key.deleted"]),
        (("--event", "key.created", "--event", "guest.*"), ["key.created", "guest.refused"]),
        (("--guest", "aaaa"), ["secret.released"]),
        (("--kid", "default/key/1"), ["key.created", "secret.released"]),
        (("--kid", "default/key/2"), ["secret.released"]),
        (("--kid", "keys/default/key/1", "--event", "secret.*"), ["secret.released"]),
        (("--result", "refused"), ["guest.refused"]),
        (("--text", "second"), ["guest.refused"]),
        (("--event", "key.*", "--until", "2020-01-01T00:00:00Z"), []),
        (("--event", "key.*", "--since", "2020-01-01T00:00:00Z"), ["key.created", "key.deleted"]),
    ],
)
def test_records_are_found_in_the_order_of_time(
    audit: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    words: tuple[str, ...],
    events: list[str],
) -> None:
    ended = run(capfdbinary, "search", audit, "--json", *words)
    assert found(ended) == events
    assert ended.status == (0 if events else 1)


def test_a_period_begins_with_its_first_time_and_ends_before_its_last(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    first = run(capfdbinary, "search", audit, "--json", "--event", "key.created").json
    time = first["items"][0]["record"]["time"]
    for words, events in (("--since", ["key.created"]), ("--until", [])):
        ended = run(capfdbinary, "search", audit, "--json", "--event", "key.created", words, time)
        assert found(ended) == events


def test_a_guest_is_found_by_the_appraisal_of_its_connection(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A guest that is disconnected has another appraisal than the one that accepted it."""
    trail = AuditTrail(tmp_path, RecordedEvents())
    trail.open()
    gone = GuestDisconnected(peer="192.0.2.1:5", guest="c" * 32, appraisal="d" * 32, reason="x")
    trail.record(gone)
    trail.close()
    for guest in ("cccc", "dddd"):
        ended = run(capfdbinary, "search", tmp_path, "--json", "--guest", guest)
        assert found(ended) == ["guest.disconnected"]


def test_tail_prints_the_last_records(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "tail", audit, "-n", "1", "--event", "key.*")
    assert ended.stdout.count(b"\n") == 1
    assert b'key.deleted caller="' in ended.stdout
    assert b'kid="other"' in ended.stdout


def test_records_are_printed_as_they_come(tmp_path: Path) -> None:
    """Also those of a file that the broker begins meanwhile; other events are left out."""
    directory = tmp_path / "audit"
    directory.mkdir()
    trail = AuditTrail(directory, RecordedEvents(), rotation=Rotation(size=4096))
    trail.open()
    trail.record(KeyCreated(caller="uid 0", kid="key-0"))
    command = (*COMMAND, "audit", "tail", "-f", "-n", "1", "--event", "key.*", str(directory))
    following = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    try:
        assert following.stdout is not None
        lines = [following.stdout.readline()]
        for number in range(1, 20):
            trail.record(KeyCreated(caller="uid 0", kid=f"key-{number}"))
        lines += [following.stdout.readline() for _ in range(1, 20)]
        following.terminate()  # a shell in the background ignores SIGINT, also for this process
        assert following.stdout.read() == b""
    finally:
        following.kill()  # also if the test fails or has waited too long
        following.communicate()
    trail.close()
    kids = [re.findall(rb'kid="([^"]*)"', line) for line in lines]
    assert kids == [[b"key-%d" % number] for number in range(20)]
    assert len(list(directory.glob("*.jsonl"))) > 1


def test_a_record_is_displayed_by_its_digest_or_number(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = next(path for path in audit.glob("*.jsonl") if "worker" in path.name)
    digest = tail_of(file).digest
    by_digest = run(capfdbinary, "show", digest[:12], audit).json
    follows(by_digest, "audit-record")
    assert (by_digest["record"]["event"], by_digest["file"]) == ("audit.head", file.name)
    by_number = run(capfdbinary, "show", f"{file.name}:2", audit).json
    assert (by_number["record"]["event"], by_number["number"]) == ("secret.released", 2)
    assert run(capfdbinary, "show", f"{file}:2", audit).json == by_number
    twice = run(capfdbinary, "show", digest[:12], audit, audit)
    assert "2 records begin with" in twice.complaint(2, PROGRAM)
    assert run(capfdbinary, "show", "0" * 64, audit).status == 1
    assert "too short" in run(capfdbinary, "show", "ab", audit).complaint(2, PROGRAM)


def test_csv_has_no_formula_and_no_control_character(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "export", audit, "--format", "csv")
    text = ended.stdout.decode("ascii")
    assert all(c.isprintable() or c in "\r\n" for c in text)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    (deleted,) = [row for row in rows if row["event"] == "key.deleted"]
    assert deleted["caller"].startswith("'=HYPERLINK(")
    assert deleted["object"] == "other"
    (refused,) = [row for row in rows if row["event"] == "guest.refused"]
    assert refused["reasons"].startswith("'=")
    assert (refused["guest"], refused["code"]) == ("b" * 32, "policy-refused")
    for row in rows:
        assert not any(str(cell).startswith(tuple("=+-@\t\r")) for cell in row.values())


def test_cef_has_one_line_for_each_record_and_no_forged_member(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = run(capfdbinary, "export", audit, "--format", "cef").stdout.decode("ascii").splitlines()
    assert len(lines) == sum(len(path.read_bytes().splitlines()) for path in audit.glob("*.jsonl"))
    assert all(line.startswith("CEF:0|verdictd-py|verdictd-py|") for line in lines)
    (deleted,) = [line for line in lines if "|key.deleted|" in line]
    assert "evil=1" not in deleted
    assert "evil\\=1" in deleted
    assert deleted.count("suser=") == 1
    (released,) = [line for line in lines if "|secret.released|" in line]
    assert " src=192.0.2.1 spt=5 " in released
    assert re.search(r"\|rt=\d{13} outcome=accepted ", released)


def test_json_lines_are_the_stored_records_with_their_file(
    audit: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    output = tmp_path / "export"
    assert run(capfdbinary, "export", audit, "--output", output).status == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    stored = [
        {**json.loads(line), "file": path.name}
        for path in audit.glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    assert sorted(records, key=repr) == sorted(stored, key=repr)
    assert [r["time"] for r in records] == sorted(r["time"] for r in records)


def test_a_line_that_is_no_record_is_displayed(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Whoever overwrote it must not hide it, nor what follows."""
    file = next(iter(audit.glob("*.jsonl")))
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = b"\x1b[2J{" + lines[1]
    file.write_bytes(b"".join(lines))
    ended = run(capfdbinary, "search", audit, "--event", "unreadable")
    assert ended.stdout.count(b"\n") == 1
    assert b"\x1b" not in ended.stdout


@pytest.mark.parametrize("text", ["-3", "x", "1.5", "1" * 30])
def test_a_number_of_lines_that_is_none_is_refused(
    audit: Path, text: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "tail", f"--lines={text}", audit)
    assert f"{text!r} is not a number of records" in ended.stderr
    assert ended.status == 2


def test_a_search_without_a_result_says_so(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "search", audit, "--guest", "zzz")
    assert (ended.status, ended.stdout) == (1, b"")
    assert ended.stderr == f"{PROGRAM} search: no record meets all conditions\n"


@pytest.mark.parametrize("form", ["csv", "jsonl", "cef", "text"])
def test_an_export_has_the_records_that_meet_the_conditions(
    audit: Path, form: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ended = run(capfdbinary, "export", audit, "--format", form, "--event", "secret.*")
    assert ended.stdout.count(b"\n") == (2 if form == "csv" else 1)
    assert b"secret.released" in ended.stdout


def test_an_export_overwrites_no_file_of_the_trail(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = next(iter(audit.glob("*.jsonl")))
    stored = file.read_bytes()
    for output in (file, audit / "new.jsonl"):
        ended = run(capfdbinary, "export", audit, "--output", output)
        assert "is among the files of the trail" in ended.complaint(2, PROGRAM)
    assert file.read_bytes() == stored
    assert not (audit / "new.jsonl").exists()


def test_an_export_is_readable_for_its_owner_only(
    audit: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    output = tmp_path / "x.csv"
    assert run(capfdbinary, "export", audit, "--output", output).status == 0
    assert output.stat().st_mode & 0o777 == 0o600
    for wrong in (tmp_path, tmp_path / "missing" / "x.csv"):
        ended = run(capfdbinary, "export", audit, "--output", wrong)
        assert f"cannot write {wrong}: " in ended.complaint(2, PROGRAM)


def test_a_named_pipe_in_the_directory_does_not_stop_the_command(
    audit: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    os.mkfifo(audit / "x.jsonl")
    ended = run(capfdbinary, "verify", audit)
    assert ended.status == 1
    assert ended.stderr == f"{audit / 'x.jsonl'}: is not a regular file\n"


def test_a_directory_without_a_trail_is_reported(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for action in ("verify", "search", "tail", "export"):
        ended = run(capfdbinary, action, tmp_path)
        assert "has no audit files" in ended.complaint(2, PROGRAM)
    ended = run(capfdbinary, "verify", tmp_path / "none")
    assert "cannot read" in ended.complaint(2, PROGRAM)


def test_the_name_of_a_field_does_not_reach_the_terminal() -> None:
    """Someone who can write the files can choose the names of members too."""
    line = json.dumps(
        {"time": "t", "event": "e", "fields": {"\x1b[2J\nforged": "x"}, "number": 0, "digest": ""}
    )
    (text,) = as_text([read_line("1.jsonl", 0, line.encode())])
    assert text == 't e \\u001b[2J\\nforged="x"\n'
