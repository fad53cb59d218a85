"""Attacks on an audit trail by someone who can write its files afterwards: each is detected."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.events.test_audit import REFUSED, Clock
from tests.events.trails import (
    KEY,
    SIGNER,
    check,
    crash,
    crash_once,
    created,
    cut,
    opened,
    rewrite,
    run_once,
)
from tests.support.broker import RunningBroker
from tests.support.command import environment
from tests.support.documents import follows
from tests.support.events import RecordedEvents
from verdictd_py.cli import audit as command
from verdictd_py.domain.events import (
    AuditBegan,
    AuditContinued,
    AuditHead,
    KeyCreated,
    WarningReadiness,
)
from verdictd_py.errors import ConfigError
from verdictd_py.events import auditfile, trailfile
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.auditfile import AuditFile
from verdictd_py.events.budgets import MAX_LIMITED_PER_MINUTE
from verdictd_py.events.chain import FIRST, sealed
from verdictd_py.events.heads import HeadSigner, HeadVerifier
from verdictd_py.events.log import LogEvents
from verdictd_py.events.loggedheads import LoggedHead
from verdictd_py.events.retention import Rotation
from verdictd_py.events.traildirectory import tail_of
from verdictd_py.events.trailfile import HEAD_RECORDS


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir()
    return directory


def first(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_bytes().splitlines()[0])
    assert record["event"] == AuditBegan.spec.name
    return record


def forge(members: dict[str, Any]) -> None:
    if members["fields"].get("kid") == "key-1":
        members["fields"]["kid"] = "other"


def test_runs_crashes_and_workers_verify(audit: Path) -> None:
    """Each file names those before it, whatever ended their writers."""
    run_once(audit, signer=SIGNER)
    crash_once(audit, signer=SIGNER)
    operator = opened(audit, signer=SIGNER)
    worker = opened(audit, writer="-worker1", signer=SIGNER)
    for number in range(3):
        worker.record(created(number))
        operator.record(created(number))
    worker.close()
    operator.close()
    crash_once(audit, 0)
    run_once(audit, signer=SIGNER)
    assert len(list(audit.glob("*.jsonl"))) == 6
    assert len(list(audit.glob(".*.state"))) == 1
    findings = check(audit)
    assert (findings.problems, findings.remarks) == ((), ())
    signed = check(audit, keys=[KEY])
    assert signed.problems == ()
    assert len(signed.remarks) == 2  # the two that were killed
    assert all("signed only by a later file" in remark for remark in signed.remarks)


@pytest.mark.parametrize("how", ["remove", "swap"])
def test_a_file_that_vanished_is_reported(audit: Path, how: str) -> None:
    files = [run_once(audit) for _ in range(3)]
    if how == "remove":
        files[1].unlink()
    else:
        shutil.copy(files[0], files[1])
    assert any(files[1].name in problem for problem in check(audit).problems)


@pytest.mark.parametrize("end", [run_once, crash_once])
def test_the_last_file_that_vanished_is_reported_after_the_next_start(
    audit: Path, end: Any
) -> None:
    run_once(audit)
    last = end(audit)
    last.unlink()
    following = run_once(audit)
    records = 6 if end is run_once else 5
    assert f"{last.name} missing {records}" in first(following)["fields"]["files"][0]
    (problem,) = check(audit).problems
    assert f"{last.name} is missing" in problem


def test_a_trail_cut_after_a_crash_is_reported_after_the_next_start(audit: Path) -> None:
    run_once(audit)
    crashed = crash_once(audit)
    cut(crashed, 1)
    run_once(audit)
    (problem,) = check(audit).problems
    assert "was cut before" in problem


def test_a_trail_cut_after_a_crash_and_a_start_is_reported(audit: Path) -> None:
    crashed = crash_once(audit)
    run_once(audit)
    cut(crashed, 1)
    (problem,) = check(audit).problems
    assert "was cut: it has 4 records" in problem


def test_a_trail_cut_after_a_crash_disagrees_with_the_head_in_the_log(audit: Path) -> None:
    """Nobody has started the broker again, and the attacker has removed the state file."""
    log = RecordedEvents()
    trail = AuditTrail(audit, log, signer=SIGNER)
    trail.open()
    for number in range(5):
        trail.record(created(number))
    trail.record_head()
    head = log.of(AuditHead)[-1].digest
    (file,) = audit.glob("*.jsonl")
    assert check(audit, expected=[head]).problems == ()
    cut(file, 2)
    for state in audit.glob(".*"):
        state.unlink()
    assert check(audit).problems == ()
    (problem,) = check(audit, expected=[head]).problems
    assert f"no record has the digest {head}" in problem


def test_a_file_written_again_disagrees_with_the_next(audit: Path) -> None:
    forged = run_once(audit)
    run_once(audit)
    rewrite(forged, forge)
    assert "states another digest" in check(audit).problems[0]


def test_the_whole_trail_written_again_has_no_good_signature(audit: Path) -> None:
    """An attacker without the key computes every digest again, in all files."""
    files = [run_once(audit, signer=SIGNER) for _ in range(2)]
    assert check(audit, keys=[KEY]).problems == ()
    rewrite(files[0], forge)
    digest = tail_of(files[0]).digest

    def rename(members: dict[str, Any]) -> None:
        if members["event"] == "audit.began":
            text = members["fields"]["files"][0]
            members["fields"]["files"] = [" ".join((*text.split(" ")[:3], digest))]

    rewrite(files[1], rename)
    assert check(audit).problems == ()
    assert "is not signed with the given key" in check(audit, keys=[KEY]).problems[0]


def test_unsigned_records_at_the_end_are_a_problem_if_a_broker_would_have_signed_them(
    audit: Path,
) -> None:
    trail = opened(audit, signer=SIGNER)
    for number in range(3):
        trail.record(created(number))
    running = check(audit, keys=[KEY])
    assert running.problems == ()
    assert "the last 4 records are not signed" in running.remarks[0]
    assert "the last 4 records are not signed" in check(audit, keys=[KEY], stopped=True).problems[0]
    trail.close()
    assert check(audit, keys=[KEY], stopped=True).problems == ()
    (file,) = audit.glob("*.jsonl")
    cut(file, 1)
    members = json.loads(file.read_bytes().splitlines()[-1])
    with file.open("ab") as stream:
        for _ in range(HEAD_RECORDS):  # as an attacker without the key goes on
            more = {k: v for k, v in members.items() if k not in ("digest", "previous")}
            line, _ = sealed({**more, "number": more["number"] + 1}, members["digest"])
            members = json.loads(line)
            stream.write(line)
    (problem,) = check(audit, keys=[KEY]).problems
    assert f"the last {HEAD_RECORDS + 4} records are not signed" in problem


@pytest.mark.parametrize("signer", [None, HeadSigner(Ed25519PrivateKey.generate())])
def test_a_trail_of_another_key_or_none_is_reported(audit: Path, signer: HeadSigner | None) -> None:
    run_once(audit, signer=signer)
    assert "no head is signed with the given key" in check(audit, keys=[KEY]).problems


def test_a_signature_of_another_file_does_not_count(audit: Path) -> None:
    file = run_once(audit, signer=SIGNER)
    (head,) = [json.loads(line)["fields"] for line in file.read_bytes().splitlines()[1:2]]
    assert KEY.accepts(head["signature"], file.name, 1, head["digest"])
    assert not KEY.accepts(head["signature"], "other.jsonl", 1, head["digest"])
    assert not KEY.accepts(head["signature"], file.name, 2, head["digest"])


def test_records_that_were_added_to_an_ended_file_are_reported(audit: Path) -> None:
    crashed = crash_once(audit)
    run_once(audit)
    data = crashed.read_bytes()
    members = json.loads(data.splitlines()[-1])
    more = {k: v for k, v in members.items() if k not in ("digest", "previous")}
    crashed.write_bytes(data + sealed({**more, "number": more["number"] + 1}, members["digest"])[0])
    (problem,) = check(audit).problems
    assert "records were added" in problem


def write_as_earlier_version(directory: Path, name: str, records: int = 3) -> Path:
    """Write a file of a version that did not connect its files."""
    data, previous = b"", FIRST
    for number in range(records):
        members = {"time": "2026-01-01T00:00:00+00:00", "event": "key.created", "number": number}
        line, previous = sealed({**members, "fields": {"kid": "a", "caller": "uid 0"}}, previous)
        data += line
    file = directory / name
    file.write_bytes(data)
    return file


def test_an_earlier_version_may_run_in_between(audit: Path) -> None:
    before = run_once(audit)
    old = write_as_earlier_version(audit, f"{before.name[:16]}-ffffffff.jsonl")
    (problem,) = check(audit).problems
    assert "an earlier version of the broker ran last; start this version" in problem
    run_once(audit, signer=SIGNER)
    findings = check(audit)
    assert not findings.problems
    assert any(old.name in remark and "earlier version" in remark for remark in findings.remarks)
    run_once(audit)
    assert not check(audit).problems
    cut(old, 1)
    problems = check(audit).problems
    assert problems
    assert all(old.name in problem and "was cut" in problem for problem in problems)


def test_a_file_that_was_added_is_reported(audit: Path) -> None:
    run_once(audit)
    other = audit.parent / "other"
    other.mkdir()
    foreign = run_once(other)
    run_once(audit)
    shutil.copy(foreign, audit)
    (problem,) = check(audit).problems
    assert "a file was added" in problem


def test_a_line_that_a_kill_has_cut_is_accepted_if_the_next_file_states_it(audit: Path) -> None:
    crashed = crash_once(audit)
    with crashed.open("ab") as stream:
        stream.write(b'{"digest":"12')
    (problem,) = check(audit).problems
    assert "line 6 has no end" in problem
    run_once(audit)
    findings = check(audit)
    assert findings.problems == ()
    assert "its writer was killed" in findings.remarks[0]
    os.truncate(crashed, crashed.stat().st_size - 1)
    assert "has no end" in check(audit).problems[0]


def test_a_time_that_decreases_is_reported(audit: Path) -> None:
    file = run_once(audit)

    def earlier(members: dict[str, Any]) -> None:
        if members["number"] == 3:
            members["time"] = "2020-01-01T00:00:00+00:00"

    rewrite(file, earlier)
    (remark,) = check(audit).remarks
    assert "line 4: the time decreases from" in remark


async def test_an_idle_trail_notices_that_its_file_was_removed(audit: Path) -> None:
    """Nothing is recorded meanwhile; the health check examines the trail."""
    log = RecordedEvents()
    trail = AuditTrail(audit, log)
    trail.open()
    assert await trail.examine() == ""
    (file,) = audit.glob("*.jsonl")
    file.unlink()
    assert "was removed; the trail continues in audit/" in await trail.examine()
    assert await trail.examine() == ""
    (continued,) = log.of(AuditContinued)
    assert continued.file == f"audit/{file.name}"
    trail.close()
    (problem,) = check(audit).problems
    assert f"{file.name} is missing" in problem


def test_counts_of_what_was_not_recorded_survive_a_kill(audit: Path) -> None:
    """They are in the first record of the next file."""
    trail = opened(audit, monotonic=Clock())
    for _ in range(MAX_LIMITED_PER_MINUTE + 7):
        trail.record(REFUSED)
    trail.record(created(0))
    crash(trail)
    following = run_once(audit)
    fields = first(following)["fields"]
    assert (fields["refusals"], fields["unauthenticated"], fields["failed"]) == (7, 7, 0)
    assert first(run_once(audit))["fields"]["refusals"] == 0


def test_a_count_that_was_recorded_is_not_counted_again(audit: Path) -> None:
    trail = opened(audit, monotonic=Clock())
    for _ in range(MAX_LIMITED_PER_MINUTE + 7):
        trail.record(REFUSED)
    trail.close()
    assert first(run_once(audit))["fields"]["refusals"] == 0


def test_a_head_is_due_after_a_number_of_records_and_after_a_time(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trailfile, "HEAD_RECORDS", 10)
    clock, log = Clock(), RecordedEvents()
    trail = AuditTrail(audit, log, signer=SIGNER, monotonic=clock)
    trail.open()
    for number in range(12):
        trail.record(created(number))
    assert [head.records for head in log.of(AuditHead)] == [1, 12]
    clock.now = trailfile.HEAD_SECONDS
    trail.record(created(12))
    assert [head.records for head in log.of(AuditHead)] == [1, 12, 16]
    trail.record_head()
    assert len(log.of(AuditHead)) == 3
    trail.record(created(13))  # the minute begins again
    assert len(log.of(AuditHead)) == 3
    trail.close()
    assert log.of(AuditHead)[-1].last is True
    assert check(audit, keys=[KEY]).problems == ()


def test_files_of_an_earlier_version_are_named_once(audit: Path) -> None:
    file = run_once(audit)
    kept = file.read_bytes().splitlines()[2:4]
    file.unlink()
    for state in audit.glob(".*"):
        state.unlink()
    data, previous = b"", FIRST
    for number, line in enumerate(kept):
        members = json.loads(line)
        more = {k: v for k, v in members.items() if k not in ("digest", "previous")}
        sealed_line, previous = sealed({**more, "number": number}, previous)
        data += sealed_line
    earlier = audit / "20250101T000000Z-00000000.jsonl"
    earlier.write_bytes(data)
    run_once(audit)
    run_once(audit)
    assert check(audit).problems == ()
    earlier.unlink()
    assert f"{earlier.name} is missing" in check(audit).problems[0]


def test_the_statements_of_many_files_are_divided_among_records(audit: Path) -> None:
    for number in range(150):
        (audit / f"20250101T000000Z-{number:08}.jsonl").touch()
    run_once(audit)
    assert check(audit).problems == ()
    (audit / "20250101T000000Z-00000149.jsonl").unlink()
    assert "00000149.jsonl is missing" in check(audit).problems[0]


def test_the_command_verifies_a_directory(
    audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [run_once(audit, signer=SIGNER) for _ in range(3)]
    assert command.run(["verify", str(audit)]) == 0
    assert "the signatures of the heads were not checked" in capsys.readouterr().out
    assert command.run(["verify", str(audit), "--key", SIGNER.public]) == 0
    assert "18 records are covered" not in capsys.readouterr().out
    head = tail_of(files[0]).digest
    assert command.run(["verify", str(audit), "--expect-head", head.upper()]) == 0
    assert command.run(["verify", str(audit), "--expect-head", "0" * 64]) == 1
    capsys.readouterr()
    assert command.run(["verify", str(audit), "--json"]) == 0
    verification = json.loads(capsys.readouterr().out)
    follows(verification, "audit-verification")
    assert verification["changed"] is False
    files[1].unlink()
    assert command.run(["verify", str(audit)]) == 1
    assert f"{files[1].name} is missing" in capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("harm", ["none", "cut", "remove", "rewrite"])
def test_the_heads_of_a_log_are_all_compared(
    audit: Path, tmp_path: Path, log_format: Literal["text", "json"], harm: str
) -> None:
    """Also those of a worker that was not the last to write."""
    lines: list[str] = []
    trails = [
        AuditTrail(audit, LogEvents(lines.append, log_format, worker=number), writer=writer)
        for number, writer in ((None, ""), (1, "-worker1"))
    ]
    for trail in trails:
        trail.open()
        for number in range(3):
            trail.record(created(number))
    trails[0].record(KeyCreated(caller='x 2026-01-01T00:00:00Z INFO audit.head file="a"', kid="k"))
    for trail in trails:
        trail.close()
    log = tmp_path / "log"
    log.write_text("".join(f"Nov 28 host broker[1]: {line}" for line in lines))
    run_once(audit)
    for state in audit.glob(".*"):
        state.unlink()
    (worker,) = audit.glob("*-worker1.jsonl")
    match harm:
        case "cut":
            cut(worker, 2)  # the last head, and what it states
        case "remove":
            worker.unlink()
        case "rewrite":
            rewrite(worker, forge)
    words = ["verify", str(worker if worker.exists() else audit), "--log", str(log)]
    assert command.run(words) == (0 if harm == "none" else 1)


def test_a_log_without_heads_proves_nothing(audit: Path, tmp_path: Path) -> None:
    run_once(audit)
    (tmp_path / "log").write_text("2026-01-01T00:00:00Z INFO daemon.stopping\n")
    with pytest.raises(ConfigError, match=r"has no lines audit\.head"):
        command.run(["verify", str(audit), "--log", str(tmp_path / "log")])


def test_a_file_that_was_compressed_and_moved_still_counts(audit: Path) -> None:
    files = [run_once(audit) for _ in range(3)]
    with gzip.open(files[0].with_suffix(".jsonl.gz"), "wb") as stream:
        stream.write(files[0].read_bytes())
    files[0].unlink()
    assert check(audit).problems == ()


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n", b"\xff" * 40])
def test_a_key_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="openssl genpkey -algorithm ed25519") as caught:
        HeadSigner.read(file)
    assert f"-out {file}" not in str(caught.value)  # the command would overwrite another key
    with pytest.raises(ConfigError, match="is not a public key"):
        HeadVerifier.of(str(file))


def test_a_hundred_kills_while_records_are_written_leave_a_trail_that_verifies(
    audit: Path,
) -> None:
    """Every acknowledged record is in it, and every file is connected to the next."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.events.killed", str(audit), "100", "1"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    acknowledged = set(ended.stdout.split())
    assert len(acknowledged) > 100
    findings = check(audit, keys=[KEY])
    assert findings.problems == ()
    recorded = {
        json.loads(line).get("fields", {}).get("kid")
        for path in audit.glob("*.jsonl")
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    }
    assert acknowledged <= recorded
    assert len(list(audit.glob("*.jsonl"))) > 60  # others were killed before they had a file


