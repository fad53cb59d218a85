"""Further attacks on an audit trail: forged statements, copies, names, times, and odd files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.events.trails import (
    KEY,
    SIGNER,
    check,
    crash_once,
    created,
    cut,
    opened,
    rewrite,
    run_once,
)
from verdictd_py.cli import audit as command
from verdictd_py.events.chain import sealed
from verdictd_py.events.retention import Retention
from verdictd_py.events.statements import State, Statement
from verdictd_py.events.traildirectory import tail_of


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir()
    return directory


def forge(members: dict[str, Any]) -> None:
    if members["fields"].get("kid") == "key-1":
        members["fields"]["kid"] = "other"


def add(file: Path, event: str, **fields: Any) -> None:
    """Append a record as a program without the key can."""
    last = json.loads(file.read_bytes().splitlines()[-1])
    members = {"time": last["time"], "event": event, "number": last["number"] + 1, "fields": fields}
    with file.open("ab") as stream:
        stream.write(sealed(members, last["digest"])[0])


def pruned(file: Path, name: str | None = None) -> str:
    """Return the statement that a file was pruned."""
    tail = tail_of(file)
    return str(Statement(name or file.name, State.PRUNED, tail.records, tail.digest))


@pytest.mark.parametrize("which", ["state file", "audit file"])
def test_a_name_in_the_directory_states_nothing(audit: Path, which: str) -> None:
    """The broker itself would sign that a file was pruned, which someone removed."""
    run_once(audit, signer=SIGNER)
    victim = run_once(audit, signer=SIGNER)
    run_once(audit, signer=SIGNER)
    if which == "state file":
        (audit / f".{pruned(victim)} x.jsonl.state").touch()
    else:
        for state in audit.glob(".*.state"):
            state.unlink()
        (audit / f"{pruned(victim)} x.jsonl").touch()
    victim.unlink()
    run_once(audit, signer=SIGNER)
    assert any(f"{victim.name} is missing" in each for each in check(audit, keys=[KEY]).problems)


@pytest.mark.parametrize("digest", [b" partial=x first=y", b"\xff\n 0 0"])
def test_a_state_file_cannot_make_a_record_unreadable(audit: Path, digest: bytes) -> None:
    """The rest of the file would then not be verified."""
    run_once(audit)
    victim = run_once(audit)
    (state,) = audit.glob(".*.state")
    content = bytearray(state.read_bytes())
    content[16:80] = digest.ljust(64, b"0")
    state.write_bytes(content)
    victim.unlink()
    run_once(audit)
    (problem,) = check(audit).problems
    assert f"{victim.name} is missing" in problem


def test_only_a_record_of_the_pruning_states_that_a_file_was_pruned(audit: Path) -> None:
    victim = run_once(audit)
    last = run_once(audit)
    add(last, "audit.named", files=[pruned(victim)])
    victim.unlink()
    assert any(f"{victim.name} is missing" in each for each in check(audit).problems)


@pytest.mark.parametrize("then", ["nothing", "start"])
def test_a_pruning_that_is_not_signed_does_not_count(audit: Path, then: str) -> None:
    """The next start signs the end of a file as it finds it; not what that end claims to remove."""
    victim = run_once(audit, signer=SIGNER)
    last = crash_once(audit, signer=SIGNER)
    add(last, "audit.pruned", files=[pruned(victim)], records=6, reason="forged")
    victim.unlink()
    if then == "start":
        run_once(audit, signer=SIGNER)
    problems = check(audit, keys=[KEY]).problems
    assert any(f"{victim.name} is missing" in each for each in problems)


def test_a_pruning_of_the_broker_is_signed_at_once(audit: Path) -> None:
    for _ in range(3):
        old = run_once(audit, signer=SIGNER)
        os.utime(old, (0, 0))
    trail = opened(audit, signer=SIGNER, retention=Retention(size=1))
    trail.prune()
    assert len(list(audit.glob("*.jsonl"))) == 1
    assert check(audit, keys=[KEY]).problems == ()
    trail.close()
    assert check(audit, keys=[KEY], stopped=True).problems == ()


def test_a_date_of_a_file_does_not_have_it_pruned(audit: Path) -> None:
    """Who may write a file may set its date; the time of its last record is in the chain."""
    old = [run_once(audit), run_once(audit)]
    for file in old:
        os.utime(file, (0, 0))
    trail = opened(audit, retention=Retention(seconds=3600))
    trail.prune()
    assert all(file.exists() for file in old)
    trail.close()


def test_a_forged_copy_of_a_file_is_reported(audit: Path) -> None:
    """The original is elsewhere in the directory, so that everything is there."""
    victim = run_once(audit, signer=SIGNER)
    run_once(audit, signer=SIGNER)
    data = gzip.compress(victim.read_bytes())
    (audit / f"{victim.name}.gz").write_bytes(data)
    assert check(audit, keys=[KEY]).problems == ()
    rewrite(victim, forge)
    assert any("differs from" in each for each in check(audit).problems)
    assert any("differs from" in each for each in check(audit, keys=[KEY]).problems)


def test_files_whose_names_were_exchanged_are_reported(audit: Path) -> None:
    one, other = run_once(audit), run_once(audit)
    assert tail_of(one).records == tail_of(other).records
    run_once(audit)
    third = audit / "third"
    one.rename(third)
    other.rename(one)
    third.rename(other)
    problems = check(audit).problems
    assert any(f"{one}: has the records of {other.name}" in each for each in problems)


def test_a_trail_cut_at_a_signed_head_has_no_signed_end(audit: Path) -> None:
    """Nothing is unsigned then; but a broker that stops signs that this is the end."""
    file = run_once(audit, signer=SIGNER)
    assert check(audit, keys=[KEY], stopped=True).problems == ()
    cut(file, len(file.read_bytes().splitlines()) - 2)
    assert json.loads(file.read_bytes().splitlines()[-1])["event"] == "audit.head"
    (problem,) = check(audit, keys=[KEY], stopped=True).problems
    assert "its end is not signed" in problem

    def claim_last(members: dict[str, Any]) -> None:
        if members["event"] == "audit.head":
            members["fields"]["last"] = True

    rewrite(file, claim_last)
    problems = check(audit, keys=[KEY], stopped=True).problems
    assert any("is not signed with the given key" in each for each in problems)


def test_a_file_without_any_signature_is_reported(audit: Path) -> None:
    """It names the broker's file, as the file of another process does."""
    operator = opened(audit, signer=SIGNER)
    operator.record(created(0))
    forged = opened(audit, writer="-worker1")
    forged.record(created(1))
    problems = check(audit, keys=[KEY]).problems
    assert any("no record is signed" in each for each in problems)
    forged.close()
    operator.close()


