"""Rotation without a gap, and retention with a proof of what was removed."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.events.test_audit import REFUSED, Clock
from tests.events.trails import KEY, SIGNER, check, crash, created, opened, run_once
from tests.support.clock import until
from tests.support.events import RecordedEvents
from verdictd_py.domain.events import AuditHead
from verdictd_py.events import audit as trail_module
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.budgets import MAX_LIMITED_PER_MINUTE
from verdictd_py.events.retention import Retention, Rotation
from verdictd_py.events.scan import files_of
from verdictd_py.events.traildirectory import first_of

DAY = 86_400


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir()
    return directory


def kids(directory: Path) -> list[str]:
    decoded = [
        json.loads(line) for path in files_of(directory) for line in path.read_bytes().splitlines()
    ]
    decoded.sort(key=lambda record: record["time"])
    return [r["fields"]["kid"] for r in decoded if r["event"] == "key.created"]


MONTH = Retention(seconds=30 * DAY, now=lambda: time.time() + 31 * DAY)
"""What is retained, a month later."""


def make_young(path: Path) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime, status.st_mtime + 31 * DAY))


def test_files_are_rotated_by_size_without_a_gap(audit: Path) -> None:
    trail = opened(audit, rotation=Rotation(size=4096), signer=SIGNER)
    for number in range(60):
        trail.record(created(number))
    trail.close()
    assert len(files_of(audit)) > 3
    assert max(path.stat().st_size for path in files_of(audit)) < 3 * 4096
    assert kids(audit) == [f"key-{number}" for number in range(60)]
    findings = check(audit, keys=[KEY])
    assert (findings.problems, findings.remarks) == ((), ())


def test_files_are_rotated_by_age(audit: Path) -> None:
    clock = Clock()
    trail = opened(audit, rotation=Rotation(seconds=3600), monotonic=clock)
    trail.record(created(0))
    clock.now = 3600
    trail.record(created(1))
    trail.close()
    first, second = files_of(audit)
    assert {first_of(first)["fields"]["reason"], first_of(second)["fields"]["reason"]} == {
        "start",
        "rotated",
    }
    assert check(audit).problems == ()


def test_a_rotated_file_that_vanished_is_reported(audit: Path) -> None:
    trail = opened(audit, rotation=Rotation(size=4096))
    for number in range(60):
        trail.record(created(number))
    trail.close()
    second = sorted(files_of(audit), key=lambda path: str(first_of(path)["time"]))[1]
    second.unlink()
    assert f"{second.name} is missing" in check(audit).problems[0]


def test_counts_are_not_counted_twice_after_a_rotation_and_a_kill(audit: Path) -> None:
    trail = opened(audit, rotation=Rotation(size=4096), monotonic=Clock())
    for _ in range(MAX_LIMITED_PER_MINUTE + 5):
        trail.record(REFUSED)
    for number in range(30):  # the file with the count is followed by others
        trail.record(created(number))
    crash(trail)
    fields = first_of(run_once(audit))["fields"]
    assert fields["refusals"] == 5


def test_old_files_are_removed_with_a_proof(audit: Path) -> None:
    old = [run_once(audit, signer=SIGNER) for _ in range(3)]
    trail = opened(audit, retention=MONTH, signer=SIGNER)
    trail.record(created(9))
    trail.prune()
    assert not any(path.exists() for path in old)
    trail.close()
    run_once(audit, signer=SIGNER)
    findings = check(audit, keys=[KEY])
    assert (findings.problems, findings.remarks) == ((), ())
    pruned = [
        json.loads(line)
        for path in files_of(audit)
        for line in path.read_bytes().splitlines()
        if b"audit.pruned" in line
    ]
    (fields,) = [record["fields"] for record in pruned]
    assert fields["records"] == 18
    assert {text.split()[0] for text in fields["files"]} == {path.name for path in old}
    assert all(" first=" in text for text in fields["files"])


def test_a_file_that_was_removed_by_hand_is_not_proved_by_another_removal(audit: Path) -> None:
    files = [run_once(audit) for _ in range(3)]
    for file in files[1:]:
        make_young(file)
    trail = opened(audit, retention=MONTH)
    trail.prune()
    trail.close()
    assert not files[0].exists()
    files[1].unlink()
    (problem,) = check(audit).problems
    assert f"{files[1].name} is missing" in problem


def test_the_oldest_files_are_removed_beyond_a_size(audit: Path) -> None:
    files = [run_once(audit, 20) for _ in range(4)]
    size = sum(path.stat().st_size for path in files[2:])
    trail = opened(audit, retention=Retention(size=size + 2000))
    trail.prune()
    left = [path for path in files if path.exists()]
    assert 1 <= len(left) <= 2
    trail.close()
    assert check(audit).problems == ()


def test_a_file_that_is_still_written_is_not_removed(audit: Path) -> None:
    """Nor is one that has ended and that no file has stated yet."""
    worker = opened(audit, writer="-worker1")
    trail = opened(audit, retention=Retention(size=1))
    crashed = opened(audit, writer="-worker2")
    crash(crashed)
    trail.prune()
    assert len(files_of(audit)) == 3
    worker.close()
    trail.close()
    assert check(audit).problems == ()


def test_a_damaged_file_is_not_removed(audit: Path) -> None:
    damaged = run_once(audit)
    damaged.write_bytes(b"\0" * 1000)
    run_once(audit)
    trail = opened(audit, retention=Retention(size=1))
    trail.prune()
    trail.close()
    assert damaged.exists()


async def test_each_minute_heads_are_written_and_files_removed(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "COUNT_SECONDS", 0)
    old, log = run_once(audit), RecordedEvents()
    signed = AuditTrail(audit, log, writer="-worker1", signer=SIGNER)
    pruning = opened(audit, retention=Retention(size=1))
    signed.open()
    signed.record(created(0))
    assert len(log.of(AuditHead)) == 1
    minutes = [asyncio.create_task(trail.keep_counting()) for trail in (signed, pruning)]
    await until(lambda: len(log.of(AuditHead)) == 2 and not old.exists())
    for minute in minutes:
        minute.cancel()
    await asyncio.gather(*minutes, return_exceptions=True)
    signed.close()
    pruning.close()


async def test_the_daemon_removes_files_each_minute(audit: Path) -> None:
    """Only the process of the operators does."""
    run_once(audit)
    for more in ({}, {"retention": Retention(size=1)}):
        options: dict[str, Any] = more
        trail = opened(audit, **options)
        trail.prune()
        trail.close()
    assert len(files_of(audit)) <= 2