@pytest.mark.parametrize("suffix", ["", ".state"])
def test_a_named_pipe_does_not_stop_the_start(audit: Path, suffix: str) -> None:
    """Someone who can write the directory has put it there."""
    last = run_once(audit)
    path = audit / f".{last.name}.state" if suffix else last
    path.unlink()
    os.mkfifo(path)
    run_once(audit)
    if not suffix:
        path.unlink()
        assert check(audit).problems


def test_statements_that_cannot_be_read_are_a_problem(audit: Path) -> None:
    for value in (7, ["x"], [["x"]], "text"):
        file = run_once(audit)

        def damage(members: dict[str, Any], value: Any = value) -> None:
            if members["event"] == "audit.began":
                members["fields"]["files"] = value

        rewrite(file, damage)
        assert any("line 1" in text or "statement" in text for text in check(audit).problems)


def test_a_trail_that_is_written_meanwhile_verifies(audit: Path) -> None:
    """By two processes whose files state each other, and rotate."""
    trails = [opened(audit, writer=writer, rotation=Rotation(size=8192)) for writer in ("", "-w")]
    ended = threading.Event()

    def write(trail: AuditTrail) -> None:
        number = 0
        while not ended.is_set():
            trail.record(created(number))
            number += 1

    threads = [threading.Thread(target=write, args=(trail,)) for trail in trails]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert check(audit).problems == ()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        for trail in trails:
            trail.close()
    assert check(audit).problems == ()