def test_records_that_only_the_next_start_has_signed_are_named(audit: Path) -> None:
    crashed = crash_once(audit, signer=SIGNER)
    rewrite_end(crashed)
    run_once(audit, signer=SIGNER)
    findings = check(audit, keys=[KEY])
    assert findings.problems == ()
    assert any(
        f"{crashed}: the last 4 records were signed only by a later file" in each
        for each in findings.remarks
    )


def rewrite_end(file: Path) -> None:
    """Change a record after the last signed head."""
    lines = file.read_bytes().splitlines(keepends=True)
    previous = json.loads(lines[1])["digest"]
    for index, line in enumerate(lines[2:], 2):
        members = json.loads(line)
        forge(members)
        members = {k: v for k, v in members.items() if k not in ("digest", "previous")}
        lines[index], previous = sealed(members, previous)
    file.write_bytes(b"".join(lines))
    (state,) = file.parent.glob(".*.state")
    state.unlink()
    state.touch()


def test_a_file_that_could_not_be_read_at_a_start_is_reported(audit: Path) -> None:
    """Nothing states what it had, so that it can be written again at any time after that."""
    victim = run_once(audit)
    stored = victim.read_bytes()
    victim.unlink()
    victim.mkdir()
    run_once(audit)
    victim.rmdir()
    victim.write_bytes(stored)
    rewrite(victim, forge)
    assert any(victim.name in each for each in check(audit).problems)


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_dangling(path: Path) -> None:
    path.symlink_to("missing")


def put_directory(path: Path) -> None:
    path.mkdir()


ODD = pytest.mark.parametrize("put", [put_fifo, put_link, put_dangling, put_directory])


@ODD
def test_what_is_not_a_file_is_a_problem_and_hides_no_other(
    audit: Path, put: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = run_once(audit)
    other = run_once(audit)
    run_once(audit)
    victim.unlink()
    put(victim)
    cut(other, 1)
    assert command.run(["verify", str(audit)]) == 1
    printed = capsys.readouterr()
    assert f"{victim}: is not a regular file" in printed.err
    assert f"{other}: was cut" in printed.err
    for action in (["search"], ["tail"], ["export"]):
        assert command.run([*action, str(audit)]) == 0
        printed = capsys.readouterr()
        assert "key-2" in printed.out
        assert f"{victim}: is not a regular file" in printed.err


@ODD
@pytest.mark.parametrize("name", ["20000101T000000Z-00000000", "20990101T000000Z-00000000"])
def test_what_is_not_a_file_does_not_stop_a_broker(audit: Path, put: Any, name: str) -> None:
    old = run_once(audit)
    os.utime(old, (0, 0))
    put(audit / f"{name}.jsonl")
    put(audit / f".{name}.jsonl.state")
    trail = opened(audit, retention=Retention(size=1))
    trail.record(created(0))
    trail.prune()
    assert not old.exists()
    trail.close()


def test_a_pipe_that_someone_holds_open_does_not_stop_a_broker(audit: Path) -> None:
    run_once(audit)
    pipe = audit / "20990101T000000Z-00000000.jsonl"
    os.mkfifo(pipe)
    (audit / f".{pipe.name}.state").touch()
    writer = os.open(pipe, os.O_RDWR)
    try:
        trail = opened(audit, retention=Retention(size=1))
        trail.record(created(0))
        trail.prune()
        trail.close()
    finally:
        os.close(writer)


@pytest.mark.parametrize("at", [12, 60, -20])
def test_a_compressed_file_that_is_damaged_is_reported(
    audit: Path, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = run_once(audit)
    run_once(audit)
    data = bytearray(gzip.compress(victim.read_bytes()))
    data[at] ^= 0xFF
    (audit / f"{victim.name}.gz").write_bytes(data)
    victim.unlink()
    assert command.run(["verify", str(audit)]) == 1
    assert f"{victim.name}.gz: " in capsys.readouterr().err
    assert command.run(["search", str(audit)]) == 0
    assert "key-2" in capsys.readouterr().out


def test_a_line_without_end_is_reported_in_bounded_memory(
    audit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = run_once(audit)
    run_once(audit)
    with victim.open("r+b") as stream:
        stream.truncate(1 << 40)  # zeros, which take no space
    assert command.run(["verify", str(audit)]) == 1
    assert "line 7" in capsys.readouterr().err


def test_a_name_of_a_file_is_displayed_with_escapes(
    audit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_once(audit)
    file = run_once(audit)
    file.rename(audit / "x\x1b[2J\n.jsonl")
    command.run(["verify", str(audit)])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