async def test_the_health_reports_that_the_file_was_removed(broker: RunningBroker) -> None:
    """Once; after that the trail continues, and the broker is ready again."""
    health = broker.daemon._parts.health
    (file,) = (broker.data / "audit").glob("*.jsonl")
    file.unlink()
    for _ in range(2):  # the broker itself may examine meanwhile, and report it first
        await health.examine()
    assert health.parts["audit"]
    reported = [text for event in broker.events.of(WarningReadiness) for text in event.problems]
    assert len([text for text in reported if f"audit/{file.name} was removed" in text]) == 1
    assert len(broker.events.of(AuditContinued)) == 1


def test_a_file_that_is_removed_while_it_is_examined_was_not_renamed(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AuditFile.create(audit, 0o600)
    (path,) = audit.iterdir()

    def removed_before(name: str) -> os.stat_result:
        assert name == str(path)
        path.unlink()
        return os.lstat(name)

    # Only for this module: pytest itself calls os.lstat.
    monkeypatch.setattr(auditfile, "os", SimpleNamespace(fstat=os.fstat, lstat=removed_before))
    problem = file.problem
    monkeypatch.undo()
    file.close()
    assert problem == "was removed"


def test_a_file_that_only_the_log_names_is_missed(audit: Path) -> None:
    """Its state file was removed with it."""
    file = run_once(audit)
    head = LoggedHead(file.name, tail_of(file).records, tail_of(file).digest)
    for path in (file, *audit.glob(".*")):
        path.unlink()
    run_once(audit)
    assert check(audit).problems == ()
    (problem,) = check(audit, logged=[head]).problems
    assert f"{file.name} is missing: the log states" in problem
